"""An agent that shares its intent with those of other HAProxies (cluster.py has the theory, sharing.py the store).

Two loops: the tick of every agent, which never waits for etcd, and :meth:`keep_in_touch`, which does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from msgspec.structs import replace

from lbagent import __version__
from lbagent.agent.agent import BUSY, TICK, Agent
from lbagent.agent.sharing import Sharing
from lbagent.cluster import cluster
from lbagent.cluster.cluster import Member, View
from lbagent.errors import Conflict, LbagentError, StoreError
from lbagent.haproxy.instance import HAProxy
from lbagent.model.intent import GUARD_GONE, Drain, Exceptional, Intent, Phase, ServiceIntent, Shared, Stamp
from lbagent.rules.changes import Change, Decision, NodeChange, decide
from lbagent.rules.life import node_well
from lbagent.rules.operations import PATIENCE, Operation, open_lines
from lbagent.rules.status import agents
from lbagent.settings.config import Config
from lbagent.store.history import History
from lbagent.store.protocol import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 20  # times that a command is decided anew because another was quicker
LONGEST = 4.5  # seconds for a command to be decided and stored: lbctl waits five for an answer
ELECTION = 10.0  # seconds within which an etcd that does not answer is expected to answer again
GLANCE = 1.5  # seconds that etcd is given to show that it is there
WATCHED = 0.1  # seconds between two looks while a command waits for the others
ALONE = 0.3  # seconds between two looks while etcd does not answer
OTHERS_WAIT = 0.2  # seconds between two ticks while another agent may wait for this HAProxy


class MemberAgent(Agent):
    def __init__(
        self,
        config: Config,
        store: Store[Intent],
        balancer: HAProxy,
        history: History,
        sharing: Sharing,
        digest: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(config, store, balancer, history, digest, clock)
        self.sharing = sharing
        self._touch = asyncio.Event()  # something is to be reported, or to be looked at:
        self._look_again = True
        self._in_force: Stamp | None = None  # the newest shared revision that every worker was read back with
        self._told: tuple[Member, tuple[str, ...]] | None = None  # what the last tick would report
        self._refused: dict[str, str] = {}  # subject of a --local change → why the others cannot follow it

    # -------------------------------------------------------------------------------------- two loops

    async def run(self, alive: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run(alive))
            group.create_task(self.keep_in_touch())
            group.create_task(self._listen())
            group.create_task(self._glance())

    async def keep_in_touch(self) -> None:
        """Look, move on what all have to agree about, report; for ever. What is only to be reported needs no look."""
        due = 0.0  # when to look again, by the monotonic clock
        while True:
            look = self._look_again or time.monotonic() >= due
            try:
                await self._share(look)
            except Conflict:
                self._look_at_once()  # another agent was quicker
                await asyncio.sleep(BUSY)
            except StoreError:
                pass  # said and kept by `sharing`
            except Exception:
                log.exception("sharing failed; what is in force stays")
                await asyncio.sleep(TICK)
            if self._known and self._behind():
                self._wake.set()
            pause = ALONE if self.sharing.alone_since is not None else WATCHED if self._waited_for() else TICK
            now = time.monotonic()
            due = now + pause if look else min(due, now + pause)
            try:
                async with asyncio.timeout(due - now):
                    await self._touch.wait()
            except TimeoutError:
                pass
            self._touch.clear()

    async def _listen(self) -> None:
        async for _ in self.sharing.watch():
            self._look_at_once()

    async def _glance(self) -> None:
        """While etcd as a whole does not answer: what one member holds may be newer than what is followed."""
        while True:
            await asyncio.sleep(ALONE)
            if self.sharing.alone_since is not None and self._known and await self.sharing.glance(self.intent):
                self._wake.set()

    def _look_at_once(self) -> None:
        self._look_again = True
        self._touch.set()

    async def _share(self, look: bool) -> None:
        if look:
            self._look_again = False
            async with self.sharing.lock:
                view = await self.sharing.look()
                if self._known and self._behind():
                    self._wake.set()
                if self._known and self._told is not None:
                    await self._move_on(view)
        if self._known and self._told is not None:
            await self.sharing.keep(*self._told)  # beside the lock: where etcd is slow, a command need not wait for it

    def _behind(self) -> bool:
        shared = self.sharing.view.intent if self.sharing.view else None
        return shared is not None and shared.followed != self.intent.followed

    async def _move_on(self, view: View) -> None:
        """What needs no operator: put back what etcd has lost, let returning nodes in, share what was done alone."""
        now = self._clock()
        if mended := cluster.mend(view.intent, self.intent, now):
            shared, why = mended
            log.warning("%s", why)
            await self.sharing.swap(cluster.joined(shared, [self.config.node]))
            return
        if view.intent is None or self._behind():
            return
        if self.config.node == min(view.alive, default=self.config.node):
            joined = cluster.joined(view.intent, view.members)
            if joined is not view.intent:
                await self.sharing.swap(joined)
                return
        if cluster.steps_here(view.intent, view, self.config.node):
            moved = cluster.step(view.intent, view, now)
            if moved != view.intent:
                await self.sharing.swap(moved)
                return
        await self._share_exceptions(view)

    # -------------------------------------------------------------------------------------- following

    async def _follow(self) -> None:
        view = self.sharing.view
        if view is None or view.intent is None or cluster.mend(view.intent, self.intent, self._clock()):
            return
        live = self.sharing.alone_since is None
        mine = cluster.follow(self.intent, view.intent, self.topology, self.observed, self._clock(), live)
        if mine is self.intent:
            return
        before = self.intent
        self.intent = await self._store.swap(before.revision, mine)
        self._forget_barriers(before, self.intent)
        self._proved -= {ref for ref, (_, _, drain, _) in mine.held().items() if drain.phase is Phase.HELD}
        if before.followed != mine.followed and mine.followed:
            log.info("follows revision %d", mine.followed.revision)

    def _up_to_date(self) -> bool:
        view = self.sharing.view
        return view is not None and view.intent is not None and not self._behind()

    def _together(self) -> frozenset[tuple[str, str]]:
        view = self.sharing.view
        return cluster.together(self.intent, view.intent if view else None)

    def _view(self) -> View | None:
        return replace(self.sharing.view, trouble=self.sharing.error) if self.sharing.view else None

    def number(self) -> int:
        return self.intent.followed.revision if self.intent.followed else 0

    def _pause(self) -> float:
        pause = super()._pause()
        return OTHERS_WAIT if pause == TICK and self._told and self._told[0].open else pause

    # -------------------------------------------------------------------------------------- reporting

    async def _judge(self) -> None:
        self._tell()
        await super()._judge()

    def _tell(self) -> None:
        """Make the report of this tick; one that others wait for is sent at once."""
        if not self._known:
            return
        situation = self._situation()
        if situation.confirmed >= 0:
            self._in_force = self.intent.followed
        seen, intent = self.observed, self.intent
        bare = (
            name
            for name, service in self.topology.services.items()
            if seen.up and any(seen.backends[b].guard is None for b in service.http)
        )
        member = Member(
            node=self.config.node,
            followed=self._in_force,
            in_sync=self.in_sync,
            up=seen.up or situation.down_for < PATIENCE,
            version=__version__,
            time=self._clock(),
            sessions=self._sessions(),
            clients=seen.connections,
            moves_address=self.config.haproxy.vip_track_file is not None and not self._astray,
            trouble="; ".join(filter(None, (*self.failures, self._stuck, self._astray))),
            open=open_lines(situation),
            well=self._well(),
            holding=tuple(f"{n}/{s}" for n, drains in intent.drains.items() if n != GUARD_GONE for s in drains),
            bare=tuple(sorted(bare)),
            exceptions=tuple(sorted(intent.exceptions)),
        )
        told = (member, cluster.sick(intent, seen) if seen.up else ())
        if self._told is None or (self._told[0].important(), self._told[1]) != (member.important(), told[1]):
            self._touch.set()
        self._told = told

    def _sessions(self) -> dict[str, int]:
        old = {ref for worker in self.observed.old_workers or () for ref in worker.sessions}
        now = {s.ref for b in self.observed.backends.values() for s in b.servers.values() if s.sessions}
        return {str(ref): self.observed.sessions(ref) for ref in sorted(old | now)} if self.observed.up else {}

    def _well(self) -> tuple[str, ...]:
        """Nodes whose servers may come back as far as this HAProxy is concerned."""
        drains = self.intent.drains
        returning = {n for n, of_node in drains.items() if any(d.phase is Phase.RETURNING for d in of_node.values())}
        well = {n for n in returning if node_well(n, self.intent, self.observed, self._proved)}
        asked = {node for node, _ in self._together()}
        return tuple(sorted(well | (asked - set(drains)))) if self._settled else ()

    def _troubles(self) -> tuple[str, ...]:
        exceptions = [
            f"{subject} differs here by --local" + (f" ({self._refused[subject]})" if subject in self._refused else "")
            for subject in sorted(self.intent.exceptions)
        ]
        lasting = f"{', '.join(exceptions)}: the next command about it holds everywhere" if exceptions else ""
        return (*super()._troubles(), self.sharing.trouble, lasting)

    def status(self) -> dict[str, Any]:
        made = super().status()
        sharing = self.sharing
        alone = sharing.alone_since is not None
        own = self._told[0] if self._told else Member(node=self.config.node)
        return made | {
            "agents": agents(sharing.view or View(), self.config.node, own, alone),
            "store": {"etcd": not alone, "alone_since": sharing.alone_since, "error": sharing.error},
        }

    # --------------------------------------------------------------------------------------- commands

    async def handle(self, change: Change, by: str) -> Operation | dict[str, Any]:
        if change.local:
            return await self._handle_here(change, by)
        attempts = 1 if change.if_revision is not None else ATTEMPTS
        return await self._decided(lambda until: self._handle_everywhere(change, by, until), attempts)

    async def _decided(self, decide_: Callable[[float], Awaitable[T]], attempts: int = ATTEMPTS) -> T:
        """Anew whenever another agent was quicker."""
        until = time.monotonic() + LONGEST
        for _ in range(attempts):
            try:
                async with self._shared_lock(until):
                    return await decide_(until)
            except Conflict:
                if attempts == 1:
                    raise
                await asyncio.sleep(random.uniform(0, BUSY))  # noqa: S311 so that two do not collide again
        raise LbagentError("store", "the shared intent changes faster than this command can be decided: try again")

    async def _in_time(self, doing: Awaitable[T], until: float) -> T:
        """What etcd is asked for a command, and nothing else: no local step is cut in two. StoreError when late."""
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await doing
        except TimeoutError:
            raise StoreError(
                f"{self.sharing.error or 'etcd does not answer in time'}: unless it took this command without saying "
                "so, nothing is in force by it; see `lbctl status` once it answers, and repeat"
            ) from None

    async def _look_patiently(self, until: float) -> View:
        """A leader's election or a restart is waited for, as far as lbctl's patience allows; an outage is not."""
        for_looks = until - LONGEST / 8
        since = self.sharing.alone_since
        outage = since is not None and self._clock() - since > ELECTION
        while True:
            try:
                return await self._in_time(self.sharing.look(), for_looks)
            except StoreError:
                if outage or time.monotonic() > for_looks - 1.0:
                    raise
            await asyncio.sleep(BUSY)

    @contextlib.asynccontextmanager
    async def _shared_lock(self, until: float) -> AsyncIterator[None]:
        await self._in_time(self.sharing.lock.acquire(), until)
        try:
            yield
        finally:
            self.sharing.lock.release()

    async def _handle_everywhere(self, change: Change, by: str, until: float) -> Operation | dict[str, Any]:
        view = await self._look_patiently(until)
        if self._known and (mended := cluster.mend(view.intent, self.intent, self._clock())):
            log.warning("%s", mended[1])
            view = replace(view, intent=await self._in_time(self.sharing.swap(mended[0]), until))
        base = view.intent or Shared()
        async with self._lock:
            await self._learned()
            await self._follow()
            now = self._clock()
            others = cluster.elsewhere(view, self.config.node, self.intent)
            decision = decide(self.config, self.topology, self.observed, base, change, now, by, others)
            named = _subjects(decision)
            shared = cluster.share(decision.intent, base, named, self.config.node, now)
            next_one = replace(shared, revision=base.revision + 1)
            self.intent = cluster.meet(self.intent, named)
            mine = cluster.follow(self.intent, next_one, self.topology, self.observed, now)
            if change.dry_run:
                return self._dry_run(mine, decision.notes)
            await self._room_for(mine)
        try:
            if decision.intent != base or set(others.exceptions) & set(named):
                base = await self._in_time(self.sharing.swap(shared, healthy=bool(decision.drains)), until)
        finally:
            await self._off_loop(self._balancer.release)
        self._look_at_once()
        async with self._lock:
            return await self._begin(decision, change, by, now, base.followed)

    async def _handle_here(self, change: Change, by: str) -> Operation | dict[str, Any]:
        """``--local``: this HAProxy alone, whatever etcd does; what differs by it is remembered as an exception."""
        alone = await self._is_alone()
        async with self._lock:
            await self._learned()
            now = self._clock()
            decision = decide(self.config, self.topology, self.observed, self.intent, change, now, by)
            if change.dry_run:
                return self._dry_run(decision.intent, decision.notes)
            before = self.intent
            shared = cluster.from_own(before, now)  # not what etcd holds by now: that may be an older one
            exceptions = dict(before.exceptions)
            for subject in _subjects(decision):
                node, slash, name = subject.rpartition("/")
                exceptions[subject] = Exceptional(
                    revision=self.number(),
                    alone=alone,
                    met=not alone and not self._behind(),
                    service=None if slash else shared.services.get(name),
                    drain=shared.drains.get(node, {}).get(name) if slash else None,
                )
            await self._take(replace(decision.intent, exceptions=exceptions))
            return await self._begin(decision, change, by, now)

    async def _is_alone(self) -> bool:
        """Etcd cannot be reached, at this moment and not only at the last look."""
        until = time.monotonic() + GLANCE
        try:
            async with self._shared_lock(until):
                await self._in_time(self.sharing.look(), until)
        except StoreError:
            return True
        return False

    async def _share_exceptions(self, view: View) -> None:
        """What was restricted by ``--local`` while alone becomes everyone's, if it may; all else stays an exception."""
        for subject in self.intent.exceptions:
            shared = view.intent or Shared()
            if not cluster.unshared(subject, self.intent, shared):
                continue
            node, slash, name = subject.rpartition("/")
            now = self._clock()
            if slash:
                mine: Drain | ServiceIntent = self.intent.drains[node][name]
                after = self._drained_everywhere(subject, self.intent.drains[node][name], view, shared, now)
                if after is None:
                    continue
            else:
                mine = self.intent.services[name]
                after = shared.with_service(name, mine)
            # It ends no exception elsewhere, for it may be the older one: only a command for all does.
            await self.sharing.swap(cluster.share(after, shared, [], self.config.node, now), healthy=bool(slash))
            async with self._lock:
                await self._take(cluster.taken_up(self.intent, subject))
            self._refused.pop(subject, None)
            log.warning("%s was restricted here by --local: now it is everywhere", subject)
            await self._note("reconcile", [] if slash else [name], [node] if slash else [], mine.by, mine.reason)
            return

    def _drained_everywhere(self, subject: str, mine: Drain, view: View, shared: Shared, now: float) -> Intent | None:
        """The shared intent with a drain that was made here by ``--local``; None when it may not be."""
        node, _, name = subject.rpartition("/")
        others = cluster.elsewhere(view, self.config.node, self.intent)
        change = Change(nodes={node: NodeChange("drained", [name])}, reason=mine.reason, maint=mine.end_in_maint)
        try:
            return decide(self.config, self.topology, self.observed, shared, change, now, mine.by, others).intent
        except LbagentError as error:
            if self._refused.get(subject) != error.message:
                log.warning("%s was drained by --local, and is not drained elsewhere: %s", subject, error.message)
            self._refused[subject] = error.message
            return None

    async def forget(self, node: str, by: str) -> None:
        """End what is remembered of an agent that is gone for good."""
        await self._decided(lambda until: self._forget(node, until))
        log.info("%s forgotten by %s", node, by)
        await self._note("forget", [], [node], by, "")

    async def _forget(self, node: str, until: float) -> None:
        view = await self._look_patiently(until)
        if node not in view.known() and node not in view.alive:
            raise LbagentError(
                "unknown_node", f"no agent of {node} is remembered; there are: {', '.join(view.known())}"
            )
        if node in view.alive:
            raise LbagentError(
                "agent_alive", f"the agent of {node} is alive: stop it first, or it would be seen again at once"
            )
        await self._in_time(self.sharing.forget(node), until)  # first: who has a report is a member
        if view.intent is not None and node in view.intent.members:
            await self._in_time(self.sharing.swap(cluster.without(view.intent, node)), until)
        await self._in_time(self.sharing.look(), until)

    async def _note(self, command: str, services: list[str], nodes: list[str], by: str, reason: str) -> None:
        now = self._clock()
        entry = {
            "id": f"{command}-{self.number()}-{int(now)}",
            "command": command,
            "by": by,
            "reason": reason,
            "revision": self.number(),
            "started": now,
            "ended": now,
            "services": services,
            "drains": [[node, ""] for node in nodes],
            "returns": [],
            "state": "done",
            "exit": 0,
            "open": [],
            "notes": [],
        }
        await asyncio.to_thread(self.history.add, entry)

    def close(self) -> None:
        super().close()
        self.sharing.close()


def _subjects(decision: Decision) -> list[str]:
    pairs: Iterable[tuple[str, str]] = (*decision.drains, *decision.returns)
    return [*decision.modes, *(f"{node}/{name}" for node, name in pairs if node != GUARD_GONE)]
