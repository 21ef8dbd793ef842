"""The owner of all state. Two ways in: ``tick`` once a second, ``handle`` for a command; one lock, so one at a time.

Order of every change (DESIGN §3, "acknowledged means in force"): the intent on disk, the files HAProxy starts from,
every live worker, read back, and only then "no worker exists that could have read the older files".
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from lbagent.cluster.cluster import View
from lbagent.errors import HAProxyError, LbagentError, StoreError
from lbagent.guard import file_names, guard_map, intent_copy
from lbagent.haproxy.instance import HAProxy
from lbagent.model.actions import Action, CutSessions, ProveHealth, WriteFile
from lbagent.model.intent import Intent, Mode, Phase, Stamp
from lbagent.model.observed import Observed, Stream
from lbagent.model.servers import Ref
from lbagent.rules import barrier
from lbagent.rules.barrier import Key
from lbagent.rules.changes import Change, Decision, decide
from lbagent.rules.life import advance
from lbagent.rules.operations import Operation, Situation, begin, judge
from lbagent.rules.plan import AWAY, Desired, address, desired, plan
from lbagent.rules.status import status
from lbagent.settings.config import Config
from lbagent.store.codec import Damaged
from lbagent.store.history import History
from lbagent.store.protocol import Store
from lbagent.topology.resolve import Topology, topology

log = logging.getLogger(__name__)
T = TypeVar("T")

TICK = 1.0  # seconds between two ticks when nothing waits
BUSY = 0.05  # seconds between two ticks while a command waits
ROUNDS = 4  # observe and perform at most so often in one tick
KEPT = 200  # ended operations that can still be asked for


class Agent:
    """``digest`` is that of the bypass secret; ``clock`` gives seconds since 1970."""

    def __init__(
        self,
        config: Config,
        store: Store[Intent],
        balancer: HAProxy,
        history: History,
        digest: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.history = history
        self._store, self._balancer, self._digest, self._clock = store, balancer, digest, clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="haproxy")
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()
        self.looked = asyncio.Event()  # HAProxy was asked at least once
        self._proved: set[Ref] = set()
        self._barriers: dict[str, dict[Key, Stream] | None] = {}
        self._known = False  # the intent was read or rebuilt
        self.intent = Intent()
        self.observed = Observed(up=False, error="HAProxy has not been asked yet")
        self.topology: Topology = topology(config, {})
        self.operations: dict[str, Operation] = {}
        self.confirmed = -1
        self._settled = False  # every worker was read at the last tick, and none had appeared meanwhile
        self._wanted: Desired | None = None
        self._unwritten: tuple[str, ...] = ()
        self._answered = -math.inf  # when HAProxy did last, by the monotonic clock
        self._astray = ""  # why the virtual address does not move
        self._stuck = ""  # why the intent cannot move on: its store does not take it
        self.in_sync = False
        self.trouble = ""
        self.failures: tuple[str, ...] = ()
        self.repaired = self.errors = self.reloads = 0
        self.durations: list[float] = []  # of ticks, until the metrics fetch them

    # ------------------------------------------------------------------------------------------ ticking

    async def run(self, alive: Callable[[], None]) -> None:
        """Tick for ever; ``alive`` is called after each, which is what the watchdog is fed from."""
        while True:
            await self.tick()
            alive()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    def _pause(self) -> float:
        """Seconds until the next tick."""
        return BUSY if self._waited_for() or self._pending_barriers() else TICK

    def _waited_for(self) -> bool:
        return any(operation.state == "running" for operation in self.operations.values())

    async def tick(self) -> None:
        async with self._lock:
            await self._tick()

    async def _tick(self, look: bool = True) -> None:
        started = time.monotonic()
        try:
            if look:
                await self._see()
            if not self._known:
                await self._learn()
            if self._known:
                await self._follow()
                await self._reconcile()
        except (LbagentError, OSError) as error:
            self.errors += 1
            self.in_sync = self._settled = False
            if self.failures != (str(error),):
                log.error("%s", error)
            self.failures = (str(error),)
        except Exception:
            # The loop outlives a defect: fail static, count it, show it.
            self.errors += 1
            self.in_sync = self._settled = False
            self.failures = ("lbagent met a defect, its log has the details; what is in force stays",)
            log.exception("tick failed")
        self.durations.append(time.monotonic() - started)
        self.looked.set()
        await self._judge()

    async def _see(self) -> None:
        before = self.observed
        self.observed = await self._off_loop(self._balancer.observe)
        if self.observed.up:
            self._answered = time.monotonic()
        self.topology = topology(self.config, self.observed.backends)
        if self.observed.up != before.up or self.observed.error != before.error:
            log.log(
                logging.INFO if self.observed.up else logging.WARNING,
                "HAProxy %s answers" if self.observed.up else "%s",
                self.observed.version if self.observed.up else self.observed.error,
            )
        if self.observed.up and before.pid and self.observed.pid != before.pid:
            self.reloads += 1
            self._proved.clear()  # the new worker has not heard that checks have to begin afresh
            log.info("HAProxy has a new worker, %d after %d", self.observed.pid, before.pid)

    async def _follow(self) -> None:
        """Take over what the whole control plane was asked for; an HAProxy of its own has nobody to follow."""

    def _up_to_date(self) -> bool:
        """Nothing newer was asked for that this HAProxy does not know of."""
        return True

    def _together(self) -> frozenset[tuple[str, str]]:
        """The (node, service) that come back on every HAProxy at once."""
        return frozenset()

    def _view(self) -> View | None:
        """What the other HAProxies report."""
        return None

    def number(self) -> int:
        """The revision that commands and status speak of."""
        return self.intent.revision

    async def _learn(self) -> None:
        """Read the intent; rebuild a missing, damaged or older one from what HAProxy and its files hold."""
        try:
            stored, damaged = await self._store.read(), False
            why = "" if stored else "no intent is stored"
        except Damaged as error:
            stored, damaged, why = None, True, error.message
        held = self._held_by_haproxy()
        if stored is not None and (held is None or held.revision <= stored.revision):
            self.intent, self._known, self.trouble = stored, True, ""
        elif held is not None:
            if stored is not None:
                why = f"the stored intent is revision {stored.revision}, HAProxy holds {held.revision}"
            if held.revision or stored is not None or damaged:
                log.warning("%s: rebuilt from what HAProxy holds", why)
                self.intent = await self._adopt(held, stored)
            else:
                self.intent = held
            self._known, self.trouble = True, ""
        else:
            self.trouble = f"{why}, and HAProxy and its files hold none: nothing is touched until HAProxy answers"
            return
        self._forget_barriers(Intent(), self.intent)

    async def _adopt(self, held: Intent, stored: Intent | None) -> Intent:
        """Store what HAProxy holds, so that it is known again."""
        return await self._store.swap(stored.revision if stored else held.revision, held)

    def _held_by_haproxy(self) -> Intent | None:
        """The newest intent that the running map or its file carries; None when neither can be read."""
        sources = []
        if self.observed.up and self.observed.table is not None:
            sources.append(self.observed.table)
        if file_names.MAP in self.observed.files:
            sources.append(guard_map.parse_map_text(self.observed.files[file_names.MAP]))
        if self.observed.up and not sources:
            return Intent()  # nothing was ever guarded here: nothing is in maintenance
        found = []
        for source in sources:
            try:
                found.append(intent_copy.intent_from(source))
            except (msgspec.DecodeError, ValueError) as error:
                log.warning("a copy of the intent in HAProxy's map cannot be read: %s", error)
        return max(found, key=lambda intent: intent.revision, default=None)

    async def _reconcile(self) -> None:
        """Perform the difference until there is none, and read back."""
        quiet = self.confirmed >= self.intent.revision and self.in_sync
        self.failures = ()
        await self._tell_keepalived(in_force=False)
        before = self._wanted
        for _ in range(ROUNDS):
            await self._advance()
            self._settled = False
            actions = self._plan()
            if not actions:
                break
            drift = [a for a in actions if not isinstance(a, CutSessions | ProveHealth)]
            quiet = quiet and self.confirmed >= self.intent.revision and self._wanted == before
            if quiet and drift:
                self.repaired += len(drift)
                log.warning("repairing drift: %s", "; ".join(map(_describe, drift[:5])))
            failed = await self._off_loop(self._balancer.perform, actions)
            if not failed:
                self._proved |= {a.ref for a in actions if isinstance(a, ProveHealth)}
            await self._see()
            if failed:
                self.failures = tuple(failed)
                self.errors += 1
                log.error("%s", "; ".join(failed))
                break
        left = [a for a in self._plan() if not isinstance(a, CutSessions)]
        self._unwritten = self.failures if any(isinstance(a, WriteFile) for a in left) else ()
        if self.observed.up and not left and not self.failures:
            await self._confirm()
        self.in_sync = self._settled
        astray = await self._tell_keepalived(in_force=self._settled and self._up_to_date())
        if astray != self._astray:
            log.log(logging.ERROR if astray else logging.INFO, "%s", astray or "keepalived hears of drains again")
        self._astray = astray

    async def _tell_keepalived(self, in_force: bool) -> str:
        """The virtual address goes before anything is done, and comes after all of it. Why it cannot be said, or ""."""
        actions = address(self.config, self.intent, self.observed, in_force)
        failed = await self._off_loop(self._balancer.perform, actions) if actions else []
        for written in actions if not failed else ():
            log.info("the virtual address %s", "goes" if written.text == AWAY else "may come")
            self.observed = replace(self.observed, files=self.observed.files | {written.name: written.text})
        return "; ".join(f"{why}: keepalived does not hear of drains" for why in failed)

    def _plan(self) -> list[Action]:
        want = desired(self.config, self.intent, self.topology, self.observed, self._digest)
        self._wanted = want
        return plan(want, self.intent, self.observed, self._proved, self._clock())

    async def _advance(self) -> None:
        moved = advance(self.intent, self.observed, self._proved, self._clock(), self._settled, self._together())
        if moved is not self.intent and moved != self.intent:
            held = {ref for ref, (_, _, d, _) in moved.held().items() if d.phase is Phase.RETURNING}
            self._proved &= held
            try:
                self.intent = await self._store.swap(self.intent.revision, moved)
            except StoreError as error:  # what is in force stays, and is tried again at the next tick
                if self._stuck != error.message:
                    log.error("%s", error.message)
                self._stuck = error.message
                return
        self._stuck = ""

    async def _confirm(self) -> None:
        """The last step of a change: no worker exists that was not read back.

        Streams are listed before that is asked: what a worker that is unknown here holds must not be missed.
        """
        try:
            held = await self._off_loop(self._balancer.streams, self.observed) if self._pending_barriers() else None
            settled = await self._off_loop(self._balancer.settled, self.observed)
        except HAProxyError as error:
            self.failures = (f"{error.message} (a reload may be under way)",)
            return
        if not settled:
            return
        self._settled = True
        self.confirmed = self.intent.revision
        if held is not None:
            self._barrier(held)

    # ----------------------------------------------------------------------------------------- barriers

    def _pending_barriers(self) -> bool:
        now = self._clock()
        return any(
            self._barriers.get(name) != {}
            for name, service in self.intent.services.items()
            if service.effective(now) is not Mode.UP
        )

    def _barrier(self, held: list[Stream]) -> None:
        now = self._clock()
        for name, service in self.intent.services.items():
            mode = service.effective(now)
            if mode is Mode.UP:
                continue
            before = self._barriers.get(name)
            self._barriers[name] = (
                barrier.held_up(held, service.keys, mode) if before is None else barrier.still(before, held)
            )

    def _forget_barriers(self, before: Intent, after: Intent) -> None:
        """A service whose mode or keys changed is waited for anew."""
        for name in set(before.services) | set(after.services):
            old, new = before.services.get(name), after.services.get(name)
            if new is None:
                self._barriers.pop(name, None)
            elif old is None or (old.mode, old.keys, old.at_once) != (new.mode, new.keys, new.at_once):
                self._barriers[name] = None

    # ----------------------------------------------------------------------------------------- commands

    async def handle(self, change: Change, by: str) -> Operation | dict[str, Any]:
        """Carry a change out, or with ``dry_run`` say what would be done. LbagentError is a refusal."""
        if change.local:
            raise LbagentError("bad_request", "local: this HAProxy shares its intent with no other")
        async with self._lock:
            await self._learned()
            now = self._clock()
            decision = decide(self.config, self.topology, self.observed, self.intent, change, now, by)
            if change.dry_run:
                return self._dry_run(decision.intent, decision.notes)
            await self._take(decision.intent)
            return await self._begin(decision, change, by, now)

    async def _begin(
        self, decision: Decision, change: Change, by: str, now: float, stamp: Stamp | None = None
    ) -> Operation:
        """The operation of a change that is stored, after its first tick."""
        number = f"{self.intent.revision}-{len(self.operations) + 1}-{int(now)}"
        revision = stamp.revision if stamp else self.number()
        operation = begin(number, decision, revision, by, change.reason, now, change.local, stamp)
        self.operations[number] = operation
        log.info("%s by %s: %s", operation.command, by, change.reason or "no reason given")
        await self._tick(look=False)
        self._wake.set()
        return self.operations[number]

    async def _take(self, intent: Intent) -> None:
        """Store an intent that was decided, and go by it from now on."""
        before = self.intent
        if intent == before:
            return
        await self._room_for(intent)
        try:
            self.intent = await self._store.swap(before.revision, intent)
        finally:
            await self._off_loop(self._balancer.release)
        self._forget_barriers(before, self.intent)

    async def _learned(self) -> None:
        """Look, and have an intent to go by."""
        await self._see()
        if not self._known:
            await self._learn()
        if not self._known:
            raise LbagentError("intent_unreadable", self.trouble)

    async def forget(self, node: str, by: str) -> None:  # noqa: ARG002 what a member of several does
        """End what is remembered of another HAProxy's agent."""
        raise LbagentError(
            "unknown_node", f"no agent of {node} is remembered: this HAProxy shares its intent with no other"
        )

    async def _room_for(self, intent: Intent) -> None:
        """A disk that is full is found before the intent is stored, so that nothing is half done."""
        want = desired(self.config, intent, self.topology, self.observed, self._digest)
        try:
            await self._off_loop(self._balancer.reserve, want.files)
        except OSError as error:
            raise StoreError(
                f"{self.config.haproxy.state_dir} cannot be written, nothing was changed: {error.strerror}"
            ) from error

    def _dry_run(self, intent: Intent, notes: tuple[str, ...]) -> dict[str, Any]:
        want = desired(self.config, intent, self.topology, self.observed, self._digest)
        steps = plan(want, intent, self.observed, self._proved, self._clock())
        return {"dry_run": True, "notes": list(notes), "plan": [_describe(step) for step in steps]}

    async def reconfigure(self, config: Config, balancer: HAProxy, digest: str | None) -> None:
        """Use another configuration from the next tick on; no intent ends by it."""
        async with self._lock:
            self.config, self._balancer, self._digest = config, balancer, digest
        self._wake.set()

    # --------------------------------------------------------------------------------------- operations

    def _situation(self) -> Situation:
        return Situation(
            intent=self.intent,
            observed=self.observed,
            barriers=self._barriers,
            confirmed=self.number() if self._settled and self.confirmed >= self.intent.revision else -1,
            failures=self.failures,
            unwritten=self._unwritten,
            down_for=time.monotonic() - self._answered,
            now=self._clock(),
            node=self.config.node,
            view=self._view(),
        )

    async def _judge(self) -> None:
        situation = self._situation()
        for number, operation in list(self.operations.items()):
            if operation.state != "running":
                continue
            judged = judge(operation, situation)
            self.operations[number] = judged
            if judged.state != "running":
                await asyncio.to_thread(self.history.add, msgspec.to_builtins(judged))
        for number in [n for n, o in self.operations.items() if o.state != "running"][:-KEPT]:
            del self.operations[number]
        async with self._moved:
            self._moved.notify_all()

    async def follow(self, number: str) -> AsyncIterator[Operation]:
        """The operation whenever it changes, until it has ended. LbagentError when there is none."""
        last: Operation | None = None
        while True:
            operation = self.operations.get(number)
            if operation is None:
                raise LbagentError("not_found", f"no operation {number}")
            if operation != last:
                last = operation
                yield operation
            if operation.state != "running":
                return
            async with self._moved:
                await self._moved.wait()

    async def history_grows(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The history now, and again whenever it may have grown."""
        while True:
            yield await asyncio.to_thread(self.history.read)
            async with self._moved:
                await self._moved.wait()

    def status(self) -> dict[str, Any]:
        """Never asks HAProxy: the last tick's view, at most a second old."""
        return status(
            self.config.node,
            self.topology,
            self.intent,
            self.observed,
            self._barriers,
            in_sync=self.in_sync,
            trouble=self.trouble or "; ".join(filter(None, self._troubles())),
            now=self._clock(),
            revision=self.number(),
            view=self._view(),
        )

    def _troubles(self) -> tuple[str, ...]:
        return (*self.failures, self._stuck, self._astray)

    async def _off_loop(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _describe(action: Action) -> str:
    name = type(action).__name__
    match action:
        case _ if hasattr(action, "ref"):
            detail = " ".join(str(getattr(action, f)) for f in action.__struct_fields__)
        case _ if hasattr(action, "name"):
            detail = str(action.name)
        case _:
            detail = f"worker {action.pid}" if getattr(action, "pid", None) else ""
    return f"{name} {detail}".strip()
