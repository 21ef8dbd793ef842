"""Which backends a service owns and which servers a node has: the configuration laid over what HAProxy runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from lbagent.model.observed import BackendSeen
from lbagent.model.servers import Ref
from lbagent.settings.config import Config, NodeConfig, ServiceConfig
from lbagent.topology import discovery, names


class Service(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    config: ServiceConfig
    http: tuple[str, ...]  # backends that can carry a guard
    tcp: tuple[str, ...]  # backends that can only be drained
    missing: tuple[str, ...]  # configured, but not in the running HAProxy

    def keys(self, unseen: bool = False) -> tuple[str, ...]:
        """What a mode of this service is looked up by (DESIGN §4).

        ``unseen``: HAProxy does not answer, so backends that were not seen yet are taken for http ones.
        """
        backends = (*self.http, *self.missing) if unseen else self.http
        places = self.config.frontends
        return tuple(f"{place}/{b}" for b in backends for place in places) if places else backends

    @property
    def backends(self) -> tuple[str, ...]:
        return (*self.http, *self.tcp)


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    services: dict[str, Service]
    nodes: dict[str, tuple[Ref, ...]]

    @property
    def owner(self) -> dict[Ref, str]:
        """Server → its node."""
        return {ref: node for node, refs in self.nodes.items() for ref in refs}

    def node_services(self, node: str) -> dict[str, tuple[Ref, ...]]:
        """The services that have servers on ``node``: name → servers."""
        at: dict[str, list[Ref]] = {}
        for ref in self.nodes.get(node, ()):
            at.setdefault(ref.backend, []).append(ref)
        found = {
            name: tuple(ref for backend in service.backends for ref in at.get(backend, ()))
            for name, service in self.services.items()
        }
        return {name: refs for name, refs in found.items() if refs}


def topology(config: Config, seen: Mapping[str, BackendSeen]) -> Topology:
    """Services and nodes; those that are not configured are discovered in ``seen``."""
    configured = config.services or discovery.services(seen)
    services = {
        name: Service(
            name=name,
            config=service,
            http=tuple(b for b in service.backends if b in seen and seen[b].http),
            tcp=tuple(b for b in service.backends if b in seen and not seen[b].http),
            missing=tuple(b for b in service.backends if b not in seen),
        )
        for name, service in configured.items()
    }
    refs = [
        Ref(b, server)
        for b in dict.fromkeys(b for s in services.values() for b in s.backends)
        for server in seen[b].servers
    ]
    if not config.nodes:
        nodes = discovery.nodes(refs, seen)
    else:
        nodes = {
            name: tuple(ref for ref in refs if _is_on(name, node, ref, seen[ref.backend].servers[ref.server].address))
            for name, node in config.nodes.items()
        }
    return Topology(services=services, nodes=nodes)


def _is_on(name: str, node: NodeConfig, ref: Ref, address: str) -> bool:
    """By its address, by a name that is listed, or, where the node's own is, by a deployer's name for its servers."""
    by_name = name in node.servers and names.node_of(ref.server) == name
    return address in node.addresses or ref.server in node.servers or by_name
