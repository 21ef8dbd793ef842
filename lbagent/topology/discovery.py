"""Services and nodes that the configuration does not name, found by names and addresses. Pure.

**Nodes.** Two servers are on one node in three cases. First: they have the same address. Second: a deployer's pattern
says so, whatever their addresses are (OpenStack-Ansible's containers of one host, TripleO's host on several networks).
Third: they have the same name and their backends share at least one other name, as the backends of one control plane
do: two unrelated backends that each have an ``s1`` are on two machines. The third case never joins servers that the
addresses keep apart within one backend: a backend has a node's server once, so equal names at crossed addresses are no
evidence.

An address tells nothing where every server of a backend has it (a single machine), nor if it is this host's own
loopback or not known: then names alone count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from lbagent.model.observed import BackendSeen
from lbagent.model.servers import Ref
from lbagent.settings import deployers
from lbagent.settings.deployers import NodeName

NOWHERE = frozenset({"127.0.0.1", "::1", "0.0.0.0", "::", "-", ""})  # noqa: S104 no socket is bound here
"""What tells no machine: this host's own addresses, and none at all."""


# --------------------------------------------------------------------------------------------- services


def services(backends: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The services that ``backends`` (http ones with servers) make: name → backends, both in order."""
    backends = sorted(backends)
    found: dict[str, list[str]] = {}
    alike: dict[str, list[str]] = {}
    for name in backends:
        alike.setdefault(deployers.short(name), []).append(name)
    for name in backends:
        known = deployers.service_of(name)[0]
        found.setdefault(known or _plain(name, alike[deployers.short(name)]), []).append(name)
    return {name: tuple(found[name]) for name in sorted(found)}


def _plain(backend: str, alike: list[str]) -> str:
    """An unknown backend's name without a deployer's ending, unless that would be another one's name too."""
    split = tuple(ending for ending, whose in deployers.deployers().endings if whose == "Kolla-Ansible")
    unmistakable = len(alike) == 1 or all(name.endswith(split) for name in alike)
    return (deployers.short(backend) if unmistakable else "") or backend


# ------------------------------------------------------------------------------------------------ nodes


class NodeFound(NamedTuple):
    """A node with its servers, and what says so."""

    name: str
    refs: tuple[Ref, ...]
    why: str


class _Server(NamedTuple):
    ref: Ref
    node: NodeName
    address: str  # empty where it tells nothing


def nodes(refs: Iterable[Ref], seen: Mapping[str, BackendSeen]) -> list[NodeFound]:
    """The nodes that have ``refs``, in the order of their names; every server is on exactly one."""
    servers = _read(list(refs), seen)
    groups = _Groups(servers)
    groups.join_same(lambda server: server.address)
    groups.join_same(lambda server: server.node.name if server.node.certain else "")
    groups.join_same(lambda server: "" if server.address or server.node.certain else server.node.name)
    _join_by_name(groups, servers)
    return _named([[servers[index] for index in group] for group in groups.members()])


def _read(refs: list[Ref], seen: Mapping[str, BackendSeen]) -> list[_Server]:
    untelling = NOWHERE | _of_whole_backends(refs, seen)
    read = [(ref, seen[ref.backend].servers[ref.server].address, deployers.node_of(ref.server)) for ref in refs]
    domains: dict[str, set[str]] = {}
    for _, _, node in read:
        if node.domain:
            domains.setdefault(node.name, set()).add(node.domain)
    several = {name for name, found in domains.items() if len(found) > 1}
    return [
        _Server(
            ref,
            node._replace(name=f"{node.name}.{node.domain}") if node.domain and node.name in several else node,
            "" if address in untelling else address,
        )
        for ref, address, node in read
    ]


def _of_whole_backends(refs: list[Ref], seen: Mapping[str, BackendSeen]) -> set[str]:
    """Addresses that are those of every server of some backend that has two or more."""
    there: dict[str, list[str]] = {}
    for ref in refs:
        there.setdefault(ref.backend, []).append(seen[ref.backend].servers[ref.server].address)
    return {addresses[0] for addresses in there.values() if len(addresses) > 1 and len(set(addresses)) == 1}


class _Groups:
    """Servers by their index, joined to groups (a union-find)."""

    def __init__(self, servers: list[_Server]) -> None:
        self._servers = servers
        self._parent = list(range(len(servers)))
        self._backends = [{server.ref.backend} for server in servers]

    def root(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = index = self._parent[self._parent[index]]
        return index

    def join(self, one: int, other: int) -> None:
        one, other = self.root(one), self.root(other)
        if one == other:
            return
        if len(self._backends[one]) < len(self._backends[other]):
            one, other = other, one
        self._parent[other] = one
        self._backends[one] |= self._backends[other]

    def join_same(self, key: Callable[[_Server], str]) -> None:
        """Join the servers with the same key, which is empty for one that has none."""
        first: dict[str, int] = {}
        for index, server in enumerate(self._servers):
            if found := key(server):
                self.join(first.setdefault(found, index), index)

    def share_a_backend(self, one: int, other: int) -> bool:
        return not self._backends[self.root(one)].isdisjoint(self._backends[self.root(other)])

    def members(self) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for index in range(len(self._servers)):
            found.setdefault(self.root(index), []).append(index)
        return list(found.values())


def _join_by_name(groups: _Groups, servers: list[_Server]) -> None:
    """The third case above: equal names at different addresses, where the backends share another name too."""
    by_name: dict[str, list[int]] = {}
    there: dict[str, set[str]] = {}
    for index, server in enumerate(servers):
        by_name.setdefault(server.node.name, []).append(index)
        there.setdefault(server.ref.backend, set()).add(server.node.name)
    alike = {backend: frozenset(names) for backend, names in there.items()}
    share: dict[tuple[frozenset[str], frozenset[str]], bool] = {}
    for indices in by_name.values():
        if len({groups.root(index) for index in indices}) > 1:
            _join_backends_alike(groups, [(index, alike[servers[index].ref.backend]) for index in indices], share)
            _join_unknown(groups, indices, servers)


def _join_backends_alike(
    groups: _Groups,
    found: list[tuple[int, frozenset[str]]],
    share: dict[tuple[frozenset[str], frozenset[str]], bool],
) -> None:
    """``found`` has the servers of one name, with the names in their backends; ``share`` keeps what was compared."""
    before: list[tuple[int, frozenset[str]]] = []
    for index, names in found:
        for one, others in before:
            if (names, others) not in share:
                share[names, others] = len(names & others) > 1
            if share[names, others] and not groups.share_a_backend(one, index):
                groups.join(one, index)
                break
        before.append((index, names))


def _join_unknown(groups: _Groups, indices: list[int], servers: list[_Server]) -> None:
    """Servers whose addresses tell nothing belong to the one machine of their name, where there is only one."""
    telling = {groups.root(index) for index in indices if servers[index].address}
    if len(telling) == 1:
        [one] = telling
        for index in indices:
            if not servers[index].address and not groups.share_a_backend(one, index):
                groups.join(one, index)


def _named(groups: list[list[_Server]]) -> list[NodeFound]:
    """Each group by the name that most of its servers have; two of one name by their addresses as well."""
    most = [
        min(Counter(s.node.name for s in group).items(), key=lambda counted: (-counted[1], counted[0]))[0]
        for group in groups
    ]
    times = Counter(most)
    found: list[NodeFound] = []
    for name, group in zip(most, groups, strict=True):
        refs = tuple(server.ref for server in group)
        addresses = Counter(server.address for server in group if server.address)
        address = min(addresses, key=lambda a: (-addresses[a], a), default="")
        if times[name] > 1 and address:
            why = f"{name} is the name of servers at other addresses too, in backends that share no other name"
            found.append(NodeFound(f"{name}@{address}", refs, why))
        else:
            found.append(NodeFound(name, refs, _why(group, sorted(addresses))))
    return sorted(found)


def _why(group: list[_Server], addresses: list[str]) -> str:
    if len({server.node.name for server in group}) > 1:
        return f"by the address {', '.join(addresses)}"
    if all(server.node.certain for server in group):
        return "by its deployer's names"
    if len(addresses) > 1:
        return f"by name, at {', '.join(addresses)}: their backends share other names too"
    return "by name"
