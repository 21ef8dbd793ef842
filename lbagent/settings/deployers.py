"""What deployers call services, nodes and frontends; the names are data, in haproxy/deployers.yaml. Pure."""

from __future__ import annotations

import ipaddress
import re
from functools import cache, lru_cache
from typing import NamedTuple

import msgspec
import yaml

from lbagent.settings import shipped


class Deployers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    endings: tuple[tuple[str, str], ...]
    beginnings: tuple[str, ...]
    services: dict[str, tuple[str, ...]]
    components: tuple[str, ...]
    networks: tuple[str, ...]
    public_frontends: tuple[tuple[str, str], ...]
    internal_sections: frozenset[str]


@cache
def deployers() -> Deployers:
    return msgspec.convert(yaml.safe_load(shipped.text("deployers.yaml")), Deployers)


# --------------------------------------------------------------------------------------------- services


def spelled_alike(name: str) -> str:
    """Names that differ in this only by case, or by a dash for an underscore, are one."""
    return name.lower().replace("-", "_")


@cache
def _by_name() -> dict[str, str]:
    known = deployers().services
    return {spelled_alike(alias): name for name, aliases in known.items() for alias in (name, *aliases)}


@lru_cache(maxsize=4096)
def service_of(backend: str) -> tuple[str | None, str]:
    """(the service whose API a backend's name says it is, why); None for a name that no deployer gives."""
    if found := _by_name().get(spelled_alike(backend)):
        return found, "by its name"
    for ending, whose in deployers().endings:
        base = backend.lower().removesuffix(ending)
        if base != backend.lower() and (found := _by_name().get(spelled_alike(base))):
            return found, f"by {whose}'s name" if whose != "plain" else "by its name"
    for beginning in deployers().beginnings:
        base = backend.lower().removeprefix(beginning)
        if base != backend.lower() and (found := _by_name().get(spelled_alike(base))):
            return found, "by its name"
    return None, "no deployer's name"


@lru_cache(maxsize=4096)
def short(backend: str) -> str:
    """An unknown backend's name without a deployer's ending."""
    for ending, _ in deployers().endings:
        if backend.endswith(ending):
            return backend.removesuffix(ending).removesuffix("_api")
    return backend.removesuffix("_api")


# ------------------------------------------------------------------------------------------------ nodes


class NodeName(NamedTuple):
    """The node that a server's name says it is on."""

    name: str
    certain: bool  # a deployer's pattern says so: servers of this name are on one node, whatever their addresses
    domain: str = ""  # what stands behind the host's name


@lru_cache(maxsize=65536)
def node_of(server: str) -> NodeName:
    try:
        ipaddress.ip_address(server)
    except ValueError:
        pass
    else:
        return NodeName(server, certain=False)
    if host := _host_of_container(server):
        return NodeName(host, certain=True)
    host, _, domain = server.partition(".")
    if domain and host and domain.partition(".")[0].lower() in deployers().networks:
        return NodeName(host, certain=True)
    if domain and re.search("[A-Za-z-]", host):
        return NodeName(host, certain=False, domain=domain)
    return NodeName(server, certain=False)


@cache
def _components() -> tuple[str, ...]:
    """The longest first."""
    return tuple(sorted(map(spelled_alike, deployers().components), key=len, reverse=True))


def _host_of_container(server: str) -> str | None:
    """The host of OpenStack-Ansible's container of this name; None for what is no such name."""
    parts = re.fullmatch(r"(.+)[_-]container(-[0-9A-Za-z]+)?", server)
    if parts is None:
        return None
    host_and_component = parts[1]
    alike = spelled_alike(host_and_component)
    for component in _components():
        if alike.endswith(f"_{component}"):
            return host_and_component[: -len(component) - 1] or None
    if "_" in host_and_component:  # the old style: a host's name has no underscore
        return host_and_component.partition("_")[0] or None
    to_a_digit = re.match(r"(.*[0-9])-", host_and_component)
    return to_a_digit[1] if to_a_digit else host_and_component.rpartition("-")[0] or None


# -------------------------------------------------------------------------------------------- frontends


def is_public(frontend: str) -> str | None:
    """Whose pattern says that a frontend faces the public; None when no name tells."""
    return next((whose for pattern, whose in deployers().public_frontends if re.search(pattern, frontend)), None)


def is_internal(section: str) -> bool:
    """No deployer publishes a section of this name."""
    bare = next((section.removesuffix(e) for e in ("_front", "-front", "_be") if section.endswith(e)), section)
    return spelled_alike(re.sub(r"-front-\d+$", "", bare)) in deployers().internal_sections
