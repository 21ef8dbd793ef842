"""The life of a drain once the command is given: the steps that need no operator. Pure.

A drain is held, then returning, then released, then forgotten (:class:`lbagent.model.intent.Phase`). Commands move it
from held to returning and back; this module does the rest, from what HAProxy shows:

* a drain that was asked to end in maint goes there once no request is open;
* a returning drain is released when every server of its node has passed its health check, so that a node comes back
  as a whole; when its timeout passes first, the whole node stays drained;
* a released drain is forgotten when HAProxy shows every server as it was before, and every worker has been read;
* a service that is down stays closed when its guard vanishes: its servers go to maint until the guard is back.
"""

from __future__ import annotations

from collections.abc import Set

from msgspec.structs import replace

from lbagent.model.intent import Drain, Held, Hold, HoldReason, Intent, Mode, Phase
from lbagent.model.observed import Observed
from lbagent.model.servers import FORCED_DRAIN, FORCED_MAINT, Admin, Ref
from lbagent.model.subject import Subject
from lbagent.rules.plan import may_return
from lbagent.topology.covered import with_notes


def advance(
    intent: Intent,
    observed: Observed,
    proved: Set[Ref],
    now: float,
    settled: bool,
    together: Set[Subject] = frozenset(),
    steady: float | None = None,
) -> Intent:
    """The intent after what is observed; the same object when nothing moved.

    ``settled``: at the last look every worker held what it should, and none was starting. Only then is a released
    drain forgotten: a worker that had read the older server-state file would keep its servers out for ever.
    ``together``: drains that come back on every HAProxy at once; they are not released here.
    ``steady`` is the time that deadlines are by, ``now`` the one that windows are by.
    """
    if not observed.up:
        return intent
    out = _keep_closed_without_guard(_begun(intent, now), observed, now)
    held = out.held()
    waited = now if steady is None else steady
    for reason, subject, drain in list(out.every_drain()):
        match drain.phase:
            case Phase.HELD:
                after: Drain | None = _held(drain, observed)
            case Phase.RETURNING if subject in together and reason is HoldReason.DRAIN:
                after = drain
            case Phase.RETURNING:
                after = _returning(drain, _all_may_return(reason, subject, held, observed, proved), waited)
            case Phase.RELEASED:
                mine = [h.server for h in held.values() if h.by == (reason, subject)]
                after = None if settled and all(_given_back(server, observed) for server in mine) else drain
        if after != drain:
            out = out.with_changed(reason, subject, after)
    return out


def node_well(node: str, intent: Intent, observed: Observed, proved: Set[Ref]) -> bool:
    """Every server of ``node`` that is on its way back has passed its health check."""
    return _all_may_return(HoldReason.DRAIN, Subject(node, ""), intent.held(), observed, proved)


def _all_may_return(
    reason: HoldReason, subject: Subject, held: dict[Ref, Hold], observed: Observed, proved: Set[Ref]
) -> bool:
    """A drained node comes back as a whole: one server that is not well keeps all of them out."""

    def belongs(hold: Hold) -> bool:
        if reason is HoldReason.DRAIN:
            return hold.reason is reason and hold.subject.node == subject.node
        return hold.by == (reason, subject)

    returning = [h for h in held.values() if belongs(h) and h.drain.phase is Phase.RETURNING]
    return all(may_return(observed.server(h.server.ref), h.server, proved) for h in returning)


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
    return replace(drain.step(Phase.HELD), given_up=True) if late else drain


def _begun(intent: Intent, now: float) -> Intent:
    """A window that has begun has begun: from then on no clock that steps back opens it again."""
    out = intent
    for name, service in intent.services.items():
        if not service.at_once and now >= service.start:
            out = out.with_service(name, replace(service, at_once=True))
    return out


def _keep_closed_without_guard(intent: Intent, observed: Observed, now: float) -> Intent:
    out = intent
    for name in {*intent.services, *intent.guardless}:
        service = intent.services.get(name)
        closed = service is not None and service.effective(now) is Mode.DOWN
        backends = {key.rpartition("/")[2] for key in service.keys} if service and closed else set()
        bare = [b for b in sorted(backends) if b in observed.backends and observed.backends[b].guard is None]
        drain = intent.guardless.get(name)
        if bare:
            drain = _closed_by_maint(drain, bare, out, observed, now)
        elif drain is not None and drain.phase is Phase.HELD:
            drain = drain.step(Phase.RETURNING)
        if drain != out.guardless.get(name):
            out = out.with_changed(HoldReason.GUARD, Subject("", name), drain)
    return out


def _closed_by_maint(
    before: Drain | None, backends: list[str], intent: Intent, observed: Observed, now: float
) -> Drain:
    """The drain that keeps ``backends`` closed: what it held already, and the servers that nobody holds."""
    ours = intent.held()
    servers = [
        with_notes(seen.ref, observed)
        for b in backends
        for seen in observed.backends[b].servers.values()
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
    return seen.parked or not seen.mask & (FORCED_MAINT | FORCED_DRAIN)
