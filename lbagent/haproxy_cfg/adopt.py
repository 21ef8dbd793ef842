"""Puts the guard into HAProxy's configuration, and takes it out again. Pure: texts in, texts out.

What adopt adds stands between marker lines, so that :func:`remove` gives back the original byte for byte, and
adopting again is removing and adopting: nothing changes, or an older guard is replaced by this version's.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lbagent.guard import cfg_lines, file_names
from lbagent.haproxy_cfg import blocks, parse
from lbagent.haproxy_cfg.pages import Stock, own_503
from lbagent.haproxy_cfg.parse import File, Section
from lbagent.haproxy_cfg.sidesteps import sidesteps, warning
from lbagent.haproxy_cfg.wanted import Wanted, wanted
from lbagent.settings.config import Config

LOAD = "load-server-state-from-file"
KEEPS_DRAINS = f"  {LOAD} global"
"""All that a backend in mode tcp needs: its drains outlive a reload."""

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


def nobodys(path: str) -> bool:  # noqa: ARG001 an answer for every file
    """No page is taken for HAProxy's own."""
    return False


def adopt(files: Sequence[File], config: Config, stock: Stock = nobodys) -> Adopted:
    """``files`` with the guard in every http backend of the services, and the drains' line in tcp backends.

    ``stock`` tells of a file whether it holds no more than HAProxy's built-in 503.
    CannotAdopt with every problem at once; blocks.BrokenBlock when an older guard cannot be told from the rest.
    """
    bare = remove(files)
    sections = parse.sections(bare)
    found = wanted(sections, config)
    adding = _Adding(bare, sections, config.haproxy.seen_dir, found, stock)
    for section in found.guarded:
        adding.guard(section)
    for section in found.drained:
        adding.keep_drains(section)
    if found.guarded or adding.added:
        adding.global_part()
    guarded = [section.name for section in found.guarded]
    for step in sidesteps(sections, bare):
        if concerned := [name for name in guarded if name in step.backends or not step.backends]:
            found.notes.append(warning(step, concerned))
    if adding.refusals:
        raise CannotAdopt(adding.refusals)
    return Adopted(
        files=tuple(
            (name, blocks.insert(text, [(at, lines) for file, at, lines in adding.added if file == index]))
            for index, (name, text) in enumerate(bare)
        ),
        guarded=tuple(guarded),
        notes=tuple(found.notes),
        problems=tuple(found.problems),
    )


def remove(files: Sequence[File]) -> tuple[File, ...]:
    """``files`` without what adopt put in. blocks.BrokenBlock when a block has no clear end."""
    return tuple((name, blocks.remove(name, text)) for name, text in files)


def diff(files: Sequence[File], new: Sequence[File]) -> str:
    """A unified diff from ``files`` to ``new``, in the same order; empty when they are the same."""
    return "".join(blocks.diff(name, old, text) for (name, old), (_, text) in zip(files, new, strict=True))


# ---------------------------------------------------------------------------------------------- what


class _Adding:
    """The blocks to put in, and what is in their way."""

    def __init__(
        self, files: Sequence[File], sections: Sequence[Section], seen_dir: str, found: Wanted, stock: Stock
    ) -> None:
        self._files, self._sections, self._dir, self._found, self._stock = files, sections, seen_dir, found, stock
        self.added: list[tuple[int, int, list[str]]] = []  # file, line to insert before, lines
        self.refusals: list[str] = []

    def guard(self, section: Section) -> None:
        if any(line.words[1:2] == ("lba_guard",) for line in section.lines("acl")):
            self._found.notes.append(f"{section.name}: has a guard that adopt did not put in; left as it is")
            return
        if problem := self._keeps_otherwise(section):
            self.refusals.append(problem)
            return
        steer = cfg_lines.steer_lines(section.name, self._dir)
        self.added.append((section.file, _guard_place(section), blocks.block("guard", self._guard_lines(section))))
        self.added.append((section.file, _steer_place(section), blocks.block("steer", steer)))

    def _guard_lines(self, section: Section) -> list[str]:
        """The guard's lines, less those for which the site has its own."""
        lines = cfg_lines.lines(section.name, self._dir)
        if any(section.lines(LOAD)):
            lines = [line for line in lines if parse.words(line)[:1] != (LOAD,)]
        if where := own_503(section, self._sections, self._files, self._stock):
            lines = [line for line in lines if parse.words(line)[:1] != ("errorfile",)]
            self._found.notes.append(
                f"{section.name}: the site's own 503 ({where}) is left in place: with no server left, that is what "
                "clients get, without Retry-After"
            )
        return lines

    def keep_drains(self, section: Section) -> None:
        """A backend that is no more than drained: its drain has to outlive a reload."""
        if section.setting(LOAD)[:1] == ("global",):
            return
        if problem := self._keeps_otherwise(section):
            if section.name in self._found.service_of:
                self.refusals.append(problem)
            else:
                self._found.notes.append(f"{problem}; until then a drain of it ends with a reload")
            return
        lines = blocks.block("drain", [KEEPS_DRAINS])
        self.added.append((section.file, section.header.number + 1, lines))

    def _keeps_otherwise(self, section: Section) -> str | None:
        """Why HAProxy would not load this section's drains from the global server-state file."""
        own = list(section.lines(LOAD))
        where = section.setting(LOAD)[:1]
        if where != ("local",) and (not own or where == ("global",)):
            return None
        at = own[-1].number + 1 if own else section.header.number + 1
        return (
            f"{self._files[section.file][0]}:{at}: {section.name} has {LOAD} {' '.join(where)}, and lbagent's drains "
            "outlive a reload by way of the global one: take that line out, or make it global"
        )

    def global_part(self) -> None:
        """Nothing where it names lbagent's server-state file already: then a template writes what it wants of this."""
        path = f"{self._dir}/{file_names.STATE}"
        tops = [section for section in self._sections if section.kind == "global"]
        own = [(section, line) for section in tops for line in section.lines("server-state-file")]
        if others := [(section, line) for section, line in own if line.words[1:] != (path,)]:
            self.refusals += [
                f"{self._files[section.file][0]}:{line.number + 1}: HAProxy has one server-state-file, and lbagent's "
                f"drains outlive a reload by way of {path}: take this line out, and whatever writes that file"
                for section, line in others
            ]
            return
        lines = cfg_lines.global_lines(self._dir)
        if own or not self._files:
            return
        if tops:
            self.added.append((tops[0].file, tops[0].header.number + 1, blocks.block("state", lines)))
        else:
            self.added.append((0, 0, blocks.block("state", ["global", *lines])))


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
