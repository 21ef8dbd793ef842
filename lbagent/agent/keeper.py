"""Who keeps the intent: an HAProxy alone, or one of several that share an intent in etcd.

The agent's loop is the same for both. It asks its keeper what to live by, and hands it the commands; the two keepers
are :class:`lbagent.agent.alone.Alone` and :class:`lbagent.agent.member.Member`.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Protocol

import msgspec

from lbagent.agent.own_intent import OwnIntent
from lbagent.cluster.members import View
from lbagent.model.intent import Stamp
from lbagent.model.status import AgentStatus, StoreStatus
from lbagent.model.subject import Subject
from lbagent.rules.change import Change, Decision
from lbagent.rules.waiting import Situation


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a change: stored, or for a dry run only worked out."""

    decision: Decision
    revision: int = 0
    stamp: Stamp | None = None  # the shared revision that it was stored as
    steps: tuple[str, ...] = ()  # a dry run's: what would be done to HAProxy and its files


class Keeper(Protocol):
    own: OwnIntent

    async def decide(self, change: Change, by: str) -> Decided:
        """Decide a change and store it, unless it is a dry run. LbagentError is a refusal."""
        ...

    async def forget(self, node: str, by: str) -> None:
        """No longer wait for the HAProxy of ``node``, which is gone for good."""
        ...

    async def follow(self) -> None:
        """Take over what the whole control plane was asked for."""
        ...

    async def run(self, wake: Callable[[], None], waited_for: Callable[[], bool]) -> None:
        """What has to be done beside the agent's loop, for ever.

        ``wake`` starts a tick; ``waited_for`` says whether a command waits.
        """
        ...

    def ticked(self, situation: Situation, address_trouble: str) -> None:
        """After each tick: ``situation`` is what it found."""
        ...

    def returning_together(self) -> Set[Subject]:
        """Drains that come back on every HAProxy at once."""
        ...

    @property
    def up_to_date(self) -> bool:
        """Nothing newer was asked for that this HAProxy does not know of."""
        ...

    @property
    def revision(self) -> int:
        """The revision that commands and status speak of."""
        ...

    @property
    def view(self) -> View | None:
        """What the other HAProxies report."""
        ...

    @property
    def waited_for(self) -> bool:
        """Another agent may be waiting for this HAProxy."""
        ...

    def troubles(self) -> tuple[str, ...]:
        """What an operator has to know of the store and the other HAProxies."""
        ...

    def shown(self) -> tuple[list[AgentStatus], StoreStatus] | None:
        """The part of the status that is about the other HAProxies; None where there are none."""
        ...

    def close(self) -> None: ...
