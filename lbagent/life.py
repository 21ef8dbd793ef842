"""What becomes of an intent as time goes and HAProxy answers: the steps that need no operator. Pure."""

from __future__ import annotations

from collections.abc import Set

from msgspec.structs import replace

from .model import FORCED_DRAIN, FORCED_MAINT, Admin, Drain, Held, Intent, Observed, Phase, Ref
from .plan import well


def advance(intent: Intent, observed: Observed, proved: Set[Ref], now: float) -> Intent:
    """The intent after what is observed; the same object when nothing moved."""
    if not observed.up:
        return intent
    out = intent
    for node, drains in intent.drains.items():
        returning = [d for d in drains.values() if d.phase is Phase.RETURNING]
        all_well = all(well(observed.server(h.ref), h, proved) for d in returning for h in d.servers)
        for service, drain in drains.items():
            after = _step(drain, observed, all_well, now)
            if after != drain:
                out = out.with_drain(node, service, after)
    return out


def _step(drain: Drain, observed: Observed, all_well: bool, now: float) -> Drain | None:
    if drain.phase is Phase.HELD:
        servers = tuple(_as_seen(held, observed) for held in drain.servers)
        drain = replace(drain, servers=servers) if servers != drain.servers else drain
        if drain.end_in_maint and not any(observed.sessions(h.ref) for h in drain.servers):
            return replace(drain, admin=Admin.MAINT, end_in_maint=False)
        return drain
    if drain.phase is Phase.RETURNING:
        # A node comes back as a whole: one server that is not well keeps all of them out.
        if all_well:
            return drain.step(Phase.RELEASED)
        late = drain.deadline is not None and now >= drain.deadline
        return drain.step(Phase.HELD) if late else drain
    return None if all(_given_back(held, observed) for held in drain.servers) else drain


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
