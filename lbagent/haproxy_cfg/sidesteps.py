"""What in a frontend answers for a service before its backend's guard is asked. Pure.

The guard stands in the backend. A frontend that answers from a cache, or sends requests elsewhere once a backend has no
server left, answers 200 while the service is closed and its machines are being worked on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from lbagent.haproxy_cfg.parse import File, Line, Section
from lbagent.haproxy_cfg.routes import route

ASKS = re.compile(
    r"\b(?:nbsrv|srv_is_up|connslots|be_conn_free|srv_conn_free|queue|srv_queue|avg_queue)(?:\(([^(),/]*)[^()]*\))?"
)
"""Fetches that tell whether a backend can serve; the backend, where it is named."""

ANSWERS = frozenset({"return", "redirect", "deny", "tarpit", "reject", "use-service", "silent-drop"})


class Sidestep(msgspec.Struct, frozen=True):
    """One line that answers in a guard's place."""

    backends: tuple[str, ...]  # whose guard is not asked; empty: of whatever the frontend leads to
    frontend: str
    line: str  # as it is written, without its comment
    where: str  # FILE:LINE
    cache: bool  # it answers from a cache; else it goes elsewhere when a backend cannot serve


def sidesteps(sections: Iterable[Section], files: Sequence[File]) -> tuple[Sidestep, ...]:
    """Every such line, in the order of the files."""
    frontends = [s for s in sections if s.kind in ("frontend", "listen") and s.mode == "http" and not s.disabled]
    return tuple(found for section in frontends for found in _of_frontend(section, files))


def _of_frontend(section: Section, files: Sequence[File]) -> Iterator[Sidestep]:
    led = route(section)
    # In a listen the guard is the first of its own http-request rules: only what it passes on is concerned.
    behind = tuple(b for b in led.backends if b != section.name)
    acls: dict[str, str] = {}
    for line in section.lines("acl"):
        acls[line.words[1] if len(line.words) > 1 else ""] = " ".join(line.words[2:])
    for line in section.body:
        where = f"{files[section.file][0]}:{line.number + 1}"
        written = " ".join(line.words)
        if line.words[:2] == ("http-request", "cache-use") and (behind or led.dynamic):
            yield Sidestep(() if led.dynamic else behind, section.name, written, where, cache=True)
        elif asked := _asked(section, line, acls):
            yield Sidestep(asked, section.name, written, where, cache=False)


def _asked(section: Section, line: Line, acls: dict[str, str]) -> tuple[str, ...]:
    """The backends whose ability to serve decides about a line that answers or routes."""
    routes = line.words[0] in ("use_backend", "redirect")
    answers = line.words[0] == "http-request" and line.words[1:2] and line.words[1] in ANSWERS
    if not (routes or answers) or not {"if", "unless"} & set(line.words):
        return ()
    first = min(line.words.index(word) for word in ("if", "unless") if word in line.words)
    condition = " ".join(acls.get(word.removeprefix("!"), word) for word in line.words[first + 1 :])
    itself = section.name if section.kind == "listen" else ""
    asked = (found[1] or itself for found in ASKS.finditer(condition))
    # A way out that is the backend's own service is no way round: the caller knows which service that is.
    return tuple(dict.fromkeys(name for name in asked if name and name != (*line.words, "")[1]))


def warning(found: Sidestep, closed: Sequence[str]) -> str:
    """What ``found`` means for ``closed``, the services or backends that it concerns; and what to do."""
    whose = ", ".join(closed)
    if found.cache:
        return (
            f"{found.frontend} answers from a cache before the guard is asked (`{found.line}`, {found.where}): {whose} "
            "would go on answering while closed; move the line into the backend, below the guard"
        )
    return (
        f"{found.frontend} goes round the guard once there is no server (`{found.line}`, {found.where}): clients of "
        f"{whose} would get that answer while it is closed and stopped; take the line out, the guard answers then too"
    )
