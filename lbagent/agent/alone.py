"""The keeper of an HAProxy that shares its intent with no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set

from lbagent.agent.keeper import Decided
from lbagent.agent.own_intent import OwnIntent
from lbagent.agent.reconciler import Reconciler
from lbagent.cluster.members import View
from lbagent.errors import LbagentError
from lbagent.model.status import AgentStatus, StoreStatus
from lbagent.model.subject import Subject
from lbagent.rules.change import Change
from lbagent.rules.decide import decide
from lbagent.rules.waiting import Situation


class Alone:
    def __init__(self, own: OwnIntent, reconciler: Reconciler) -> None:
        self.own, self._reconciler = own, reconciler

    async def decide(self, change: Change, by: str) -> Decided:
        if change.local:
            raise LbagentError("bad_request", "local: this HAProxy shares its intent with no other. Leave --local out")
        async with self.own.lock:
            reconciler = self._reconciler
            await reconciler.look(self.own)
            self.own.require()
            decision = decide(
                reconciler.site,
                self.own.intent,
                change,
                reconciler.clock.now(),
                by,
                steady=reconciler.clock.steady(),
            )
            if change.dry_run:
                return Decided(decision=decision, steps=reconciler.preview(decision.intent))
            await reconciler.store(self.own, decision.intent)
            return Decided(decision=decision, revision=self.own.intent.revision)

    async def forget(self, node: str, by: str) -> None:  # noqa: ARG002 the other keeper writes down who
        raise LbagentError("unknown_node", "there is no agent to forget: this HAProxy shares its intent with no other")

    async def follow(self) -> None:
        """There is nobody to follow."""

    async def run(self, wake: Callable[[], None], waited_for: Callable[[], bool]) -> None:  # noqa: ARG002 nobody to hear
        await asyncio.Event().wait()

    def ticked(self, situation: Situation, address_trouble: str) -> None:
        """There is nobody to report to."""

    def returning_together(self) -> Set[Subject]:
        return frozenset()

    @property
    def up_to_date(self) -> bool:
        return True

    @property
    def revision(self) -> int:
        return self.own.intent.revision

    @property
    def view(self) -> View | None:
        return None

    @property
    def waited_for(self) -> bool:
        return False

    def troubles(self) -> tuple[str, ...]:
        return ()

    def shown(self) -> tuple[list[AgentStatus], StoreStatus] | None:
        return None

    def close(self) -> None:
        """It holds nothing open."""
