"""How a drained node comes back on every HAProxy at once. Pure.

A server that has come back on one HAProxy and not on the next would serve some clients and not others, and its health
is a matter of where it is checked from. So each agent reports the nodes that it finds well, one agent looks at all the
reports, and releases the node in the shared intent once every HAProxy that is up finds it well. Which agent does so is
a rule that all of them can work out; where two do it at once, etcd's compare-and-swap lets one of them.
"""

from __future__ import annotations

from msgspec.structs import replace

from lbagent.cluster.members import View
from lbagent.cluster.overrides import in_force
from lbagent.model.intent import Drain, Intent, Opening, Phase
from lbagent.model.subject import Subject


def together(mine: Intent, shared: Intent | None) -> frozenset[Subject]:
    """What comes back on every HAProxy at once, drains and services alike: none may let them in for itself."""
    if shared is None:
        return frozenset()
    returning = (
        Subject(node, name)
        for node, drains in shared.drains.items()
        for name, drain in drains.items()
        if drain.phase is Phase.RETURNING
    )
    opening = (Subject("", name) for name, s in shared.services.items() if s.opening is Opening.WAITING)
    return frozenset(subject for subject in (*returning, *opening) if not in_force(subject, mine, shared))


def step(shared: Intent, view: View, now: float) -> Intent:
    """The shared intent after what every HAProxy reports; the same object when nothing moved."""
    out = shared
    present = view.present()
    agreed = bool(present) and all(m.followed == shared.followed for m in present)
    for name, service in shared.services.items():
        if service.opening is Opening.WAITING:
            if agreed and not any(name in m.empty for m in present):
                out = out.with_service(name, None)
            elif service.opens_until is not None and now >= service.opens_until:
                out = out.with_service(name, replace(service, opening=Opening.WITHDRAWN))
    for node, drains in shared.drains.items():
        well = agreed and all(node in m.well for m in present)
        for name, drain in drains.items():
            after: Drain | None = drain
            if drain.phase is Phase.RETURNING:
                if well:
                    after = drain.step(Phase.RELEASED)
                elif drain.deadline is not None and now >= drain.deadline:
                    after = replace(drain.step(Phase.HELD), given_up=True)
            elif drain.phase is Phase.RELEASED:
                held_somewhere = any(str(Subject(node, name)) in m.holding for m in present)
                after = None if agreed and not held_somewhere else drain
            if after != drain:
                out = out.with_drain(node, name, after)
    return out


def steps_here(shared: Intent, view: View, me: str) -> bool:
    """One agent moves the shared intent on: the one that was asked while it is alive, else the first of them."""
    asked = [d.asked_at for drains in shared.drains.values() for d in drains.values() if d.phase is not Phase.HELD]
    opening = any(service.opening is Opening.WAITING for service in shared.services.values())
    alive = [node for node in asked if node in view.alive]
    return (bool(asked) or opening) and me == (alive[0] if alive else min(view.alive, default=me))
