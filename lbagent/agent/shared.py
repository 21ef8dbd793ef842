"""The agent's side of the shared store: what was read there, since when it cannot be reached, what was reported."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from msgspec.structs import replace

from lbagent.cluster.members import Member, View, skewed
from lbagent.cluster.revisions import descends, is_newer
from lbagent.errors import StoreError
from lbagent.model.intent import Intent
from lbagent.model.times import iso

log = logging.getLogger(__name__)

FIGURES = 1.0  # seconds between two reports that differ in figures only
AT_REST = 3.0  # the same while nothing is restricted: etcd keeps every report until it is compacted
UNCHANGED = 60.0  # seconds after which a report is sent though nothing is new: clocks are compared by it
SKEW = 5.0  # seconds by which clocks may differ before it is said


class SharedStore(Protocol):
    """A store that several agents use: it also holds what each of them reports."""

    @property
    def rival(self) -> bool: ...
    async def look(self) -> View: ...
    async def glance(self) -> list[Intent]: ...
    async def swap(self, expected: int, intent: Intent, healthy: bool = False) -> Intent: ...
    async def report(self, member: Member, sick: tuple[str, ...]) -> None: ...
    async def renew(self) -> None: ...
    async def forget(self, node: str) -> None: ...
    def watch(self) -> AsyncIterator[None]: ...
    def close(self) -> None: ...


class SharedIntent:
    """``lock`` is held around a read and what follows from it, so that reads and writes do not cross.

    Whoever needs the lock of the own intent as well takes it second.
    """

    def __init__(self, store: SharedStore, node: str, clock: Callable[[], float] = time.time) -> None:
        self._store, self._node, self._clock = store, node, clock
        self.lock = asyncio.Lock()
        self.view: View | None = None
        self.error = "etcd has not been asked yet"
        self.alone_since: float | None = clock()
        self.skew: dict[str, float] = {}
        self._reported: tuple[Member, tuple[str, ...]] | None = None
        self._reported_at = 0.0  # by the monotonic clock
        self._looked_at = 0.0

    async def look(self) -> View:
        """What the store holds now; StoreError names it, and from then on this agent is alone."""
        try:
            view = await self._store.look()
        except StoreError as error:
            if self.alone_since is None:
                self.alone_since = self._clock()
            if self.error != error.message:
                log.error("%s; what is in force stays", error.message)
            self.error = error.message
            raise
        if self.error:
            log.info("etcd answers")
        self.error, self.alone_since = "", None
        self._compare_clocks(view)
        self.view = view
        return view

    def _compare_clocks(self, view: View) -> None:
        """A report that has come between two looks of late was written about now."""
        before, began = self.view, self._looked_at
        self._looked_at = time.monotonic()
        if before is not None and self._looked_at - began < 2 * FIGURES:
            times = {node: member.time for node, member in before.members.items()}
            for node, ahead in skewed(times, view, self._node, self._clock()).items():
                if abs(ahead) > SKEW and abs(self.skew.get(node, 0.0)) <= SKEW:
                    log.warning("the clock of %s differs by %.0f s from this one", node, ahead)
                self.skew[node] = ahead

    async def glance(self, mine: Intent) -> bool:
        """While alone: whether a member of etcd holds what has come of ``mine`` meanwhile, which then is in sight."""
        held = [shared for shared in await self._store.glance() if descends(shared, mine) and is_newer(shared, mine)]
        if not held or self.alone_since is None:
            return False
        best = max(held, key=lambda shared: shared.revision)
        if self.view is None or self.view.intent is None or is_newer(best, self.view.intent):
            self.view = replace(self.view or View(), intent=best)
        return True

    async def swap(self, intent: Intent, healthy: bool = False) -> Intent:
        """Store ``intent`` in place of the one last seen; Conflict when there is another by now."""
        new = await self._store.swap(intent.revision, intent, healthy)
        self.view = replace(self.view or View(), intent=new)
        return new

    async def keep(self, member: Member, sick: tuple[str, ...]) -> None:
        """A report where there is something new, which others may wait for, and a sign of life."""
        if self._worth_telling(member, sick):
            await self._store.report(member, sick)
            self._reported, self._reported_at = (member, sick), time.monotonic()
        await self._store.renew()

    def _worth_telling(self, member: Member, sick: tuple[str, ...]) -> bool:
        """Mere figures are told now and then."""
        if self._reported is None or self.view is None or member.node not in self.view.members:
            return True
        before, sick_before = self._reported
        if before.important() != member.important() or sick_before != sick:
            return True
        pause = UNCHANGED
        if replace(before, time=member.time) != member:
            pause = FIGURES if self._restricted() or bool(before.clients) != bool(member.clients) else AT_REST
        return time.monotonic() - self._reported_at >= pause

    def _restricted(self) -> bool:
        intent = self.view.intent if self.view else None
        return intent is not None and bool(intent.services or intent.drains)

    async def forget(self, node: str) -> None:
        await self._store.forget(node)

    def watch(self) -> AsyncIterator[None]:
        return self._store.watch()

    def close(self) -> None:
        self._store.close()

    @property
    def trouble(self) -> str:
        """What an operator has to know of it; empty when all is well."""
        found = []
        if self.alone_since is not None:
            since = iso(int(self.alone_since))
            found.append(
                f"alone since {since}: {self.error}; the last known intent stays in force, "
                "commands fail without --local"
            )
        if self._store.rival:
            found.append(f"another agent calls itself {self._node}: give each a `node` of its own")
        found += [
            f"the clock of {node} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this one: "
            "windows and Retry-After differ by that"
            for node, ahead in sorted(self.skew.items())
            if abs(ahead) > SKEW and self.view is not None and node in self.view.known()
        ]
        return "; ".join(found)
