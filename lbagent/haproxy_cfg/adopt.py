"""Puts the guard into HAProxy's configuration, and takes it out again. Pure: texts in, texts out.

What adopt adds stands between marker lines, so that :func:`remove` gives back the original byte for byte, and
adopting again is removing and adopting: nothing changes, or an older guard is replaced by this version's.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lbagent.guard import cfg_lines, file_names
from lbagent.haproxy_cfg import blocks, parse
from lbagent.haproxy_cfg.parse import File, Line, Section
from lbagent.settings.config import Config
from lbagent.settings.fields import NAME
from lbagent.topology import discovery, resolve

BEFORE_HTTP = frozenset({("tcp-request", "connection"), ("tcp-request", "session"), ("tcp-request", "content")})
"""Rules that HAProxy runs before http-request rules; it warns of one that stands after them."""


class CannotAdopt(Exception):
    """Settings of the operator's are in the way; ``problems`` holds one line each, with file and line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Adopted(msgspec.Struct, frozen=True):
    files: tuple[File, ...]
    guarded: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what stays without a guard, and why
    problems: tuple[str, ...] = ()  # backends of the configuration that are in none of the files


# ------------------------------------------------------------------------------------------ in and out


def adopt(files: Sequence[File], config: Config) -> Adopted:
    """``files`` with the guard in every backend of the services, or, with none, every http one with servers.

    CannotAdopt with every problem at once; blocks.BrokenBlock when an older guard cannot be told from the rest.
    """
    bare = remove(files)
    sections = parse.sections(bare)
    wanted, notes, problems = _wanted(sections, config)
    refusals: list[str] = []
    added: list[tuple[int, int, list[str]]] = []  # file, line to insert before, lines
    for section in wanted:
        if any(line.words[1:2] == ("lba_guard",) for line in section.lines("acl")):
            notes.append(f"{section.name}: has a guard that adopt did not put in; left as it is")
            continue
        try:
            lines = _guard_lines(section, config.haproxy.seen_dir, bare[section.file][0])
        except CannotAdopt as error:
            refusals += error.problems
            continue
        steer = cfg_lines.steer_lines(section.name, config.haproxy.seen_dir)
        added.append((section.file, _guard_place(section), blocks.block("guard", lines)))
        added.append((section.file, _steer_place(section), blocks.block("steer", steer)))
    if wanted:
        try:
            added += _global(bare, sections, config.haproxy.seen_dir)
        except CannotAdopt as error:
            refusals += error.problems
    if refusals:
        raise CannotAdopt(refusals)
    return Adopted(
        files=tuple(
            (name, blocks.insert(text, [(at, lines) for file, at, lines in added if file == index]))
            for index, (name, text) in enumerate(bare)
        ),
        guarded=tuple(section.name for section in wanted),
        notes=tuple(notes),
        problems=tuple(problems),
    )


def remove(files: Sequence[File]) -> tuple[File, ...]:
    """``files`` without what adopt put in. blocks.BrokenBlock when a block has no clear end."""
    return tuple((name, blocks.remove(name, text)) for name, text in files)


def diff(files: Sequence[File], new: Sequence[File]) -> str:
    """A unified diff from ``files`` to ``new``, in the same order; empty when they are the same."""
    return "".join(blocks.diff(name, old, text) for (name, old), (_, text) in zip(files, new, strict=True))


# ------------------------------------------------------------------------------------- which, and what


def _wanted(sections: list[Section], config: Config) -> tuple[list[Section], list[str], list[str]]:
    """The sections to guard, notes on those that cannot be, and the configured backends that are not there."""
    backends = [section for section in sections if section.kind in ("backend", "listen")]
    service_of = services_of(backends, config)
    asked = [s for s in backends if s.name in service_of or s.has_servers]
    wanted, notes = [], []
    for section in asked:
        whose = f"service {service_of[section.name]}: " if section.name in service_of else ""
        if section.mode != "http":
            notes.append(f"{whose}{section.name} is mode {section.mode}: it can be drained, no more; no guard")
        elif not NAME.fullmatch(section.name):
            notes.append(f"{section.name!r} is not a name that lbagent can work with; no guard")
        elif whose:
            wanted.append(section)
        elif config.discover:
            notes.append(f"{section.name} belongs to no service, as the configuration lists others; no guard")
    there = {section.name for section in backends}
    frontends = {section.name for section in sections if section.kind == "frontend"}
    problems = [
        f"service {service}: there is no backend {name} in these files"
        + (", only a frontend: give the backends it leads to" if name in frontends else "")
        for name, service in service_of.items()
        if name not in there
    ]
    if not config.services and not wanted:
        notes.append("no backend in mode http has servers: nothing to guard")
    return wanted, notes, problems


def services_of(backends: Sequence[Section], config: Config) -> dict[str, str]:
    """Backend → the service that owns it, as the agent will see it once HAProxy runs these sections."""
    http = [s.name for s in backends if s.mode == "http" and s.has_servers and NAME.fullmatch(s.name)]
    found = resolve.services(config, discovery.services(http) if config.discover else {})
    return {backend: name for name, service in found.items() for backend in service.backends or ()}


def _guard_lines(section: Section, seen_dir: str, file: str) -> list[str]:
    """The guard's lines, less those for which the section has its own."""
    own = list(section.lines("load-server-state-from-file"))
    where = section.setting("load-server-state-from-file")[:1]
    if where == ("local",) or (own and where != ("global",)):
        at = own[-1].number + 1 if own else section.header.number + 1
        raise CannotAdopt(
            [
                f"{file}:{at}: {section.name} has load-server-state-from-file {' '.join(where)}, and lbagent's "
                "drains outlive a reload by way of the global one: take that line out, or make it global"
            ]
        )
    lines = cfg_lines.lines(section.name, seen_dir)
    if own:
        lines = [line for line in lines if parse.words(line)[:1] != ("load-server-state-from-file",)]
    if any(_answers_503(line) for line in section.body):
        lines = [line for line in lines if parse.words(line)[:1] != ("errorfile",)]
    return lines


def _answers_503(line: Line) -> bool:
    keyword, *rest = line.words
    match keyword:
        case "errorfile" | "errorloc" | "errorloc302" | "errorloc303":
            return rest[:1] == ["503"]
        case "errorfiles":
            return len(rest) == 1 or "503" in rest[1:]
        case "http-error":
            return rest[:2] == ["status", "503"]
    return False


def _global(files: Sequence[File], sections: list[Section], seen_dir: str) -> list[tuple[int, int, list[str]]]:
    """What the global section gets: file, line to insert before, lines.

    Nothing where it names lbagent's server-state file already: then a template writes it, and what else it wants.
    """
    path = f"{seen_dir}/{file_names.STATE}"
    tops = [section for section in sections if section.kind == "global"]
    own = [(section, line) for section in tops for line in section.lines("server-state-file")]
    if others := [(section, line) for section, line in own if line.words[1:] != (path,)]:
        raise CannotAdopt(
            [
                f"{files[section.file][0]}:{line.number + 1}: HAProxy has one server-state-file, and lbagent's "
                f"drains outlive a reload by way of {path}: take this line out, and whatever writes that file"
                for section, line in others
            ]
        )
    lines = cfg_lines.global_lines(seen_dir)
    if own or not files:
        return []
    if tops:
        return [(tops[0].file, tops[0].header.number + 1, blocks.block("state", lines))]
    return [(0, 0, blocks.block("state", ["global", *lines]))]


# ------------------------------------------------------------------------------------------- and where


def _guard_place(section: Section) -> int:
    """Below the last rule that has to stand above http-request rules, else right below the header."""
    early = [i for i, line in enumerate(section.region) if _runs_before_http(line.words)]
    return section.after(early[-1]) if early else section.header.number + 1


def _runs_before_http(words: tuple[str, ...]) -> bool:
    return words[:2] in BEFORE_HTTP or words[:2] == ("monitor", "fail") or words[:1] == ("quic-initial",)


def _steer_place(section: Section) -> int:
    """Above the first use-server, of which the first that applies counts; else at the section's end."""
    for index, line in enumerate(section.region):
        if line.words[:1] == ("use-server",):
            return section.before(index)
    last = [line.number for line in section.region if line.words]
    return max([section.header.number, *last]) + 1
