"""HAProxy's runtime API: observe it, perform actions on it. The only module that speaks to a worker.

Blocking; the agent runs it in a thread. Source: HAProxy's management guide, section 9.3. Commands are batched
(``a; b; c`` on one line): a batch answers each command with its text and an empty line, and goes on after an error.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from haproxyadmin import haproxy as admin
from haproxyadmin.exceptions import HAProxyBaseError

from lbagent.errors import HAProxyDown, HAProxyError
from lbagent.guard import file_names
from lbagent.model.actions import Action, CutSessions, ProveHealth, ReplaceList, ReplaceMap, SetAdmin, SetAgentCheck
from lbagent.model.observed import BackendSeen, ServerSeen, Stream
from lbagent.model.servers import Admin, Ref

TIMEOUT = 1.0  # seconds without a byte: a worker that is stopped or hung is given up on after this
LONGEST_LINE = 8000  # bytes of a batch or payload; HAProxy's buffer is 16 kB, and past it the answer is empty

CONFIGURED, ENABLED = 2, 4  # bits of srv_check_state and srv_agent_state


class Channel(Protocol):
    """A way to one worker: send a line (or a command with its payload), get the lines of the answer."""

    def run(self, command: str) -> list[str]:
        """HAProxyDown when nobody answers in time."""
        ...


class AdminSocket:
    """The runtime socket, through haproxyadmin. Its constructor talks to HAProxy, so it is made when first used."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._haproxy: admin.HAProxy | None = None

    def run(self, command: str) -> list[str]:
        try:
            if self._haproxy is None:
                self._haproxy = admin.HAProxy(socket_file=self._path, retry=None, retry_interval=0, timeout=TIMEOUT)
            # One HAProxy process a socket: the list has one (process number, lines) pair.
            [(_, lines)] = self._haproxy.command(command)
        except (HAProxyBaseError, OSError, ValueError, KeyError, IndexError) as error:
            self._haproxy = None
            raise HAProxyDown(f"HAProxy does not answer on {self._path}: {_why(error)}") from error
        return list(lines)


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__


# -------------------------------------------------------------------------------------------- commands


def batch(channel: Channel, commands: Sequence[str]) -> list[list[str]]:
    """The answer to each of ``commands``, in as few round trips as the line length allows.

    HAProxyError when an answer cannot be told apart from the next.
    """
    answers: list[list[str]] = []
    for line in _lines(commands):
        lines = channel.run("; ".join(line))
        got = _split(lines) if len(line) > 1 else [[text for text in lines if text]]
        if len(got) < len(line):
            raise HAProxyError(f"HAProxy answered {len(got)} of {len(line)} commands, beginning with {line[0]!r}")
        if len(got) > len(line):  # help texts hold empty lines: ask one by one
            got = [channel.run(command) for command in line]
        answers += got
    return answers


def _escaped(word: str) -> str:
    """A word of a command line, for the parser of the runtime API."""
    return re.sub(r"([\\ ;])", r"\\\1", word)


def _lines(commands: Sequence[str]) -> Iterable[list[str]]:
    """``commands`` in groups that fit into one line, or one payload."""
    line: list[str] = []
    length = 0
    for command in commands:
        if line and length + len(command) + 2 > LONGEST_LINE:
            yield line
            line, length = [], 0
        line.append(command)
        length += len(command) + 2
    if line:
        yield line


def _split(lines: Sequence[str]) -> list[list[str]]:
    """The answers of a batch of two or more: each ends with an empty line, of which haproxyadmin strips the last."""
    answers: list[list[str]] = [[]]
    for line in lines:
        if line:
            answers[-1].append(line)
        else:
            answers.append([])
    return answers


def _one(channel: Channel, command: str) -> None:
    """A command that answers with one empty line; HAProxyError says which failed and how."""
    answer = " ".join(line for line in channel.run(command) if line)
    if answer:
        raise HAProxyError(f"`{command.splitlines()[0]}`: {answer}")


# ------------------------------------------------------------------------------------------- observing


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
    """What cannot change while a worker lives: its guards and its sticky backends."""

    __slots__ = ("guards", "pid", "tables")

    def __init__(self, pid: int, guards: dict[str, int], tables: frozenset[str]) -> None:
        self.pid, self.guards, self.tables = pid, guards, tables


def observe(
    channel: Channel,
    seen_dir: str,
    facts: Facts | None,
    sticky: Callable[[], frozenset[str]] = frozenset,
) -> tuple[Seen, Facts]:
    """One look at a worker. Pass the last look's facts: they are asked for again when the pid changes.

    ``sticky`` names backends that are sticky by other evidence than the worker's own.
    """
    commands = ["show info", "show servers state", "show stat -1 7 -1", f"show map {seen_dir}/{file_names.MAP}"]
    commands += [f"show acl {seen_dir}/{name}" for name in file_names.LISTS]
    info, state, stat, table, *lists = batch(channel, commands)
    out = Seen()
    described = dict(line.partition(": ")[::2] for line in info)
    out.pid, out.version = int(described["Pid"]), described["Version"].split("-")[0]
    if facts is None or facts.pid != out.pid:
        facts = Facts(out.pid, _guards(channel), _tables(channel) | sticky())
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
    ids = [row.split()[0] for row in channel.run("show acl") if row[:1].isdigit() and " acl 'str'" in row]
    found: dict[str, int] = {}
    for rows in batch(channel, [f"show acl #{number}" for number in ids]) if ids else ():
        for row in rows:
            version, slash, backend = row.partition(" ")[2].partition("/")
            if slash and version.isdigit():
                found[backend] = int(version)
    return found


def _tables(channel: Channel) -> frozenset[str]:
    """Backends with a stick table: their clients may be bound to a server."""
    rows = (row.split() for row in channel.run("show table"))
    return frozenset(row[2].rstrip(",") for row in rows if row[:2] == ["#", "table:"])


def _proxies(
    state: Sequence[str], stat: Sequence[str], facts: Facts
) -> tuple[frozenset[str], dict[str, BackendSeen], int]:
    columns = state[1].removeprefix("# ").split()
    states = {(row[1], row[3]): row for row in map(str.split, state[2:]) if len(row) >= len(columns) - 3}
    frontends: set[str] = set()
    backends: dict[str, tuple[bool, bool]] = {}
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
            sticky = proxy in facts.tables or bool(cookie and row[cookie])
            backends[proxy] = (row[mode] == "http", sticky)
        elif (line := states.get((proxy, name))) is not None:
            server = _server(Ref(proxy, name), row, at, dict(zip(columns, line, strict=False)), tuple(line))
            servers.setdefault(proxy, {})[name] = server
    seen = {
        name: BackendSeen(
            name=name, http=http, sticky=sticky, guard=facts.guards.get(name), servers=servers.get(name, {})
        )
        for name, (http, sticky) in backends.items()
    }
    return frozenset(frontends), seen, clients


def _server(
    ref: Ref, stat: Sequence[str], at: dict[str, int], state: dict[str, str], line: tuple[str, ...]
) -> ServerSeen:
    check, agent = int(state["srv_check_state"]), int(state["srv_agent_state"])
    tracks = bool(stat[at["tracked"]])
    return ServerSeen(
        ref=ref,
        mask=int(state["srv_admin_state"]),
        op=int(state["srv_op_state"]),
        weight=int(state["srv_uweight"]),
        address=state["srv_addr"],
        port=int(state.get("srv_port", 0) or 0),
        sessions=int(stat[at["scur"]] or 0) + int(stat[at["qcur"]] or 0),
        checked=bool(check & CONFIGURED) and not tracks,
        agent=agent & (CONFIGURED | ENABLED) == CONFIGURED | ENABLED,
        agent_configured=bool(agent & CONFIGURED),
        backup=stat[at["bck"]] == "1",
        tracks=tracks,
        line=line,
    )


REFUSED = "applet=<lua.lbagent_upload>"  # in `show sess all`: haproxy/upload.lua has it


def streams(channel: Channel, pid: int) -> list[Stream]:
    """Every request that the worker ``pid`` holds (``show sess all``); one only half received is not there yet.

    Without those that the guard has refused and whose body it is throwing away: no server will see them.

    HAProxyDown when another worker answers: a reload has changed who listens on the socket.
    """
    found: list[dict[str, str]] = []
    rows = channel.run("show info; show sess all")
    if f"Pid: {pid}" not in rows:
        raise HAProxyDown(f"another worker than {pid} answers")
    for row in rows:
        fields = row.split()
        if row.startswith("0x"):
            unique = next((f[3:] for f in fields if f.startswith("id=")), "")
            moment = row[row.find("[") : row.find("]") + 1]
            found.append({"pointer": fields[0].rstrip(":"), "id": f"{unique}{moment}"})
        elif found and fields:
            key, equals, value = fields[0].partition("=")
            if equals and key in {"backend", "frontend", "server"}:
                found[-1].setdefault(key, value)
            if key == "frontend":
                address = next((f[5:] for f in fields if f.startswith("addr=")), "")
                found[-1].setdefault("address", address.rpartition(":")[0])
            method = next((f[5:] for f in fields if f.startswith("meth=")), "")
            if key == "txn" and method.isdecimal():  # one that cannot be read counts as a write: -1 below
                found[-1].setdefault("method", method)
            if REFUSED in fields:
                found[-1]["refused"] = row
    return [
        Stream(
            pid=pid,
            id=row["id"],
            backend=row.get("backend", ""),
            frontend=row.get("frontend", ""),
            method=int(row.get("method", "-1")),
            server=row.get("server", ""),
            pointer=row["pointer"],
            address=row.get("address", ""),
        )
        for row in found
        if "refused" not in row
    ]


# ------------------------------------------------------------------------------------------ performing


def perform(channel: Channel, seen_dir: str, actions: Sequence[Action]) -> list[str]:
    """Do the actions that concern a worker; what failed comes back as sentences, the rest is done."""
    failed: list[str] = []
    simple: list[tuple[Action, str]] = []
    for action in actions:
        try:
            if isinstance(action, ReplaceMap):
                rows = [f"{key} {value}" for key, value in action.entries]
                replace(channel, "map", f"{seen_dir}/{file_names.MAP}", rows)
            elif isinstance(action, ReplaceList):
                replace(channel, "acl", f"{seen_dir}/{action.name}", action.patterns)
            else:
                simple += [(action, command) for command in _commands(action)]
        except HAProxyDown:
            raise
        except HAProxyError as error:
            failed.append(error.message)
    for (_, command), answer in zip(simple, batch(channel, [c for _, c in simple]), strict=True):
        if text := " ".join(answer):
            failed.append(f"`{command}`: {text}")
    return failed


def _commands(action: Action) -> list[str]:
    match action:
        case SetAdmin(ref, state):
            return [f"set server {ref} state {state}"]
        case ProveHealth(ref):
            return [f"set server {ref} state {Admin.DRAIN}", f"set server {ref} health down"]
        case SetAgentCheck(ref, on):
            return [f"{'enable' if on else 'disable'} agent {ref}"]
        case CutSessions(ref):
            return [f"shutdown sessions server {ref}"]
        case _:
            raise TypeError(f"not an action of HAProxy's: {action!r}")


def replace(channel: Channel, kind: str, path: str, rows: Sequence[str]) -> None:
    """Replace a map or an ACL file of a worker, atomically: prepare, add, count, commit.

    HAProxyError leaves the old content in force. An abandoned version is dropped by the next commit.
    """
    answer = " ".join(channel.run(f"prepare {kind} {path}"))
    version = answer.rpartition(" ")[2]
    if not version.isdigit():
        raise HAProxyError(f"`prepare {kind} {path}`: {answer}")
    if kind == "acl":  # takes no payload: one command a pattern
        commands = [f"add acl @{version} {path} {_escaped(row)}" for row in rows]
        for command, text in zip(commands, batch(channel, commands), strict=True):
            if text:
                raise HAProxyError(f"`{command}`: {' '.join(text)}")
    else:
        for chunk in _lines(rows):
            _one(channel, f"add map @{version} {path} <<\n" + "\n".join(chunk) + "\n")
    held = [line for line in channel.run(f"show {kind} @{version} {path}") if line.startswith("0x")]
    if len(held) != len(rows):
        raise HAProxyError(f"{path}: HAProxy took {len(held)} of {len(rows)} entries, nothing was changed")
    _one(channel, f"commit {kind} @{version} {path}")
