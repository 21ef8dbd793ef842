"""What HAProxy's configuration says of the things that doctor looks at. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from lbagent.haproxy_cfg import parse
from lbagent.haproxy_cfg.parse import File, Section


class Socket(msgspec.Struct, frozen=True):
    """A ``stats socket`` line of HAProxy's global section."""

    address: str
    level: str  # HAProxy's default is operator
    where: str  # FILE:LINE


class Route(msgspec.Struct, frozen=True):
    """A frontend or listen section: where it listens, and the backends that it names."""

    frontend: str
    binds: tuple[str, ...]  # as they are written
    backends: tuple[str, ...]
    dynamic: bool  # some backends are picked by a map


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What doctor wants to know of a configuration."""

    guards: dict[str, int]  # backend → version of the guard
    dirs: frozenset[str]  # where those guards look for their files
    state_file: str | None  # server-state-file
    hard_stop_after: str | None
    sockets: tuple[Socket, ...]
    sticky: frozenset[str]  # backends
    tcp: frozenset[str]  # backends with servers that are not mode http
    routes: tuple[Route, ...]


def read(files: Sequence[File]) -> Reading:
    """What ``files`` say of the things that doctor looks at; never fails, damaged markers or not."""
    sections = parse.sections(files)
    top = [(s, line) for s in sections if s.kind == "global" for line in s.body]
    backends = [section for section in sections if section.kind in ("backend", "listen")]
    return Reading(
        guards={s.name: version for s in backends if (version := _version(s)) is not None},
        dirs=frozenset(found for section in backends for found in _dirs(section)),
        state_file=_last(line.words for _, line in top if line.words[0] == "server-state-file"),
        hard_stop_after=_last(line.words for _, line in top if line.words[0] == "hard-stop-after"),
        sockets=tuple(
            Socket(line.words[2], _level(line.words), f"{files[section.file][0]}:{line.number + 1}")
            for section, line in top
            if line.words[:2] == ("stats", "socket") and len(line.words) > 2
        ),
        sticky=frozenset(section.name for section in backends if section.sticky),
        tcp=frozenset(section.name for section in backends if section.has_servers and section.mode != "http"),
        routes=tuple(_route(section) for section in sections if section.kind in ("frontend", "listen")),
    )


def guards(files: Sequence[File]) -> dict[str, int]:
    """Which backends carry a guard, and of which version: by its ACL, whoever put it there."""
    return read(files).guards


def _route(section: Section) -> Route:
    named = [line.words[1] for line in section.lines("use_backend", "default_backend") if len(line.words) > 1]
    itself = [section.name] if section.kind == "listen" and section.has_servers else []
    return Route(
        frontend=section.name,
        binds=tuple(line.words[1] for line in section.lines("bind") if len(line.words) > 1),
        backends=tuple(dict.fromkeys([*itself, *(name for name in named if "%" not in name)])),
        dynamic=any("%" in name for name in named),
    )


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


def _level(words: tuple[str, ...]) -> str:
    return words[words.index("level") + 1] if "level" in words[:-1] else "operator"
