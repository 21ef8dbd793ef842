"""What HAProxy and its files hold at one moment."""

from __future__ import annotations

import msgspec

from lbagent.model.servers import DRAIN_BITS, MAINT_BITS, Admin, Health, Ref
from lbagent.model.written import Written


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


class BackendSeen(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    http: bool
    sticky: bool  # a cookie or a stick table: a drained server would keep its clients
    guard: int | None  # version of the guard it carries, None without one
    servers: dict[str, ServerSeen]
    sticky_known: bool = True  # False: HAProxy's configuration could not be asked, and nothing else shows stick rules


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
    written: Written | None = None  # what its configuration files say; None: they cannot be read
    unread: str = ""  # why they cannot

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
