"""Which backends a service owns and which servers a node has: the configuration laid over what HAProxy runs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from lbagent.model.observed import BackendSeen
from lbagent.model.servers import Ref
from lbagent.settings import deployers, presets
from lbagent.settings.config import Config, ServiceConfig
from lbagent.topology import discovery


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
    owner: dict[Ref, str]  # server → its node
    unowned: tuple[str, ...] = ()  # http backends with servers that belong to no service
    why: dict[str, str] = {}  # node → what says that its servers are on one node
    stays: dict[str, tuple[Ref, ...]] = {}  # node → its servers in no service: a drain leaves them in traffic
    nodeless: tuple[Ref, ...] = ()  # servers of a service that are on no node

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


Layout = tuple[tuple[str, bool, tuple[tuple[str, str], ...]], ...]

_last: tuple[Config, Layout, Topology] | None = None


def topology(config: Config, seen: Mapping[str, BackendSeen]) -> Topology:
    """Services and nodes: those that are discovered in ``seen``, and the configuration laid over them.

    The last answer is kept. It is asked for at every tick, takes 2 ms for a thousand servers, and depends on names and
    addresses only, which hardly ever change.
    """
    global _last  # noqa: PLW0603 a cache of one entry
    layout = tuple(
        (name, backend.http, tuple((s, seen.address) for s, seen in backend.servers.items()))
        for name, backend in seen.items()
    )
    if _last is None or _last[0] is not config or _last[1] != layout:
        _last = (config, layout, _topology(config, seen))
    return _last[2]


def _topology(config: Config, seen: Mapping[str, BackendSeen]) -> Topology:
    http = [name for name, backend in seen.items() if backend.http and backend.servers]
    configured = services(config, discovery.services(http) if config.discover else {})
    owned = {backend for service in configured.values() for backend in service.backends or ()}
    known = {name: _service(name, service, seen) for name, service in configured.items()}
    refs = _servers(dict.fromkeys(b for s in known.values() for b in s.backends), seen)
    nodes, why = _nodes(config, refs, seen)
    at = {ref for there in nodes.values() for ref in there}
    others = _servers([name for name in seen if name not in owned], seen)
    return Topology(
        services=known,
        nodes=nodes,
        owner={ref: node for node, there in nodes.items() for ref in there},
        unowned=tuple(sorted(set(http) - owned)),
        why=why,
        stays=_staying(config, nodes, others, seen),
        nodeless=tuple(ref for ref in refs if ref not in at),
    )


def _servers(backends: Iterable[str], seen: Mapping[str, BackendSeen]) -> list[Ref]:
    return [Ref(backend, server) for backend in backends for server in seen[backend].servers]


def _nodes(
    config: Config, refs: list[Ref], seen: Mapping[str, BackendSeen]
) -> tuple[dict[str, tuple[Ref, ...]], dict[str, str]]:
    """The configured nodes laid over the discovered ones, and why. Listed servers replace a node's discovered ones."""
    nodes: dict[str, list[Ref]] = {name: [] for name in config.nodes}
    claimed: dict[Ref, str] = {}
    for ref in refs:
        owner = _configured_node(config, ref, seen[ref.backend].servers[ref.server].address)
        if owner is not None:
            claimed[ref] = owner
            nodes[owner].append(ref)
    why = dict.fromkeys(nodes, "configured")
    for found in discovery.nodes(refs, seen) if config.discover else ():
        left = [ref for ref in found.refs if ref not in claimed]
        if not left or (found.name in config.nodes and config.nodes[found.name].servers is not None):
            continue
        nodes.setdefault(found.name, []).extend(left)
        why.setdefault(found.name, found.why)
    order = {ref: index for index, ref in enumerate(refs)}
    return {name: tuple(sorted(there, key=order.__getitem__)) for name, there in nodes.items()}, why


def _configured_node(config: Config, ref: Ref, address: str) -> str | None:
    """Whose server it is by the configuration: an address says more than a name."""
    for name, node in config.nodes.items():
        if address in node.addresses:
            return name
    for name, node in config.nodes.items():
        listed = (name,) if node.servers is None else node.servers
        if ref.server in listed or (name in listed and deployers.node_of(ref.server).name == name):
            return name
    return None


def _staying(
    config: Config, nodes: Mapping[str, tuple[Ref, ...]], others: list[Ref], seen: Mapping[str, BackendSeen]
) -> dict[str, tuple[Ref, ...]]:
    """The servers of backends that no service owns, by the node that they are on: by address, else by name."""
    places: dict[str, set[str]] = {}
    for name, there in nodes.items():
        for ref in there:
            places.setdefault(seen[ref.backend].servers[ref.server].address, set()).add(name)
    found: dict[str, list[Ref]] = {}
    for ref in others:
        address = seen[ref.backend].servers[ref.server].address
        node = _configured_node(config, ref, address)
        if node is None and address not in discovery.NOWHERE and len(places.get(address, ())) == 1:
            [node] = places[address]
        if node is None and deployers.node_of(ref.server).name in nodes:
            node = deployers.node_of(ref.server).name
        if node is not None:
            found.setdefault(node, []).append(ref)
    return {node: tuple(there) for node, there in found.items()}


def _service(name: str, service: ServiceConfig, seen: Mapping[str, BackendSeen]) -> Service:
    backends = service.backends or ()
    return Service(
        name=name,
        config=service,
        http=tuple(b for b in backends if b in seen and seen[b].http),
        tcp=tuple(b for b in backends if b in seen and not seen[b].http),
        missing=tuple(b for b in backends if b not in seen),
    )
