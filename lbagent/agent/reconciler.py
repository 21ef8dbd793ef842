"""One HAProxy made to hold what its intent says: look, work out the difference, perform it, read back.

Why "in sync" is true when it is said. The order of every change is: the intent on disk, the files that HAProxy starts
from on disk, every live worker told, and what each holds read back. A worker that starts after the files were renamed
reads the new ones. A worker that started before may have read the older files, so the last step asks once more which
workers there are: if one was not among those just read, the round is not settled and is gone through again. Only a
settled round confirms a revision.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from lbagent.agent.barriers import Barriers
from lbagent.agent.clock import Clock
from lbagent.agent.fed import Fed
from lbagent.agent.own_intent import OwnIntent
from lbagent.agent.running_checks import RunningChecks
from lbagent.agent.steps import describe
from lbagent.errors import HAProxyError, StoreError
from lbagent.haproxy.instance import HAProxy
from lbagent.model.actions import Action, CutSessions, ProveHealth, WriteFile
from lbagent.model.intent import Intent, Phase
from lbagent.model.observed import Observed
from lbagent.model.servers import Ref
from lbagent.model.subject import Subject
from lbagent.rules.drains import advance
from lbagent.rules.opening import advance_openings
from lbagent.rules.plan import AWAY, Desired, address, desired, plan
from lbagent.rules.request import Site
from lbagent.settings.config import Config
from lbagent.topology.covered import cover
from lbagent.topology.resolve import topology

log = logging.getLogger(__name__)
T = TypeVar("T")

ROUNDS = 4  # observe and perform at most so often in one tick


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How HAProxy is doing by its intent, as of the last tick."""

    settled: bool = False  # every worker holds the intent and was read, and none has appeared since
    confirmed: int = -1  # the newest revision of its own intent that was settled
    failures: tuple[str, ...] = ()
    unwritten: tuple[str, ...] = ()  # of the failures, those that keep HAProxy's files from being right
    address: str = ""  # why keepalived does not hear of drains


class Reconciler:
    """``digest`` is that of the bypass secret."""

    def __init__(self, config: Config, haproxy: HAProxy, digest: str | None = None, clock: Clock | None = None) -> None:
        self.config = config
        self._haproxy, self._digest, self.clock = haproxy, digest, clock or Clock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="haproxy")
        self.observed = Observed(up=False, error="HAProxy has not been asked yet")
        self.topology = topology(config, {})
        self.condition = Condition()
        self.barriers = Barriers()
        self.proved: set[Ref] = set()  # servers whose checks began afresh at our word, or never stopped
        self._checks = RunningChecks()
        self._fed = Fed()
        self.answered = -math.inf  # when HAProxy did last, by the monotonic clock
        self.repaired = self.errors = self.reloads = 0
        self._wanted: Desired | None = None

    @property
    def site(self) -> Site:
        return Site(self.config, self.topology, self.observed)

    # --------------------------------------------------------------------------------------- looking

    async def look(self, own: OwnIntent) -> None:
        """Ask HAProxy and read its files; learn the intent where it is not known yet."""
        before = self.observed
        seen = await self._off_loop(self._haproxy.observe)
        self.observed = seen = replace(seen, fed=self._fed.of(before, seen))
        if seen.up:
            self.answered = time.monotonic()
        self.topology = topology(self.config, seen.backends)
        if (seen.up, seen.error) != (before.up, before.error):
            if seen.up:
                log.info("HAProxy %s answers", seen.version)
            else:
                log.warning("%s", seen.error)
        if seen.up and before.pid and seen.pid != before.pid:
            self.reloads += 1
            self.proved.clear()  # the new worker has not heard that checks have to begin afresh
            log.info("HAProxy has a new worker, %d after %d", seen.pid, before.pid)
        if not own.known:
            await own.learn(seen)

    async def has_new_worker(self) -> bool:
        """A reload has happened since the last look."""
        return self.observed.up and not await self._off_loop(self._haproxy.is_current, self.observed.pid)

    # ----------------------------------------------------------------------------------- reconciling

    async def reconcile(self, own: OwnIntent, together: frozenset[Subject], up_to_date: bool) -> None:
        """Perform the difference until there is none, and read back."""
        intent = own.intent
        quiet = self.condition.settled and self.condition.confirmed >= intent.revision
        confirmed, before = self.condition.confirmed, self._wanted
        failures: tuple[str, ...] = ()
        settled = self.condition.settled
        await self._tell_keepalived(own.intent, in_force=False)
        for _ in range(ROUNDS):
            await self._advance(own, settled, together)
            settled = False
            actions = self._plan(own.intent)
            if not actions:
                break
            if quiet and confirmed >= own.intent.revision and self._wanted == before:
                self._count_drift(actions)
            failures = tuple(await self._perform(actions, own))
            if failures:
                break
        left = [a for a in self._plan(own.intent) if not isinstance(a, CutSessions)]
        unwritten = failures if any(isinstance(a, WriteFile) for a in left) else ()
        if self.observed.up and not left and not failures:
            settled, failures = await self._settle(own.intent)
        if settled:
            confirmed = own.intent.revision
        trouble = await self._tell_keepalived(own.intent, in_force=settled and up_to_date)
        if trouble != self.condition.address:
            log.log(logging.ERROR if trouble else logging.INFO, "%s", trouble or "keepalived hears of drains again")
        self.condition = Condition(
            settled=settled, confirmed=confirmed, failures=failures, unwritten=unwritten, address=trouble
        )

    def failed(self, why: str) -> None:
        """The tick could not be carried out; what is in force stays."""
        self.errors += 1
        self.condition = replace(self.condition, settled=False, failures=(why,))

    async def _perform(self, actions: list[Action], own: OwnIntent) -> list[str]:
        failed = await self._off_loop(self._haproxy.perform, actions)
        if failed:
            self.errors += 1
            log.error("%s", "; ".join(failed))
        else:
            self.proved |= {a.ref for a in actions if isinstance(a, ProveHealth)}
        await self.look(own)
        return failed

    def _count_drift(self, actions: list[Action]) -> None:
        """Somebody else has changed what was right at the last tick."""
        drift = [a for a in actions if not isinstance(a, CutSessions | ProveHealth)]
        if drift:
            self.repaired += len(drift)
            log.warning("repairing drift: %s", "; ".join(map(describe, drift[:5])))

    async def _advance(self, own: OwnIntent, settled: bool, together: frozenset[Subject]) -> None:
        covered = cover(own.intent, self.topology, self.observed)
        self.proved |= self._checks.need_no_proof(covered, self.observed)
        covered = advance_openings(covered, self.topology, self.observed, self.clock.steady(), together)
        moved = advance(covered, self.observed, self.proved, self.clock.now(), settled, together, self.clock.steady())
        if moved is not own.intent:
            self.proved &= {ref for ref, hold in moved.held().items() if hold.drain.phase is Phase.RETURNING}
        await own.move_on(moved)

    def _desired(self, intent: Intent) -> Desired:
        return desired(self.config, intent, self.topology, self.observed, self._digest, self.clock.now())

    def _plan(self, intent: Intent) -> list[Action]:
        self._wanted = self._desired(intent)
        return plan(self._wanted, intent, self.observed, self.proved, self.clock.steady())

    async def _settle(self, intent: Intent) -> tuple[bool, tuple[str, ...]]:
        """The last step of a change: whether no worker exists that was not read back, or why that is not known.

        Streams are listed before that is asked: what a worker that is unknown here holds must not be missed.
        """
        now = self.clock.now()
        try:
            pending = self.barriers.pending(intent, now)
            streams = await self._off_loop(self._haproxy.streams, self.observed) if pending else None
            settled = await self._off_loop(self._haproxy.settled, self.observed)
        except HAProxyError as error:
            return False, (f"{error.message} (a reload may be under way)",)
        if settled and streams is not None:
            self.barriers.record(streams, intent, self.clock.now())
            await self._cut_late(intent)
        return settled, ()

    async def _cut_late(self, intent: Intent) -> None:
        """``--kill``: end the requests from before a mode that are left at its deadline."""
        now = self.clock.steady()
        for name, held in self.barriers.of(intent).items():
            service = intent.services[name]
            late = service.kill and service.deadline is not None and now >= service.deadline
            if late and held:
                log.warning("%s: %d requests from before are ended: their deadline has passed", name, len(held))
                await self._off_loop(self._haproxy.cut_streams, list(held.values()), self.observed.pid)

    async def _tell_keepalived(self, intent: Intent, in_force: bool) -> str:
        """The virtual address leaves before anything is done, and comes back after all of it. Why it cannot, or ""."""
        actions = address(self.config, intent, self.observed, in_force)
        failed = await self._off_loop(self._haproxy.perform, actions) if actions else []
        for written in actions if not failed else ():
            log.info("the virtual address %s", "goes" if written.text == AWAY else "may come")
            self.observed = replace(self.observed, files=self.observed.files | {written.name: written.text})
        return "; ".join(f"{why}: keepalived does not hear of drains" for why in failed)

    # -------------------------------------------------------------------------------------- commands

    def preview(self, intent: Intent) -> tuple[str, ...]:
        """The steps that ``intent`` would take."""
        want = self._desired(intent)
        return tuple(describe(step) for step in plan(want, intent, self.observed, self.proved, self.clock.steady()))

    async def store(self, own: OwnIntent, intent: Intent) -> None:
        """Store an intent that was decided. A disk that is full is found first, so that nothing is half done."""
        if intent == own.intent:
            return
        await self.make_room(intent)
        try:
            await own.replace(intent)
        finally:
            await self.release_room()

    async def make_room(self, intent: Intent) -> None:
        """Take the room on disk that ``intent`` needs, until :meth:`release_room`; StoreError when there is none."""
        want = self._desired(intent)
        try:
            await self._off_loop(self._haproxy.reserve, want.files)
        except OSError as error:
            raise StoreError(
                f"{self.config.haproxy.state_dir} cannot be written, nothing was changed: {error.strerror}"
            ) from error

    async def release_room(self) -> None:
        await self._off_loop(self._haproxy.release)

    def reconfigure(self, config: Config, haproxy: HAProxy, digest: str | None) -> None:
        self.config, self._haproxy, self._digest = config, haproxy, digest

    async def _off_loop(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
