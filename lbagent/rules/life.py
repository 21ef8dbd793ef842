"""What becomes of an intent as time goes and HAProxy answers: the steps that need no operator. Pure."""

from __future__ import annotations

from collections.abc import Set

from msgspec.structs import replace

from lbagent.model.intent import GUARD_GONE, Drain, Held, Intent, Mode, Phase
from lbagent.model.observed import Observed
from lbagent.model.servers import FORCED_DRAIN, FORCED_MAINT, Admin, Ref
from lbagent.rules.plan import well


def advance(
    intent: Intent,
    observed: Observed,
    proved: Set[Ref],
    now: float,
    settled: bool,
    together: Set[tuple[str, str]] = frozenset(),
) -> Intent:
    """The intent after what is observed; the same object when nothing moved.

    ``settled``: at the last look every worker held what it should, and none was starting. Only then is a released
    drain forgotten: a worker that had read the older server-state file would keep its servers out for ever.
    """
    if not observed.up:
        return intent
    out = _guard_gone(intent, observed, now)
    owner = out.held()
    for node, drains in out.drains.items():
        # Where two drains hold a server, only the one that holds on decides about it.
        mine = {name: [h for h in drain.servers if owner[h.ref][:2] == (node, name)] for name, drain in drains.items()}
        # A node comes back as a whole: one server that is not well keeps all of them out.
        all_well = node_well(node, out, observed, proved)
        for name, drain in drains.items():
            if drain.phase is Phase.HELD:
                after: Drain | None = _held(drain, observed)
            elif drain.phase is Phase.RETURNING:
                after = drain if (node, name) in together else _returning(drain, all_well, now)
            else:
                gone = settled and all(_given_back(h, observed) for h in mine[name])
                after = None if gone else drain
            if after != drain:
                out = out.with_drain(node, name, after)
    return out


def node_well(node: str, intent: Intent, observed: Observed, proved: Set[Ref]) -> bool:
    """Every server that is to come back on ``node`` may."""
    owner = intent.held()
    returning = [
        held
        for name, drain in intent.drains.get(node, {}).items()
        if drain.phase is Phase.RETURNING
        for held in drain.servers
        if owner[held.ref][:2] == (node, name)
    ]
    return all(well(observed.server(held.ref), held, proved) for held in returning)


def _held(drain: Drain, observed: Observed) -> Drain:
    servers = tuple(_as_seen(held, observed) for held in drain.servers)
    drain = replace(drain, servers=servers) if servers != drain.servers else drain
    seen = [s for h in drain.servers if (s := observed.server(h.ref)) is not None]
    empty = all(s.admin is not Admin.READY and not observed.sessions(s.ref) for s in seen)
    if drain.end_in_maint and empty:
        return replace(drain, admin=Admin.MAINT, end_in_maint=False)
    return drain


def _returning(drain: Drain, all_well: bool, now: float) -> Drain:
    if all_well:
        return drain.step(Phase.RELEASED)
    late = drain.deadline is not None and now >= drain.deadline
    return drain.step(Phase.HELD) if late else drain


def _guard_gone(intent: Intent, observed: Observed, now: float) -> Intent:
    """A service that is down stays closed when its guard vanishes: its servers go to maint until the guard is back."""
    out = intent
    holding = intent.drains.get(GUARD_GONE, {})
    for name in {*intent.services, *holding}:
        service = intent.services.get(name)
        closed = service is not None and service.effective(now) is Mode.DOWN
        backends = {key.rpartition("/")[2] for key in service.keys} if service and closed else set()
        bare = [b for b in sorted(backends) if b in observed.backends and observed.backends[b].guard is None]
        drain = holding.get(name)
        if bare:
            out = out.with_drain(GUARD_GONE, name, _closed_by_maint(drain, bare, out, observed, now))
        elif not bare and drain is not None and drain.phase is Phase.HELD:
            out = out.with_drain(GUARD_GONE, name, drain.step(Phase.RETURNING))
    return out


def _closed_by_maint(
    before: Drain | None, backends: list[str], intent: Intent, observed: Observed, now: float
) -> Drain:
    """The drain that keeps ``backends`` closed: what it held already, and the servers that nobody holds."""
    ours = intent.held()
    servers = [
        Held(backend=b, server=s, foreign=seen.admin if seen.admin is not Admin.READY else None, agent_check=seen.agent)
        for b in backends
        for s, seen in observed.backends[b].servers.items()
        if seen.ref not in ours
    ]
    if before is not None:
        return replace(before.step(Phase.HELD), servers=(*before.servers, *servers))
    reason = "the guard is gone from HAProxy's configuration: closed by maint"
    return Drain(admin=Admin.MAINT, servers=tuple(servers), since=int(now), by="lbagent", reason=reason)


def _as_seen(held: Held, observed: Observed) -> Held:
    seen = observed.server(held.ref)
    if seen is None:
        return held
    if held.foreign is not None and seen.admin is Admin.READY:  # they gave it back: from now on it is ours
        held = replace(held, foreign=None)
    return replace(held, agent_check=True) if seen.agent and not held.agent_check else held


def _given_back(held: Held, observed: Observed) -> bool:
    seen = observed.server(held.ref)
    if seen is None:
        return True
    if held.agent_check and seen.agent_configured and not seen.agent:
        return False
    if held.foreign is not None:
        return held.foreign is Admin.MAINT or not seen.mask & FORCED_MAINT
    return not seen.mask & (FORCED_MAINT | FORCED_DRAIN)
