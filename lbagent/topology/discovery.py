"""Services and nodes by the names that deployers give them; the patterns are data, in haproxy/deployers.yaml. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

import msgspec
import yaml

from lbagent.model.observed import BackendSeen
from lbagent.model.servers import Ref
from lbagent.settings import presets, shipped
from lbagent.settings.config import ServiceConfig


class Deployers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    endings: tuple[tuple[str, str], ...]
    services: dict[str, tuple[str, ...]]
    nodes: tuple[str, ...]
    public_frontends: tuple[tuple[str, str], ...]


@cache
def deployers() -> Deployers:
    return msgspec.convert(yaml.safe_load(shipped.text("deployers.yaml")), Deployers)


@cache
def _by_name() -> dict[str, str]:
    known = deployers().services
    return {alias: name for name, aliases in known.items() for alias in (name, *aliases)}


@lru_cache(maxsize=4096)
def service_of(backend: str) -> tuple[str | None, str]:
    """(the service whose API a backend's name says it is, why); None for a name that no deployer gives."""
    if backend in _by_name():
        return _by_name()[backend], "by its name"
    for ending, whose in deployers().endings:
        base = backend.removesuffix(ending)
        if base != backend and base in _by_name():
            return _by_name()[base], f"by {whose}'s name"
    return None, "no deployer's name"


def services(seen: Mapping[str, BackendSeen]) -> dict[str, ServiceConfig]:
    """The services of the http backends that have servers."""
    found: dict[str, list[str]] = {}
    alike: dict[str, list[str]] = {}
    for name in seen:
        alike.setdefault(_short(name), []).append(name)
    for name, backend in sorted(seen.items()):
        if backend.http and backend.servers:
            found.setdefault(service_of(name)[0] or _plain(name, alike[_short(name)]), []).append(name)
    return {
        name: ServiceConfig(backends=tuple(backends), preset=presets.default_for(name))
        for name, backends in found.items()
    }


def _plain(backend: str, alike: list[str]) -> str:
    """An unknown backend's name without a deployer's ending, unless that would be another one's name too."""
    split = tuple(ending for ending, whose in deployers().endings if whose == "Kolla-Ansible")
    unmistakable = len(alike) == 1 or all(name.endswith(split) for name in alike)
    return (_short(backend) if unmistakable else "") or backend


@lru_cache(maxsize=4096)
def _short(backend: str) -> str:
    for ending, _ in deployers().endings:
        if backend.endswith(ending):
            return backend.removesuffix(ending).removesuffix("_api")
    return backend.removesuffix("_api")


@lru_cache(maxsize=4096)
def node_of(server: str) -> str:
    """The node that a server's name says it is on."""
    try:
        ipaddress.ip_address(server)
    except ValueError:
        for pattern in deployers().nodes:
            if match := re.match(pattern, server):
                return match[1]
    return server


def nodes(refs: Iterable[Ref], seen: Mapping[str, BackendSeen]) -> dict[str, tuple[Ref, ...]]:
    """Servers by node: those with the same address are on one, else those whose names say so.

    An address tells nothing where a backend has it twice, as on a single machine.
    """
    refs = list(refs)
    shared = _shared_addresses(refs, seen)
    at: dict[str, list[Ref]] = {}
    for ref in refs:
        address = seen[ref.backend].servers[ref.server].address
        if address not in shared:
            at.setdefault(address, []).append(ref)
    name_at = {
        address: min(Counter(node_of(ref.server) for ref in there).most_common(), key=lambda n: (-n[1], n[0]))[0]
        for address, there in at.items()
    }
    found: dict[str, list[Ref]] = {}
    for ref in refs:
        address = seen[ref.backend].servers[ref.server].address
        found.setdefault(name_at.get(address) or node_of(ref.server), []).append(ref)
    return {name: tuple(found[name]) for name in sorted(found)}


def _shared_addresses(refs: Iterable[Ref], seen: Mapping[str, BackendSeen]) -> set[str]:
    """Those that two servers of a backend have, and those that mean "this host" or nothing."""
    times = Counter((ref.backend, seen[ref.backend].servers[ref.server].address) for ref in refs)
    return {address for (_, address), count in times.items() if count > 1} | {"127.0.0.1", "::1", "-", ""}


def is_public(frontend: str) -> str | None:
    """Whose pattern says that a frontend faces the public; None when no name tells."""
    return next((whose for pattern, whose in deployers().public_frontends if re.search(pattern, frontend)), None)
