"""The agent beside an HAProxy: its loop, and the way of a command through it.

The agent has three parts, each the owner of its own state. The *reconciler* looks at HAProxy and makes it hold the
intent. The *keeper* has the intent: alone, or as a member of several that share one in etcd. The *registry* has the
commands under way. The agent only decides who is asked when:

* a tick, once a second and more often while a command waits: look, follow the shared intent, reconcile, judge commands;
* a command: the keeper decides and stores it, then one tick carries it out, and the registry waits for its end.

A defect in one tick must not end the loop. Whatever answers users runs inside HAProxy, so a tick that fails is counted
and shown, and everything in force stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from lbagent.agent.keeper import Keeper
from lbagent.agent.pace import Pace
from lbagent.agent.reconciler import Reconciler
from lbagent.agent.registry import Operations
from lbagent.errors import LbagentError
from lbagent.haproxy.instance import HAProxy
from lbagent.model.status import Status
from lbagent.rules.change import Change
from lbagent.rules.operations import Operation
from lbagent.rules.status import Report
from lbagent.rules.waiting import Situation
from lbagent.settings.config import Config

log = logging.getLogger(__name__)

RELOADS = 0.2  # seconds between two questions whether HAProxy was reloaded, while a service is closed
OTHERS_WAIT = 0.2  # seconds between two ticks while another agent may wait for this HAProxy
BUSY = 0.05  # the same while a command waits


class Agent:
    """``ticked`` is told how many seconds each tick took."""

    def __init__(
        self,
        reconciler: Reconciler,
        keeper: Keeper,
        operations: Operations,
        ticked: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.reconciler, self.keeper, self.operations = reconciler, keeper, operations
        self._ticked, self._clock = ticked, reconciler.clock
        self._pace = Pace()
        self._wake = asyncio.Event()
        self.looked = asyncio.Event()  # HAProxy was asked at least once

    @property
    def config(self) -> Config:
        return self.reconciler.config

    # ------------------------------------------------------------------------------------------ ticking

    async def run(self, alive: Callable[[], None]) -> None:
        """Tick for ever; ``alive`` is called after each tick, so that the watchdog is fed by progress alone."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop(alive))
            group.create_task(self.keeper.run(self.wake, lambda: self.operations.waited_for))

    async def _loop(self, alive: Callable[[], None]) -> None:
        while True:
            await self.tick()
            alive()
            await self._rest(time.monotonic() + self._pause())
            self._wake.clear()

    async def _rest(self, until: float) -> None:
        """Until the next tick, or a reload while a service is closed: the new worker may have no guard."""
        while (left := until - time.monotonic()) > 0:
            closed = bool(self.keeper.own.intent.services)
            try:
                async with asyncio.timeout(min(left, RELOADS) if closed else left):
                    await self._wake.wait()
                    return
            except TimeoutError:
                if closed and await self.reconciler.has_new_worker():
                    return

    def wake(self) -> None:
        """Tick as soon as possible."""
        self._wake.set()

    def _pause(self) -> float:
        """Seconds until the next tick."""
        if self.operations.waited_for or self.reconciler.barriers.pending(self.keeper.own.intent, self._clock.now()):
            return BUSY
        return OTHERS_WAIT if self.keeper.waited_for else self._pace.pause

    async def tick(self) -> None:
        async with self.keeper.own.lock:
            await self._tick(look=True)

    async def _tick(self, look: bool) -> None:
        started = time.monotonic()
        self._pace.begin()
        own, reconciler = self.keeper.own, self.reconciler
        try:
            if look:
                await reconciler.look(own)
            if own.known:
                await self.keeper.follow()
                together = frozenset(self.keeper.returning_together())
                await reconciler.reconcile(own, together, self.keeper.up_to_date)
        except (LbagentError, OSError) as error:
            if reconciler.condition.failures != (str(error),):
                log.error("%s", error)
            reconciler.failed(str(error))
        except Exception:
            log.exception("tick failed")
            reconciler.failed("lbagent has a defect, and its log has the details. What is in force stays in force")
        self._pace.end()
        self._ticked(time.monotonic() - started)
        self.looked.set()
        situation = self._situation()
        self.keeper.ticked(situation, reconciler.condition.address)
        await self.operations.judge(situation)

    def _situation(self) -> Situation:
        own, reconciler = self.keeper.own, self.reconciler
        condition = reconciler.condition
        in_force = condition.settled and condition.confirmed >= own.intent.revision
        return Situation(
            intent=own.intent,
            observed=reconciler.observed,
            barriers=reconciler.barriers.of(own.intent),
            confirmed=self.keeper.revision if in_force else -1,
            failures=condition.failures,
            unwritten=condition.unwritten,
            down_for=time.monotonic() - reconciler.answered,
            now=self._clock.now(),
            steady=self._clock.steady(),
            node=self.config.node,
            topology=reconciler.topology,
            view=self.keeper.view,
        )

    # ----------------------------------------------------------------------------------------- commands

    async def handle(self, change: Change, by: str) -> Operation | dict[str, object]:
        """Carry a change out, or with ``dry_run`` say what would be done. LbagentError is a refusal."""
        decided = await self.keeper.decide(change, by)
        if change.dry_run:
            return {"dry_run": True, "notes": list(decided.decision.notes), "plan": list(decided.steps)}
        async with self.keeper.own.lock:  # a tick that has not seen the new intent must not judge its operation
            number = self.operations.begin(decided, change, by, self._clock.now())
            await self._tick(look=False)
        self.wake()
        return self.operations.get(number)

    async def reconfigure(self, config: Config, haproxy: HAProxy, digest: str | None) -> None:
        """Use another configuration from the next tick on; no intent ends by it."""
        async with self.keeper.own.lock:
            self.reconciler.reconfigure(config, haproxy, digest)
        self.wake()

    # ------------------------------------------------------------------------------------------- status

    @property
    def in_sync(self) -> bool:
        return self.reconciler.condition.settled

    def trouble(self) -> str:
        own, condition = self.keeper.own, self.reconciler.condition
        found = (*condition.failures, own.stuck, condition.address, *self.keeper.troubles())
        return own.trouble or "; ".join(filter(None, found))

    def status(self) -> Status:
        """Never asks HAProxy: the last tick's view."""
        own, reconciler = self.keeper.own, self.reconciler
        report = Report(
            self.config.node,
            reconciler.topology,
            own.intent,
            reconciler.observed,
            reconciler.barriers.of(own.intent),
            self._clock.now(),
            self.keeper.view,
        )
        agents, store = self.keeper.shown() or (None, None)
        return report.make(
            in_sync=self.in_sync,
            trouble=self.trouble(),
            revision=self.keeper.revision,
            tick=self._pace.pause,
            agents=agents,
            store=store,
        )

    def close(self) -> None:
        self.reconciler.close()
        self.keeper.close()
