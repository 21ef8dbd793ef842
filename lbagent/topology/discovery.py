"""Services and nodes that the configuration does not name, found by names and addresses. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from lbagent.model.observed import BackendSeen
from lbagent.model.servers import Ref
from lbagent.topology import names


def services(backends: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The services that ``backends`` (http ones with servers) make: name → backends, both in order."""
    backends = sorted(backends)
    found: dict[str, list[str]] = {}
    alike: dict[str, list[str]] = {}
    for name in backends:
        alike.setdefault(names.short(name), []).append(name)
    for name in backends:
        found.setdefault(names.service_of(name)[0] or _plain(name, alike[names.short(name)]), []).append(name)
    return {name: tuple(found[name]) for name in sorted(found)}


def _plain(backend: str, alike: list[str]) -> str:
    """An unknown backend's name without a deployer's ending, unless that would be another one's name too."""
    split = tuple(ending for ending, whose in names.deployers().endings if whose == "Kolla-Ansible")
    unmistakable = len(alike) == 1 or all(name.endswith(split) for name in alike)
    return (names.short(backend) if unmistakable else "") or backend


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
        address: min(Counter(names.node_of(ref.server) for ref in there).most_common(), key=lambda n: (-n[1], n[0]))[0]
        for address, there in at.items()
    }
    found: dict[str, list[Ref]] = {}
    for ref in refs:
        address = seen[ref.backend].servers[ref.server].address
        found.setdefault(name_at.get(address) or names.node_of(ref.server), []).append(ref)
    return {name: tuple(found[name]) for name in sorted(found)}


def _shared_addresses(refs: Iterable[Ref], seen: Mapping[str, BackendSeen]) -> set[str]:
    """Those that two servers of a backend have, and those that mean "this host" or nothing."""
    times = Counter((ref.backend, seen[ref.backend].servers[ref.server].address) for ref in refs)
    return {address for (_, address), count in times.items() if count > 1} | {"127.0.0.1", "::1", "-", ""}
