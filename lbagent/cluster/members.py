"""What the agents of a control plane report of their HAProxies, and what a command has to know of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from lbagent.model.intent import Intent, Stamp
from lbagent.model.names import Count, Line, Name, NodeName, RefText, Seconds, SubjectText
from lbagent.model.observed import Observed
from lbagent.model.servers import Ref


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an agent reports of its HAProxy."""

    node: NodeName
    followed: Stamp | None = None  # newest shared revision that every worker was read back with
    in_sync: bool = False
    up: bool = False
    version: Line = ""
    time: Seconds = 0.0  # its clock when it reported
    sessions: dict[RefText, Count] = {}  # backend/server → requests, where there are any
    clients: Count = 0  # connections of clients
    moves_address: bool = False  # its keepalived is told of a drain
    trouble: Line = ""  # why its newest intent is not in force
    open: dict[SubjectText, tuple[Line, ...]] = {}  # subject → what it still waits for
    well: tuple[NodeName, ...] = ()  # nodes whose returning servers have all passed their checks
    holding: tuple[SubjectText, ...] = ()  # drains, as node/service, that it has not given back
    bare: tuple[Name, ...] = ()  # services with a backend that carries no guard there
    exceptions: tuple[SubjectText, ...] = ()  # subjects that differ there by --local
    empty: tuple[Name, ...] = ()  # services with a backend that has no usable server there

    @property
    def revision(self) -> int:
        return self.followed.revision if self.followed else -1

    def important(self) -> Member:
        """Without the figures that change all the time."""
        return replace(self, time=0.0, sessions={}, clients=0)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the shared store held at one moment."""

    intent: Intent | None = None
    members: dict[str, Member] = {}
    alive: frozenset[str] = frozenset()
    sick: dict[str, tuple[str, ...]] = {}  # node → backend/server that takes no requests there, not by our drain
    trouble: str = ""  # why it is not known what the store holds by now

    def known(self) -> dict[str, Member]:
        """Every member, those whose report etcd has lost as well."""
        joined = self.intent.members if self.intent else ()
        return {name: self.members.get(name, Member(node=name)) for name in sorted({*joined, *self.members})}

    def others(self, me: str) -> list[Member]:
        return [member for name, member in self.known().items() if name != me]

    def present(self) -> list[Member]:
        """Those whose agent is alive and whose HAProxy is up."""
        return [m for name, m in sorted(self.members.items()) if name in self.alive and m.up]


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """What a command has to know of the other HAProxies before it may be carried out."""

    sick: dict[str, tuple[str, ...]] = {}  # backend/server → nodes whose HAProxy finds it not ready
    bare: dict[str, tuple[str, ...]] = {}  # service → nodes whose HAProxy has no guard for it
    empty: dict[str, tuple[str, ...]] = {}  # service → nodes whose HAProxy has no server to use for it
    clients: dict[str, tuple[int, bool]] = {}  # node → connections of clients, whether its address moves by itself
    here: Intent = Intent()  # what the asked HAProxy holds already
    exceptions: tuple[str, ...] = ()  # subjects that differ somewhere by --local


def elsewhere(view: View, me: str, here: Intent) -> Elsewhere:
    """What ``me`` has to know of the others in ``view``; ``here`` is its HAProxy's own intent."""
    sick: dict[str, tuple[str, ...]] = {}
    for node in sorted(view.alive - {me}):
        for ref in view.sick.get(node, ()) if node in view.members and view.members[node].up else ():
            sick[ref] = (*sick.get(ref, ()), node)
    bare: dict[str, tuple[str, ...]] = {}
    for member in view.others(me):
        for name in member.bare if member.node in view.alive and member.up else ():
            bare[name] = (*bare.get(name, ()), member.node)
    empty: dict[str, tuple[str, ...]] = {}
    for member in view.present():
        for name in member.empty if member.node != me else ():
            empty[name] = (*empty.get(name, ()), member.node)
    clients = {m.node: (m.clients, m.moves_address) for m in view.present()}
    exceptions = {s for m in view.others(me) for s in m.exceptions} | set(here.exceptions)
    return Elsewhere(
        sick=sick, bare=bare, empty=empty, clients=clients, here=here, exceptions=tuple(sorted(exceptions))
    )


def sick(intent: Intent, observed: Observed) -> tuple[str, ...]:
    """Servers that HAProxy could not use here for other reasons than a drain of ours."""
    held = intent.held()
    return tuple(
        sorted(
            str(server.ref)
            for backend in observed.backends.values()
            for server in backend.servers.values()
            if not server.usable and server.ref not in held
        )
    )


def sessions_elsewhere(view: View | None, me: str) -> Mapping[Ref, int]:
    """Requests that the other live HAProxies have open, by server."""
    found: dict[Ref, int] = {}
    alive = [m for m in view.others(me) if m.node in view.alive] if view else []
    for member in alive:
        for name, count in member.sessions.items():
            backend, _, server = name.partition("/")
            ref = Ref(backend, server)
            found[ref] = found.get(ref, 0) + count
    return found


def skewed(before: Mapping[str, float], view: View, me: str, now: float) -> dict[str, float]:
    """Nodes whose report has come since ``before`` (node → time of its report) → seconds their clock is ahead."""
    told = (m for m in view.others(me) if m.node in view.alive and m.time)
    fresh = (m for m in told if before.get(m.node, m.time) != m.time)
    return {m.node: m.time - now for m in fresh}
