"""Which backends a service owns and which servers a node has: the configuration laid over what HAProxy runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from lbagent.model.observed import BackendSeen
from lbagent.model.servers import Ref
from lbagent.settings import presets
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
    unowned: tuple[str, ...] = ()  # http backends with servers that belong to no service

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


def services(config: Config, found: Mapping[str, tuple[str, ...]]) -> dict[str, ServiceConfig]:
    """The configured services laid over those that were ``found`` (name → backends), key by key.

    Listed backends replace the found ones, and belong to no other service. A configured service for which nothing is
    listed or found has a backend of its own name.
    """
    listed = {backend for service in config.services.values() for backend in service.backends or ()}
    out: dict[str, ServiceConfig] = {}
    for name, service in config.services.items():
        backends = service.backends or tuple(b for b in found.get(name, ()) if b not in listed) or (name,)
        out[name] = replace(service, backends=backends)
    for name, backends in found.items():
        free = tuple(backend for backend in backends if backend not in listed)
        if name not in out and free:
            out[name] = ServiceConfig(backends=free, preset=presets.default_for(name))
    return out


def topology(config: Config, seen: Mapping[str, BackendSeen]) -> Topology:
    """Services and nodes: those that are discovered in ``seen``, and the configuration laid over them."""
    http = [name for name, backend in seen.items() if backend.http and backend.servers]
    configured = services(config, discovery.services(http) if config.discover else {})
    owned = {backend for service in configured.values() for backend in service.backends or ()}
    known = {name: _service(name, service, seen) for name, service in configured.items()}
    refs = [
        Ref(b, server)
        for b in dict.fromkeys(b for s in known.values() for b in s.backends)
        for server in seen[b].servers
    ]
    if not config.nodes:
        nodes = discovery.nodes(refs, seen)
    else:
        nodes = {
            name: tuple(ref for ref in refs if _is_on(name, node, ref, seen[ref.backend].servers[ref.server].address))
            for name, node in config.nodes.items()
        }
    return Topology(services=known, nodes=nodes, unowned=tuple(sorted(set(http) - owned)))


def _service(name: str, service: ServiceConfig, seen: Mapping[str, BackendSeen]) -> Service:
    backends = service.backends or ()
    return Service(
        name=name,
        config=service,
        http=tuple(b for b in backends if b in seen and seen[b].http),
        tcp=tuple(b for b in backends if b in seen and not seen[b].http),
        missing=tuple(b for b in backends if b not in seen),
    )


def _is_on(name: str, node: NodeConfig, ref: Ref, address: str) -> bool:
    """By its address, by a name that is listed, or, where the node's own is, by a deployer's name for its servers."""
    listed = (name,) if node.servers is None else node.servers
    by_name = name in listed and names.node_of(ref.server) == name
    return address in node.addresses or ref.server in listed or by_name
