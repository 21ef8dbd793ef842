"""What an intent applies to now. Pure.

An intent is about a service or a node, never about the names of the moment it was given. HAProxy's configuration goes
on living: a backend is added or renamed, a server gets another line, another address, or moves to another node. Each
look at HAProxy therefore works out anew which backends a service owns and which servers a node has, and
:func:`cover` widens the intent's notes by what is new.

Why this never opens anything. A mode keeps every key that it ever covered, until somebody opens the service. A drain
keeps a server that is gone from the configuration. The one thing that ends is the hold on a server that has moved to
another node: that node was not drained, so the server is given back, though only once its health check has passed.
"""

from __future__ import annotations

from msgspec.structs import replace

from lbagent.model.intent import WEIGHT, Drain, Held, HoldReason, Intent, Phase
from lbagent.model.observed import Observed
from lbagent.model.servers import Admin, Health, Ref
from lbagent.model.subject import Subject
from lbagent.topology.resolve import Topology


def cover(intent: Intent, topology: Topology, observed: Observed) -> Intent:
    """``intent`` with its notes widened to what runs now; the same object when there is nothing new."""
    if not observed.up:
        return intent
    out = whole_nodes(_modes(intent, topology), topology)
    for node, services in out.drains.items():
        at = topology.node_services(node)
        for name, drain in services.items():
            if drain.phase is Phase.RELEASED:
                continue
            stayed, left = _stayed_and_left(node, drain, topology)
            known = {held.ref for held in stayed}
            ours = out.held()
            added = [
                ours[ref].server if ref in ours else with_notes(ref, observed)
                for ref in at.get(name, ())
                if ref not in known
            ]
            if added or left:
                out = out.with_drain(node, name, replace(drain, servers=(*stayed, *added)))
            for held in left:
                out = _give_back(out, held, drain)
    return intent if out == intent else out


def whole_nodes(intent: Intent, topology: Topology) -> Intent:
    """With a drain for each service of a node that was drained as a whole, the services that came later too."""
    out = intent
    for node, services in intent.drains.items():
        whole = [d for d in services.values() if d.whole and d.phase is not Phase.RELEASED]
        if not whole:
            continue
        pattern = max(whole, key=lambda drain: WEIGHT[drain.phase])
        given_back = {name for drain in services.values() for name in drain.given_back}
        for name in topology.node_services(node):
            if name not in services and name not in given_back:
                out = out.with_drain(node, name, replace(pattern, servers=()))
    return out


def with_notes(ref: Ref, observed: Observed) -> Held:
    """A server that we begin to hold, with what it has to be given back as."""
    seen = observed.server(ref)
    if seen is None:
        return Held(backend=ref.backend, server=ref.server)
    foreign = seen.admin if seen.admin is not Admin.READY and not seen.parked else None
    was_down = seen.health is Health.DOWN and seen.admin is Admin.READY
    return Held(backend=ref.backend, server=ref.server, foreign=foreign, agent_check=seen.agent, was_down=was_down)


def _modes(intent: Intent, topology: Topology) -> Intent:
    out = intent
    for name, service in intent.services.items():
        known = topology.services.get(name)
        keys = tuple(dict.fromkeys((*service.keys, *known.keys()))) if known else service.keys
        if keys != service.keys:
            out = out.with_service(name, replace(service, keys=keys))
    return out


def _stayed_and_left(node: str, drain: Drain, topology: Topology) -> tuple[list[Held], list[Held]]:
    """The servers that ``drain`` holds by right, and those that another node has by now."""
    owner = topology.owner
    left = [held for held in drain.servers if owner.get(held.ref, node) != node]
    return [held for held in drain.servers if held not in left], left


def _give_back(intent: Intent, held: Held, drain: Drain) -> Intent:
    back = replace(drain, phase=Phase.RETURNING, whole=False, deadline=None, kill=False, servers=(held,))
    return intent.with_changed(HoldReason.MOVED, Subject(held.backend, held.server), back)
