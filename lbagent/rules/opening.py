"""``up``: a service opens once HAProxy has a server for it, so that nobody is let in to find it dead. Pure.

The wish to open is part of the intent: it goes on when lbctl is interrupted or the agent restarts, until it is carried
out or its timeout withdraws it. Where several HAProxies share the intent, the service opens on all of them at once,
when every HAProxy that is up has servers (:mod:`lbagent.cluster.returning`).
"""

from __future__ import annotations

from collections.abc import Set

from msgspec.structs import replace

from lbagent.model.intent import Intent, Opening, ServiceIntent
from lbagent.model.observed import Observed
from lbagent.model.subject import Subject
from lbagent.topology.resolve import Service, Topology


def without_servers(known: Service | None, observed: Observed) -> list[str]:
    """The backends of a service that have no server which HAProxy would use; those that are parked do not count."""
    if known is None or not observed.up:
        return []
    empty = []
    for name in known.http:
        backend = observed.backends[name]
        parked = bool(backend.servers) and all(server.parked for server in backend.servers.values())
        if not parked and not backend.used():
            empty.append(name)
    return empty


def waiting(service: ServiceIntent, until: int) -> ServiceIntent:
    """The service, to open when it has servers; ``until`` is by the steady clock."""
    return replace(service, opening=Opening.WAITING, opens_until=until)


def advance_openings(
    intent: Intent, topology: Topology, observed: Observed, steady: float, together: Set[Subject] = frozenset()
) -> Intent:
    """After what is observed: services that have servers are opened, wishes whose time has passed are withdrawn.

    ``together``: those that open on every HAProxy at once; they are not opened here.
    """
    out = intent
    for name, service in intent.services.items():
        if service.opening is not Opening.WAITING or Subject("", name) in together:
            continue
        if observed.up and not without_servers(topology.services.get(name), observed):
            out = out.with_service(name, None)
        elif service.opens_until is not None and steady >= service.opens_until:
            out = out.with_service(name, replace(service, opening=Opening.WITHDRAWN))
    return out
