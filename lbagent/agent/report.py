"""What this agent tells the others of its HAProxy, made anew after each tick."""

from __future__ import annotations

from collections.abc import Set

from lbagent import __version__
from lbagent.agent.own_intent import OwnIntent
from lbagent.agent.reconciler import Reconciler
from lbagent.cluster.members import Member, sick
from lbagent.model.intent import Phase, Stamp
from lbagent.model.observed import Observed
from lbagent.model.subject import Subject
from lbagent.rules.drains import node_well
from lbagent.rules.opening import without_servers
from lbagent.rules.operations import PATIENCE
from lbagent.rules.waiting import Situation, open_lines

Report = tuple[Member, tuple[str, ...]]
"""The report, and the servers that are not ready here for other reasons than a drain of ours."""


def report(
    own: OwnIntent,
    reconciler: Reconciler,
    situation: Situation,
    in_force: Stamp | None,
    together: Set[Subject],
    address_trouble: str,
) -> Report:
    """``in_force`` is the newest shared revision that every worker was read back with."""
    seen, intent, condition = reconciler.observed, own.intent, reconciler.condition
    bare = (
        name
        for name, service in reconciler.topology.services.items()
        if seen.up and any(seen.backends[b].guard is None for b in service.http)
    )
    member = Member(
        node=reconciler.config.node,
        followed=in_force,
        in_sync=condition.settled,
        up=seen.up or situation.down_for < PATIENCE,
        version=__version__,
        time=situation.now,
        sessions=_sessions(seen),
        clients=seen.connections,
        moves_address=reconciler.config.haproxy.vip_track_file is not None and not address_trouble,
        trouble="; ".join(filter(None, (*condition.failures, own.stuck, address_trouble))),
        open=open_lines(situation),
        well=_well(own, reconciler, together) if condition.settled else (),
        holding=tuple(str(Subject(n, s)) for n, drains in intent.drains.items() for s in drains),
        bare=tuple(sorted(bare)),
        exceptions=tuple(sorted(intent.exceptions)),
        empty=_empty(reconciler),
    )
    return member, sick(intent, seen) if seen.up else ()


def _empty(reconciler: Reconciler) -> tuple[str, ...]:
    services = reconciler.topology.services.items()
    return tuple(sorted(name for name, service in services if without_servers(service, reconciler.observed)))


def _sessions(seen: Observed) -> dict[str, int]:
    if not seen.up:
        return {}
    old = {ref for worker in seen.old_workers or () for ref in worker.sessions}
    now = {s.ref for b in seen.backends.values() for s in b.servers.values() if s.sessions}
    return {str(ref): seen.sessions(ref) for ref in sorted(old | now)}


def _well(own: OwnIntent, reconciler: Reconciler, together: Set[Subject]) -> tuple[str, ...]:
    """Nodes whose servers may come back as far as this HAProxy is concerned."""
    drains = own.intent.drains
    returning = {n for n, services in drains.items() if any(d.phase is Phase.RETURNING for d in services.values())}
    well = {n for n in returning if node_well(n, own.intent, reconciler.observed, reconciler.proved)}
    asked = {subject.node for subject in together if subject.node}
    return tuple(sorted(well | (asked - set(drains))))
