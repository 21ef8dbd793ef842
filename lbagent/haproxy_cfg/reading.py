"""What HAProxy's configuration says of the things that doctor looks at. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from lbagent.haproxy_cfg import parse
from lbagent.haproxy_cfg.parse import File, Section
from lbagent.haproxy_cfg.routes import Route, routes
from lbagent.haproxy_cfg.sidesteps import Sidestep, sidesteps
from lbagent.model.written import FrontendWritten, Written
from lbagent.settings.config import HAProxyConfig


class Socket(msgspec.Struct, frozen=True):
    """A ``stats socket`` line of HAProxy's global section."""

    address: str
    level: str  # HAProxy's default is operator
    where: str  # FILE:LINE


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What doctor wants to know of a configuration."""

    guards: dict[str, int]  # backend → version of the guard
    dirs: frozenset[str]  # where those guards look for their files
    state_file: str | None  # server-state-file
    hard_stop_after: str | None
    stats_maxconn: int | None  # how many connections the runtime sockets take
    sockets: tuple[Socket, ...]
    state_base: str | None  # server-state-base, which a relative server-state-file is below
    loads: frozenset[str]  # backends that load the global server-state file
    cuts: frozenset[str]  # backends where a server that is marked down loses its open requests
    backends: dict[str, bool]  # every backend → a drained server of it may get requests all the same
    tcp: frozenset[str]  # backends with servers that are not mode http
    routes: tuple[Route, ...]
    sidesteps: tuple[Sidestep, ...]

    def keeps(self, state_file: str) -> frozenset[str]:
        """The backends whose drains HAProxy would load from ``state_file`` at a reload."""
        named = self.state_file or ""
        if not named.startswith("/") and self.state_base:
            named = f"{self.state_base.rstrip('/')}/{named}"
        return self.loads if named == state_file else frozenset()


def read(files: Sequence[File]) -> Reading:
    """What ``files`` say of the things that doctor looks at; never fails, damaged markers or not."""
    sections = parse.sections(files)
    top = [(s, line) for s in sections if s.kind == "global" for line in s.body]
    backends = [s for s in sections if s.kind in ("backend", "listen") and not s.disabled]
    return Reading(
        guards={s.name: version for s in backends if (version := _version(s)) is not None},
        dirs=frozenset(found for section in backends for found in _dirs(section)),
        state_file=_last(line.words for _, line in top if line.words[0] == "server-state-file"),
        hard_stop_after=_last(line.words for _, line in top if line.words[0] == "hard-stop-after"),
        stats_maxconn=_number(line.words[2:] for _, line in top if line.words[:2] == ("stats", "maxconn")),
        sockets=tuple(
            Socket(line.words[2], _level(line.words), f"{files[section.file][0]}:{line.number + 1}")
            for section, line in top
            if line.words[:2] == ("stats", "socket") and len(line.words) > 2
        ),
        state_base=_last(line.words for _, line in top if line.words[0] == "server-state-base"),
        loads=frozenset(s.name for s in backends if s.setting("load-server-state-from-file")[:1] == ("global",)),
        backends={section.name: section.sticky for section in backends},
        cuts=frozenset(section.name for section in backends if section.cuts_when_down),
        tcp=frozenset(section.name for section in backends if section.has_servers and section.mode != "http"),
        routes=routes(sections),
        sidesteps=sidesteps(sections, files),
    )


def written(found: Reading, state_file: str) -> Written:
    """What commands go by; ``state_file`` is lbagent's, by the name that HAProxy's configuration uses."""
    return Written(
        frontends={r.frontend: FrontendWritten(r.binds, r.backends, r.dynamic) for r in found.routes},
        keeps=found.keeps(state_file),
        cuts=found.cuts,
        sticky=found.backends,
    )


def needs_files(files: Sequence[File], config: HAProxyConfig) -> bool:
    """Whether HAProxy could not start from ``files`` without lbagent's state folder."""
    found = read(files)
    ours = f"{config.seen_dir}/"
    tops = [section for section in parse.sections(files) if section.kind == "global"]
    named = any(word.startswith(ours) for top in tops for line in top.body for word in line.words)
    return bool(found.guards) or named


def guards(files: Sequence[File]) -> dict[str, int]:
    """Which backends carry a guard, and of which version: by its ACL, whoever put it there."""
    return read(files).guards


def _version(section: Section) -> int | None:
    for line in section.lines("acl"):
        if line.words[1:2] == ("lba_guard",):
            version, _, backend = line.words[-1].partition("/")
            if backend == section.name and version.isdecimal():
                return int(version)
    return None


def _dirs(section: Section) -> set[str]:
    text = "\n".join(" ".join(line.words) for line in section.lines("http-request"))
    return set(re.findall(r"map\(([^(),\s]+)/guard-v\d+\.map\)", text))


def _last(lines: Iterable[tuple[str, ...]]) -> str | None:
    found = [words[1] for words in lines if len(words) > 1]
    return found[-1] if found else None


def _number(lines: Iterable[tuple[str, ...]]) -> int | None:
    found = [int(words[0]) for words in lines if words and words[0].isdecimal() and len(words[0]) < 10]
    return found[-1] if found else None


def _level(words: tuple[str, ...]) -> str:
    return words[words.index("level") + 1] if "level" in words[:-1] else "operator"
