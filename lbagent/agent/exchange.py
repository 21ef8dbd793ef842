"""What an agent does beside its loop to stay one of several: read etcd, move the shared intent on, report.

The agent's tick never waits for etcd. It reports what it found, and this loop sends the report; this loop reads the
shared intent, and wakes the tick when there is something new to follow. What needs no operator is done here too, by
:meth:`Exchange._move_on`: an intent that etcd has lost is put back, a node that is well everywhere is released, and
what was restricted ``--local`` while etcd was away is passed on to the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from lbagent.agent.own_intent import OwnIntent
from lbagent.agent.reconciler import Reconciler
from lbagent.agent.report import Report
from lbagent.agent.shared import SharedIntent
from lbagent.cluster import overrides, returning, share
from lbagent.cluster.members import View, elsewhere
from lbagent.errors import Conflict, LbagentError, StoreError
from lbagent.model.intent import Drain, Intent, ServiceIntent
from lbagent.model.subject import Subject
from lbagent.rules.change import Change, NodeChange
from lbagent.rules.decide import decide
from lbagent.store.history import History

log = logging.getLogger(__name__)

READ = 1.0  # seconds between two reads when nothing waits
WATCHED = 0.1  # seconds between two reads while a command waits for the others
ALONE = 0.3  # seconds between two reads while etcd does not answer
AGAIN = 0.05  # seconds until the next try when another agent was quicker


class Exchange:
    def __init__(
        self,
        own: OwnIntent,
        reconciler: Reconciler,
        shared: SharedIntent,
        history: History,
    ) -> None:
        self._own, self._reconciler, self._shared, self._history = own, reconciler, shared, history
        self._clock = reconciler.clock
        self._due = asyncio.Event()  # something is to be reported, or to be read:
        self._read_again = True
        self.report: Report | None = None  # of the last tick
        self.refused: dict[str, str] = {}  # subject restricted --local → why the others cannot follow it
        self._wake: Callable[[], None] = lambda: None
        self._waited_for: Callable[[], bool] = lambda: False

    async def run(self, wake: Callable[[], None], waited_for: Callable[[], bool]) -> None:
        """For ever. ``wake`` starts a tick; ``waited_for`` says whether a command waits."""
        self._wake, self._waited_for = wake, waited_for
        async with asyncio.TaskGroup() as group:
            group.create_task(self._exchange())
            group.create_task(self._watch())
            group.create_task(self._ask_members_while_alone())

    def read_at_once(self) -> None:
        self._read_again = True
        self._due.set()

    def tell(self, report: Report) -> None:
        """Send the report of a tick, at once where others may wait for it."""
        before, self.report = self.report, report
        if before is None or (before[0].important(), before[1]) != (report[0].important(), report[1]):
            self._due.set()

    def behind(self) -> bool:
        """Something newer is stored than what this HAProxy lives by."""
        stored = self._shared.view.intent if self._shared.view else None
        return stored is not None and stored.followed != self._own.intent.followed

    # --------------------------------------------------------------------------------------- the loops

    async def _exchange(self) -> None:
        """Read, move on, report; for ever. What is only to be reported needs no read."""
        due = 0.0  # when to read again, by the monotonic clock
        while True:
            read = self._read_again or time.monotonic() >= due
            try:
                await self._once(read)
            except Conflict:
                self.read_at_once()  # another agent was quicker
                await asyncio.sleep(AGAIN)
            except StoreError:
                pass  # said and kept by the shared intent
            except Exception:
                log.exception("the exchange with etcd failed; what is in force stays")
                await asyncio.sleep(READ)
            if self._own.known and self.behind():
                self._wake()
            pause = ALONE if self._shared.alone_since is not None else WATCHED if self._waited_for() else READ
            now = time.monotonic()
            due = now + pause if read else min(due, now + pause)
            try:
                async with asyncio.timeout(due - now):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()

    async def _once(self, read: bool) -> None:
        if read:
            self._read_again = False
            async with self._shared.lock:
                view = await self._shared.look()
                if self._own.known and self.behind():
                    self._wake()
                if self._own.known and self.report is not None:
                    await self._move_on(view)
        if self._own.known and self.report is not None:
            # Beside the lock: where etcd is slow, a command need not wait for it.
            await self._shared.keep(*self.report)

    async def _watch(self) -> None:
        async for _ in self._shared.watch():
            self.read_at_once()

    async def _ask_members_while_alone(self) -> None:
        """While etcd as a whole does not answer: what one of its members holds may be newer than what is followed."""
        while True:
            await asyncio.sleep(ALONE)
            if self._shared.alone_since is not None and self._own.known and await self._shared.glance(self._own.intent):
                self._wake()

    # ----------------------------------------------------------------------------------------- moving on

    async def _move_on(self, view: View) -> None:
        mine, now, me = self._own.intent, self._clock.steady(), self._reconciler.config.node
        if mended := share.mend(view.intent, mine, now):
            shared, why = mended
            log.warning("%s", why)
            await self._shared.swap(share.joined(shared, [me]))
            return
        if view.intent is None or self.behind():
            return
        if me == min(view.alive, default=me):
            joined = share.joined(view.intent, view.members)
            if joined is not view.intent:
                await self._shared.swap(joined)
                return
        if returning.steps_here(view.intent, view, me):
            moved = returning.step(view.intent, view, now)
            if moved != view.intent:
                await self._shared.swap(moved)
                return
        await self._pass_on(view, view.intent)

    async def _pass_on(self, view: View, shared: Intent) -> None:
        """What was restricted ``--local`` while etcd was away becomes everyone's, where it may be."""
        for text in self._own.intent.exceptions:
            subject = Subject.parse(text)
            if not overrides.to_pass_on(subject, self._own.intent, shared):
                continue
            now = self._clock.steady()
            if subject.node:
                mine: Drain | ServiceIntent = self._own.intent.drains[subject.node][subject.service]
                after = self._drained_everywhere(subject, self._own.intent.drains[subject.node][subject.service], view)
                if after is None:
                    continue
            else:
                mine = self._own.intent.services[subject.service]
                after = shared.with_service(subject.service, mine)
            # It ends no override elsewhere, for it may be the older one: only a command for all does.
            stored = share.share(after, shared, [], self._reconciler.config.node, now)
            await self._shared.swap(stored, healthy=bool(subject.node))
            async with self._own.lock:
                await self._reconciler.store(self._own, overrides.passed_on(self._own.intent, subject))
            self.refused.pop(text, None)
            log.warning("%s was restricted here by --local: now it is everywhere", text)
            await self.note("reconcile", subject, mine.by, mine.reason)
            return

    def _drained_everywhere(self, subject: Subject, mine: Drain, view: View) -> Intent | None:
        """The shared intent with a drain that was made here by ``--local``; None when it may not be."""
        reconciler = self._reconciler
        others = elsewhere(view, reconciler.config.node, self._own.intent)
        drained = NodeChange("drained", [subject.service])
        change = Change(nodes={subject.node: drained}, reason=mine.reason, maint=mine.end_in_maint)
        shared = view.intent or Intent()
        try:
            return decide(
                reconciler.site,
                shared,
                change,
                self._clock.now(),
                mine.by,
                others,
                self._clock.steady(),
            ).intent
        except LbagentError as error:
            if self.refused.get(str(subject)) != error.message:
                log.warning("%s was drained by --local, and is not drained elsewhere: %s", subject, error.message)
            self.refused[str(subject)] = error.message
            return None

    async def note(self, command: str, subject: Subject, by: str, reason: str) -> None:
        """Write into the history what no operation stands for."""
        now = self._clock.now()
        revision = self._own.intent.followed.revision if self._own.intent.followed else 0
        entry = {
            "id": f"{command}-{revision}-{int(now)}",
            "command": command,
            "by": by,
            "reason": reason,
            "revision": revision,
            "started": now,
            "ended": now,
            "services": [] if subject.node else [subject.service],
            "drains": [[subject.node, ""]] if subject.node else [],
            "returns": [],
            "state": "done",
            "exit": 0,
            "open": [],
            "notes": [],
        }
        await asyncio.to_thread(self._history.add, entry)
