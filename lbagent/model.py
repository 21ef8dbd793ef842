"""The vocabulary: the nouns of DESIGN §2 as types, the rest of the program speaks in them.

Four things that are easily confused have four names:

* ``Intent``: what operators asked for, the only thing that is stored;
* ``Desired`` (plan.py): what HAProxy and its files should hold for that intent;
* ``Observed``: what HAProxy and its files do hold;
* ``Action``: one step that takes the observed towards the desired.

Times are whole seconds since 1970 UTC unless a name says otherwise.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Mode(StrEnum):
    """What a service lets through."""

    UP = "up"
    READ_ONLY = "read-only"
    DOWN = "down"


class NodeState(StrEnum):
    """What a node's servers do."""

    READY = "ready"
    DRAINING = "draining"
    DRAINED = "drained"


class Admin(StrEnum):
    """A server's administrative state, reduced from HAProxy's mask of seven bits."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class Health(StrEnum):
    """What HAProxy's checks say of a server; ``NONE`` where there is no check."""

    UP = "up"
    DOWN = "down"
    NONE = "none"


class Phase(StrEnum):
    """The life of a drain. An illegal step raises and changes nothing.

    ::

        drain ──► HELD ──ready──► RETURNING ──every check passed──► RELEASED ──seen ready──► (gone)
                    ▲                │
                    └──timeout───────┘
    """

    HELD = "held"  # kept out of traffic
    RETURNING = "returning"  # still out of traffic, waiting for fresh health checks
    RELEASED = "released"  # HAProxy is being told to use it again


STEPS: dict[Phase, frozenset[Phase]] = {
    Phase.HELD: frozenset({Phase.HELD, Phase.RETURNING}),
    Phase.RETURNING: frozenset({Phase.RETURNING, Phase.HELD, Phase.RELEASED}),
    Phase.RELEASED: frozenset({Phase.RELEASED, Phase.HELD}),
}


GUARD_GONE = "=guard"
"""Holds, in place of a node's name, the servers of closed services whose backends lost their guard (DESIGN §7)."""


WEIGHT = {Phase.RELEASED: 0, Phase.RETURNING: 1, Phase.HELD: 2}
"""Where two drains hold a server, the one that keeps it out more decides."""


class Ref(msgspec.Struct, frozen=True, order=True):
    """A server, named as HAProxy names it: ``backend/server``."""

    backend: str
    server: str

    def __str__(self) -> str:
        return f"{self.backend}/{self.server}"


# ---------------------------------------------------------------------------------------------- intent


class ServiceIntent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A service that is, or will be, closed or restricted. A service that is up has none."""

    mode: Mode
    start: int
    at_once: bool = True  # the map then carries start 0, so that no clock can delay it
    until: int | None = None
    reason: str = ""
    by: str = ""
    since: int = 0  # when it was asked
    keys: tuple[str, ...] = ()  # frontend@address/backend, frontend/backend or backend: what it resolved to
    deadline: int | None = None  # how long the command waits for quiescence

    def effective(self, now: float) -> Mode:
        """The mode that HAProxy enforces at ``now``."""
        return self.mode if self.at_once or now >= self.start else Mode.UP


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A server under our drain. ``foreign`` is what somebody else had set before: we give that back."""

    backend: str
    server: str
    foreign: Admin | None = None
    agent_check: bool = False  # was on; it is off while we hold the server, and on again after

    @property
    def ref(self) -> Ref:
        return Ref(self.backend, self.server)


class Drain(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node's servers of one service, kept out of traffic."""

    phase: Phase = Phase.HELD
    admin: Admin = Admin.DRAIN  # what they are held in; backends with stickiness are held in maint anyway
    end_in_maint: bool = False
    kill: bool = False
    whole: bool = False  # the node was drained, not only some of its services: its virtual address leaves as well
    deadline: int | None = None
    reason: str = ""
    by: str = ""
    since: int = 0
    servers: tuple[Held, ...] = ()
    forced: bool = False  # given back without asking for its health
    asked_at: str = ""  # the node whose agent was asked, which judges its timeout (a shared intent only)
    asked: float = 0.0  # when, by that agent's clock, which ``deadline`` is by as well (a shared intent only)

    def step(self, phase: Phase, deadline: int | None = None) -> Drain:
        """The same drain in its next phase; ValueError for a step that the life cycle does not have."""
        if phase not in STEPS[self.phase]:
            raise ValueError(f"a drain cannot go from {self.phase} to {phase}")
        return msgspec.structs.replace(self, phase=phase, deadline=deadline)


class Stamp(msgspec.Struct, frozen=True, order=True):
    """One revision of the shared intent. Its id tells it from another history's revision of the same number."""

    revision: int
    id: str


class Exceptional(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where one HAProxy was told ``--local`` to differ from the shared intent, and what that said then."""

    revision: int
    service: ServiceIntent | None = None
    drain: Drain | None = None
    alone: bool = False  # made while the shared store could not be reached: to be shared if it restricts
    met: bool = False  # the shared intent was in sight then or since: what names the subject from now on ends it


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """Everything operators asked for; ``drains`` is by node, then service.

    ``trail`` has the last revisions of the shared intent, where there is one: its own, or the one that this follows.
    ``exceptions`` (by subject: ``service`` or ``node/service``) belong to an HAProxy that follows a shared intent;
    ``members`` are the nodes whose HAProxies do, so that a command misses none of them whatever etcd has lost.
    """

    revision: int = 0
    services: dict[str, ServiceIntent] = {}
    drains: dict[str, dict[str, Drain]] = {}
    trail: tuple[Stamp, ...] = ()  # the newest at the end
    exceptions: dict[str, Exceptional] = {}
    members: tuple[str, ...] = ()

    @property
    def followed(self) -> Stamp | None:
        """The revision of the shared intent that this is, or follows."""
        return self.trail[-1] if self.trail else None

    def held(self) -> dict[Ref, tuple[str, str, Drain, Held]]:
        """Every server under a drain: ref → (node, service, drain, held).

        Where two services share a backend, the drain that keeps the server out more wins.
        """
        found: dict[Ref, tuple[str, str, Drain, Held]] = {}
        for node, services in self.drains.items():
            for service, drain in services.items():
                for held in drain.servers:
                    if held.ref not in found or WEIGHT[drain.phase] > WEIGHT[found[held.ref][2].phase]:
                        found[held.ref] = (node, service, drain, held)
        return found

    def with_service(self, name: str, intent: ServiceIntent | None) -> Intent:
        services = {k: v for k, v in self.services.items() if k != name}
        if intent is not None:
            services[name] = intent
        return msgspec.structs.replace(self, services=services)

    def with_drain(self, node: str, service: str, drain: Drain | None) -> Intent:
        mine = {k: v for k, v in self.drains.get(node, {}).items() if k != service}
        if drain is not None:
            mine[service] = drain
        drains = {k: v for k, v in self.drains.items() if k != node}
        if mine:
            drains[node] = mine
        return msgspec.structs.replace(self, drains=drains)


class Shared(Intent, frozen=True, kw_only=True):
    """The intent of a whole control plane: one for every HAProxy."""

    touched: dict[str, int] = {}  # subject → revision of the last command that named it


# -------------------------------------------------------------------------------------------- observed


class ServerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A server as ``show servers state`` and ``show stat`` have it (management.txt 9.3)."""

    ref: Ref
    mask: int  # srv_admin_state
    op: int  # srv_op_state: 0 stopped, 1 starting, 2 running, 3 stopping
    weight: int
    address: str
    port: int
    sessions: int  # scur + qcur
    checked: bool
    agent: bool  # an agent-check is configured and enabled
    agent_configured: bool
    backup: bool
    tracks: bool
    line: tuple[str, ...]  # the state line's columns as they came

    @property
    def admin(self) -> Admin:
        if self.mask & MAINT_BITS:
            return Admin.MAINT
        return Admin.DRAIN if self.mask & DRAIN_BITS else Admin.READY

    @property
    def health(self) -> Health:
        if not (self.checked or self.tracks):
            return Health.NONE
        return Health.UP if self.op in (1, 2) else Health.DOWN

    @property
    def ready(self) -> bool:
        """It takes new requests: admin ready, healthy or unchecked, with a weight, and not a mere backup."""
        return self.admin is Admin.READY and self.op in (1, 2) and self.weight > 0 and not self.backup


FORCED_MAINT, FORCED_DRAIN = 1, 8
MAINT_BITS = 1 | 2 | 4 | 32  # forced, inherited, from the configuration, by resolution
DRAIN_BITS = 8 | 16  # forced, inherited


class BackendSeen(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    http: bool
    sticky: bool  # a cookie or a stick table: a drained server would keep its clients
    guard: int | None  # version of the guard it carries, None without one
    servers: dict[str, ServerSeen]


class Stream(msgspec.Struct, frozen=True):
    """A request that a worker holds: its id is unique within the worker (``show sess all``)."""

    pid: int
    id: str
    backend: str
    frontend: str
    method: int  # 0 OPTIONS, 1 GET, 2 HEAD, 3 POST, …; -1 not known
    server: str
    pointer: str
    address: str = ""  # the address the client came to


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """An old worker: what it still serves."""

    pid: int
    sessions: dict[Ref, int]
    clients: int = 0
    current_map: tuple[tuple[str, str], ...] | None


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """HAProxy and its files at one moment; while it is down, backends and frontends are those last seen."""

    up: bool
    version: str = ""
    pid: int = 0
    frontends: frozenset[str] = frozenset()
    backends: dict[str, BackendSeen] = {}
    table: tuple[tuple[str, str], ...] | None = None  # the guard's map; None: not loaded
    lists: dict[str, tuple[str, ...]] = {}  # the guard's ACL files that are loaded
    state_header: tuple[str, ...] = ()
    old_workers: tuple[Worker, ...] | None = None  # None: no master socket, unknown
    blind: str = ""  # why the master could not be asked just now; old_workers are then those last seen
    files: dict[str, str] = {}  # state_dir's files that exist
    clients: int = 0  # connections of clients to its current worker
    error: str = ""  # why it is not up

    @property
    def connections(self) -> int:
        """Connections of clients, in every worker."""
        return self.clients + sum(w.clients for w in self.old_workers or ())

    def server(self, ref: Ref) -> ServerSeen | None:
        backend = self.backends.get(ref.backend)
        return backend.servers.get(ref.server) if backend else None

    def sessions(self, ref: Ref) -> int:
        """Requests the server works on or has queued, in every worker."""
        seen = self.server(ref)
        return (seen.sessions if seen else 0) + sum(w.sessions.get(ref, 0) for w in self.old_workers or ())


# --------------------------------------------------------------------------------------------- actions


class WriteFile(msgspec.Struct, frozen=True):
    """Replace a file of state_dir: write, fsync, rename, fsync the folder."""

    name: str
    text: str


class ReplaceMap(msgspec.Struct, frozen=True):
    """Replace the guard's map in a worker, atomically."""

    entries: tuple[tuple[str, str], ...]
    pid: int | None = None  # an old worker; None: the current one


class ReplaceList(msgspec.Struct, frozen=True):
    """Replace one of the guard's ACL files in the current worker, atomically."""

    name: str
    patterns: tuple[str, ...]


class SetAdmin(msgspec.Struct, frozen=True):
    ref: Ref
    admin: Admin


class ProveHealth(msgspec.Struct, frozen=True):
    """Put a checked server in drain and call it down, so that only fresh passes bring it up."""

    ref: Ref


class SetAgentCheck(msgspec.Struct, frozen=True):
    ref: Ref
    on: bool


class CutSessions(msgspec.Struct, frozen=True):
    """End what a server still works on: its clients see a 502."""

    ref: Ref


Action = CutSessions | WriteFile | ReplaceMap | ReplaceList | SetAdmin | ProveHealth | SetAgentCheck
