"""What deployers call services, nodes and frontends; the patterns are data, in haproxy/deployers.yaml. Pure."""

from __future__ import annotations

import ipaddress
import re
from functools import cache, lru_cache

import msgspec
import yaml

from lbagent.settings import shipped


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


@lru_cache(maxsize=4096)
def short(backend: str) -> str:
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


def is_public(frontend: str) -> str | None:
    """Whose pattern says that a frontend faces the public; None when no name tells."""
    return next((whose for pattern, whose in deployers().public_frontends if re.search(pattern, frontend)), None)
