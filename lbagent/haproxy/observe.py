"""One look at a worker: its backends, servers and frontends, the guard's map and lists. Blocking."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence

from lbagent.errors import HAProxyError
from lbagent.guard import file_names
from lbagent.haproxy.channel import Channel, Command
from lbagent.model.observed import BackendSeen, ServerSeen
from lbagent.model.servers import Ref

CONFIGURED, ENABLED = 2, 4  # bits of srv_check_state and srv_agent_state


class Seen:
    """What one pass over a worker found; ``lists`` and ``table`` are None where the guard is not loaded."""

    __slots__ = ("backends", "clients", "frontends", "lists", "pid", "table", "version")

    def __init__(self) -> None:
        self.pid, self.version, self.clients = 0, "", 0
        self.frontends: frozenset[str] = frozenset()
        self.backends: dict[str, BackendSeen] = {}
        self.table: tuple[tuple[str, str], ...] | None = None
        self.lists: dict[str, tuple[str, ...]] = {}


class Facts:
    """What cannot change while a worker lives: its guards and its sticky backends.

    ``tables`` are the backends with a stick table, ``written`` says of those in HAProxy's configuration whether they
    are sticky.
    """

    __slots__ = ("guards", "pid", "tables", "written")

    def __init__(self, pid: int, guards: dict[str, int], tables: frozenset[str], written: Mapping[str, bool]) -> None:
        self.pid, self.guards, self.tables, self.written = pid, guards, tables, written

    def sticky(self, backend: str, cookie: bool) -> tuple[bool, bool]:
        """(a drained server may get requests all the same, that is known).

        The configuration knows best: a table may only count, and a stick rule may use a table elsewhere. Without it a
        table is taken for a sticky one, and a backend without one may have stick rules that show nowhere.
        """
        if cookie:
            return True, True
        if backend in self.written:
            return self.written[backend], True
        return backend in self.tables, backend in self.tables


def observe(
    channel: Channel,
    seen_dir: str,
    facts: Facts | None,
    written: Callable[[], Mapping[str, bool]] = dict,
) -> tuple[Seen, Facts]:
    """One look at a worker. Pass the last look's facts: they are asked for again when the pid changes.

    ``written`` says whether backends are sticky by HAProxy's configuration, as far as that can be read.
    """
    commands: list[Command] = [("show", "info"), ("show", "servers", "state"), ("show", "stat", "-1", "7", "-1")]
    commands += [("show", "map", f"{seen_dir}/{file_names.MAP}")]
    commands += [("show", "acl", f"{seen_dir}/{name}") for name in file_names.LISTS]
    info, state, stat, table, *lists = channel.ask_all(commands)
    out = Seen()
    described = dict(line.partition(": ")[::2] for line in info)
    out.pid, out.version = int(described["Pid"]), described["Version"].split("-")[0]
    if facts is None or facts.pid != out.pid:
        facts = Facts(out.pid, _guards(channel), _tables(channel), written())
    out.table = _pairs(table)
    out.lists = {
        name: tuple(value for value, _ in pairs)
        for name, pairs in (
            (name, _pairs(rows, whole=True)) for name, rows in zip(file_names.LISTS, lists, strict=True)
        )
        if pairs is not None
    }
    try:
        out.frontends, out.backends, out.clients = _proxies(state, stat, facts)
    except csv.Error as error:
        raise HAProxyError(f"`show stat`: {error}") from error
    return out, facts


def _pairs(rows: Sequence[str], whole: bool = False) -> tuple[tuple[str, str], ...] | None:
    """``0xADDRESS key value`` lines, sorted; None when HAProxy has no such map or list loaded."""
    if rows and not rows[0].startswith("0x"):
        return None
    entries = [row.partition(" ")[2] for row in rows]
    if whole:
        return tuple((entry, "") for entry in entries)
    return tuple(sorted((key, value) for key, _, value in (entry.partition(" ") for entry in entries)))


def _guards(channel: Channel) -> dict[str, int]:
    """Backend → version of the guard it carries: each guard declares an ACL whose pattern says so."""
    ids = [row.split()[0] for row in channel.ask("show", "acl") if row[:1].isdigit() and " acl 'str'" in row]
    found: dict[str, int] = {}
    for rows in channel.ask_all([("show", "acl", f"#{number}") for number in ids]):
        for row in rows:
            version, slash, backend = row.partition(" ")[2].partition("/")
            if slash and version.isdigit():
                found[backend] = int(version)
    return found


def _tables(channel: Channel) -> frozenset[str]:
    """Backends with a stick table: their clients may be bound to a server."""
    rows = (row.split() for row in channel.ask("show", "table"))
    return frozenset(row[2].rstrip(",") for row in rows if row[:2] == ["#", "table:"])


def _proxies(
    state: Sequence[str], stat: Sequence[str], facts: Facts
) -> tuple[frozenset[str], dict[str, BackendSeen], int]:
    columns = state[1].removeprefix("# ").split()
    states = {(row[1], row[3]): row for row in map(str.split, state[2:]) if len(row) >= len(columns) - 3}
    frontends: set[str] = set()
    backends: dict[str, tuple[bool, bool, bool]] = {}
    servers: dict[str, dict[str, ServerSeen]] = {}
    rows = csv.reader([stat[0].removeprefix("# "), *stat[1:]])
    at = {name: index for index, name in enumerate(next(rows))}
    mode, cookie, current = at["mode"], at.get("cookie"), at["scur"]
    clients = 0
    for row in rows:
        proxy, name = row[0], row[1]
        if name == "FRONTEND":
            frontends.add(proxy)
            clients += int(row[current] or 0)
        elif name == "BACKEND":
            backends[proxy] = (row[mode] == "http", *facts.sticky(proxy, bool(cookie and row[cookie])))
        elif (line := states.get((proxy, name))) is not None:
            server = _server(Ref(proxy, name), row, at, dict(zip(columns, line, strict=False)), tuple(line))
            servers.setdefault(proxy, {})[name] = server
    seen = {
        name: BackendSeen(
            name=name,
            http=http,
            sticky=sticky,
            sticky_known=known,
            guard=facts.guards.get(name),
            servers=servers.get(name, {}),
        )
        for name, (http, sticky, known) in backends.items()
    }
    return frozenset(frontends), seen, clients


def _server(
    ref: Ref, stat: Sequence[str], at: dict[str, int], state: dict[str, str], line: tuple[str, ...]
) -> ServerSeen:
    check, agent = int(state["srv_check_state"]), int(state["srv_agent_state"])
    tracks = stat[at["tracked"]]
    return ServerSeen(
        ref=ref,
        mask=int(state["srv_admin_state"]),
        op=int(state["srv_op_state"]),
        weight=int(state["srv_uweight"]),
        address=state["srv_addr"],
        port=int(state.get("srv_port", 0) or 0),
        sessions=int(stat[at["scur"]] or 0) + int(stat[at["qcur"]] or 0),
        checked=check & (CONFIGURED | ENABLED) == CONFIGURED | ENABLED and not tracks,
        agent=agent & (CONFIGURED | ENABLED) == CONFIGURED | ENABLED,
        agent_configured=bool(agent & CONFIGURED),
        backup=stat[at["bck"]] == "1",
        tracks=tracks,
        total=int(stat[at["stot"]] or 0) if "stot" in at else 0,
        line=line,
    )
