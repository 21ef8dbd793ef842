"""The keeper of an HAProxy that shares its intent with others, in etcd (lbagent/cluster has the theory).

A command is decided against the shared intent and what every HAProxy reports, and stored in one transaction that fails
when either has changed meanwhile; then it is decided anew. So two commands given at two controllers at the same moment
cannot together do what neither could alone, such as draining the last server of a service.

Each agent goes on living by an intent of its own, beside its HAProxy. Losing etcd therefore changes nothing for users;
it only means that no command can be given for all, because nobody could say what the others would do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from typing import TypeVar

from msgspec.structs import replace

from lbagent.agent.exchange import Exchange
from lbagent.agent.keeper import Decided
from lbagent.agent.own_intent import OwnIntent
from lbagent.agent.patience import ATTEMPTS, Patience
from lbagent.agent.reconciler import Reconciler
from lbagent.agent.report import report
from lbagent.agent.shared import SharedIntent
from lbagent.cluster import overrides, share
from lbagent.cluster.follow import follow
from lbagent.cluster.members import Member as Reported
from lbagent.cluster.members import View, elsewhere
from lbagent.cluster.returning import together
from lbagent.errors import LbagentError
from lbagent.model.intent import Intent, Override, Phase, Stamp
from lbagent.model.status import AgentStatus, StoreStatus
from lbagent.model.subject import Subject
from lbagent.rules.change import Change, Decision
from lbagent.rules.decide import decide
from lbagent.rules.status import agents
from lbagent.rules.waiting import Situation

log = logging.getLogger(__name__)
T = TypeVar("T")


class Member:
    def __init__(
        self,
        own: OwnIntent,
        reconciler: Reconciler,
        shared: SharedIntent,
        exchange: Exchange,
    ) -> None:
        self.own, self.shared, self.exchange = own, shared, exchange
        self._reconciler, self._clock = reconciler, reconciler.clock
        self._patience = Patience(shared, reconciler.clock)
        own.may_begin = lambda: shared.view is not None
        self._in_force: Stamp | None = None  # the newest shared revision that every worker was read back with

    async def run(self, wake: Callable[[], None], waited_for: Callable[[], bool]) -> None:
        await self.exchange.run(wake, waited_for)

    # -------------------------------------------------------------------------------------- following

    async def follow(self) -> None:
        view = self.shared.view
        if view is None or view.intent is None or share.mend(view.intent, self.own.intent, self._clock.steady()):
            return
        live = self.shared.alone_since is None
        before = self.own.intent
        mine = self._as_followed(view.intent, live)
        if mine is before:
            return
        await self.own.replace(mine)
        held = {ref for ref, hold in mine.held().items() if hold.drain.phase is Phase.HELD}
        self._reconciler.proved -= held
        if before.followed != mine.followed and mine.followed:
            log.info("follows revision %d", mine.followed.revision)

    def _as_followed(self, shared: Intent, live: bool = True) -> Intent:
        reconciler = self._reconciler
        return follow(self.own.intent, shared, reconciler.topology, reconciler.observed, self._clock.steady(), live)

    @property
    def up_to_date(self) -> bool:
        view = self.shared.view
        return view is not None and view.intent is not None and not self.exchange.behind()

    def returning_together(self) -> Set[Subject]:
        return together(self.own.intent, self.shared.view.intent if self.shared.view else None)

    @property
    def view(self) -> View | None:
        return replace(self.shared.view, trouble=self.shared.error) if self.shared.view else None

    @property
    def revision(self) -> int:
        return self.own.intent.followed.revision if self.own.intent.followed else 0

    # -------------------------------------------------------------------------------------- reporting

    def ticked(self, situation: Situation, address_trouble: str) -> None:
        if not self.own.known:
            return
        if situation.confirmed >= 0:
            self._in_force = self.own.intent.followed
        made = report(self.own, self._reconciler, situation, self._in_force, self.returning_together(), address_trouble)
        self.exchange.tell(made)

    @property
    def waited_for(self) -> bool:
        return self.exchange.report is not None and bool(self.exchange.report[0].open)

    def troubles(self) -> tuple[str, ...]:
        refused = self.exchange.refused
        differs = [
            f"{subject} differs here by --local" + (f" ({refused[subject]})" if subject in refused else "")
            for subject in sorted(self.own.intent.exceptions)
        ]
        lasting = f"{', '.join(differs)}. The next command about it holds everywhere" if differs else ""
        return (self.shared.trouble, lasting)

    def shown(self) -> tuple[list[AgentStatus], StoreStatus] | None:
        alone_since = self.shared.alone_since
        node = self._reconciler.config.node
        own = self.exchange.report[0] if self.exchange.report else Reported(node=node)
        shown = agents(self.shared.view or View(), node, own, alone_since is not None)
        return shown, StoreStatus(etcd=alone_since is None, alone_since=alone_since, error=self.shared.error)

    # --------------------------------------------------------------------------------------- commands

    async def decide(self, change: Change, by: str) -> Decided:
        if change.local:
            return await self._decide_here(change, by)
        attempts = 1 if change.if_revision is not None else ATTEMPTS
        return await self._patience.until_stored(lambda until: self._decide_for_all(change, by, until), attempts)

    async def _decide_for_all(self, change: Change, by: str, until: float) -> Decided:
        view = await self._patience.read(until)
        if self.own.known and (mended := share.mend(view.intent, self.own.intent, self._clock.steady())):
            log.warning("%s", mended[1])
            view = replace(view, intent=await self._patience.in_time(self.shared.swap(mended[0]), until))
        base = view.intent or Intent()
        reconciler, node = self._reconciler, self._reconciler.config.node
        async with self.own.lock:
            await reconciler.look(self.own)
            self.own.require()
            await self.follow()
            others = elsewhere(view, node, self.own.intent)
            steady = self._clock.steady()
            decision = decide(reconciler.site, base, change, self._clock.now(), by, others, steady)
            shared = share.share(decision.intent, base, decision.subjects, node, steady)
            self.own.intent = overrides.compare(self.own.intent, decision.subjects)
            mine = self._as_followed(replace(shared, revision=base.revision + 1))
            if change.dry_run:
                return Decided(decision=decision, steps=reconciler.preview(mine))
            await reconciler.make_room(mine)
        try:
            if decision.intent != base or set(others.exceptions) & set(map(str, decision.subjects)):
                base = await self._patience.in_time(self.shared.swap(shared, healthy=bool(decision.drains)), until)
        finally:
            await reconciler.release_room()
        self.exchange.read_at_once()
        return Decided(decision=decision, revision=base.revision, stamp=base.followed)

    async def _decide_here(self, change: Change, by: str) -> Decided:
        """``--local``: this HAProxy alone, whatever etcd does; what differs by it is remembered as an override."""
        away = await self._patience.store_is_away()
        reconciler = self._reconciler
        async with self.own.lock:
            await reconciler.look(self.own)
            self.own.require()
            before, now = self.own.intent, self._clock.steady()
            decision = decide(
                reconciler.site,
                before,
                change,
                self._clock.now(),
                by,
                steady=now,
            )
            if change.dry_run:
                return Decided(decision=decision, steps=reconciler.preview(decision.intent))
            exceptions = before.exceptions | self._overrides(decision, before, away, now)
            await reconciler.store(self.own, replace(decision.intent, exceptions=exceptions))
            return Decided(decision=decision, revision=self.revision)

    def _overrides(self, decision: Decision, before: Intent, away: bool, now: float) -> dict[str, Override]:
        shared = share.from_own(before, now)  # not what etcd holds by now: that may be an older one
        return {
            str(subject): Override(
                revision=self.revision,
                store_was_away=away,
                compared=not away and not self.exchange.behind(),
                service=None if subject.node else shared.services.get(subject.service),
                drain=shared.drain(subject.node, subject.service) if subject.node else None,
            )
            for subject in decision.subjects
        }

    async def forget(self, node: str, by: str) -> None:
        await self._patience.until_stored(lambda until: self._forget(node, until), ATTEMPTS)
        log.info("%s forgotten by %s", node, by)
        await self.exchange.note("forget", Subject(node, ""), by, "")

    async def _forget(self, node: str, until: float) -> None:
        view = await self._patience.read(until)
        if node not in view.known() and node not in view.alive:
            raise LbagentError("unknown_node", f"there is no agent on {node}; there are: {', '.join(view.known())}")
        if node in view.alive:
            raise LbagentError("agent_alive", f"the agent on {node} is running. Stop it first")
        await self._patience.in_time(self.shared.forget(node), until)  # first: who has a report is a member
        if view.intent is not None and node in view.intent.members:
            await self._patience.in_time(self.shared.swap(share.without(view.intent, node)), until)
        await self._patience.in_time(self.shared.look(), until)

    def close(self) -> None:
        self.shared.close()
