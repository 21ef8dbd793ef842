"""What HAProxy and its files hold at one moment."""

from __future__ import annotations

from collections.abc import Set

import msgspec

from lbagent.model.servers import CONFIGURED, DRAIN_BITS, FORCED_MAINT, MAINT_BITS, Admin, Health, Ref
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
    tracks: str  # the server whose health it follows, as backend/server; empty: none
    total: int = 0  # requests that it was ever given (stot)
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
    def healthy(self) -> bool:
        """Its checks say so, or it has none."""
        return self.op in (1, 2)

    @property
    def usable(self) -> bool:
        """HAProxy may give it a new request; a backup only where no other server is usable."""
        return self.admin is Admin.READY and self.healthy and self.weight > 0

    @property
    def parked(self) -> bool:
        """It is ``disabled`` in HAProxy's configuration, and nobody has enabled it since."""
        return self.mask & (CONFIGURED | FORCED_MAINT) == CONFIGURED | FORCED_MAINT


class BackendSeen(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    http: bool
    sticky: bool  # a cookie or a stick table: a drained server would keep its clients
    guard: int | None  # version of the guard it carries, None without one
    servers: dict[str, ServerSeen]
    sticky_known: bool = True  # False: HAProxy's configuration could not be asked, and nothing else shows stick rules

    def used(self, out: Set[Ref] = frozenset()) -> list[ServerSeen]:
        """The servers that HAProxy would give new requests, were those of ``out`` taken out of traffic as well.

        Backups serve only where no other server can (configuration manual, ``backup``). A server that tracks another
        follows it out.
        """
        left = [s for s in self.servers.values() if s.usable and s.ref not in out]
        left = [s for s in left if not s.tracks or all(str(ref) != s.tracks for ref in out)]
        return [s for s in left if not s.backup] or left


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
    upgraded: bool = False  # a websocket or another tunnel: it may write, whatever its method was


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """An old worker: what it still serves."""

    pid: int
    sessions: dict[Ref, int]
    clients: int = 0
    queues: dict[str, int] = {}  # backend → requests that wait for any of its servers
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
    old_workers: tuple[Worker, ...] | None = None  # None: no master socket, unknown
    blind: str = ""  # why the master could not be asked just now; old_workers are then those last seen
    files: dict[str, str] = {}  # state_dir's files that exist
    clients: int = 0  # connections of clients to its current worker
    error: str = ""  # why it is not up
    written: Written | None = None  # what its configuration files say; None: they cannot be read
    unread: str = ""  # why they cannot
    fed: frozenset[Ref] = frozenset()  # servers that were out of traffic, and lately were given requests all the same
    masterless: str = ""  # why no master socket is used; old_workers is None then
    socket_used_up: bool = False  # every connection that its runtime socket takes is in use
    alive: bool = False  # not up, as it cannot be asked, and yet it serves

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

    def cuts(self, backend: str) -> bool:
        """Marking a server of ``backend`` down, or putting it into maint, would end its open requests, or may."""
        return self.written is None or backend in self.written.cuts

    def queued(self, backend: str) -> dict[int, int]:
        """Old workers in which requests wait for any server of ``backend``: pid → how many.

        An old worker takes no drain: it gives such a request to a drained server as soon as that has room.
        """
        return {w.pid: count for w in self.old_workers or () if (count := w.queues.get(backend, 0))}
