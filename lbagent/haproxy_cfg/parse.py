"""HAProxy's configuration files as far as adopt and doctor look into them: words, sections, defaults. Pure.

Read as HAProxy reads it (measured on 2.6): a line is a line, a backslash at its end continues nothing; a
section's keyword stands in any column and may be quoted; ``#`` begins a comment inside a word too; the defaults
in force outlive their file. Both branches of an ``.if`` are read, since its condition is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_PROXIES = frozenset({"frontend", "backend", "listen"})
SECTIONS = _PROXIES | frozenset(
    {"global", "defaults", "userlist", "peers", "mailers", "resolvers", "cache", "program", "ring", "traces"}
    | {"http-errors", "fcgi-app", "log-forward", "log-profile", "namespace_list", "crt-store", "acme"}
)
STEERED = "stopping"
"""In the guard's own use-server rule, which concerns old workers only."""
BRANCHES = frozenset({".elif", ".else", ".endif"})

File = tuple[str, str]
"""A configuration file: its name, for messages, and its text with line ends as they are."""


class Line(NamedTuple):
    number: int  # from 0, within its file
    words: tuple[str, ...]  # empty for blank lines and comments
    depth: int  # how many .if it stands in; .if, .elif, .else and .endif stand outside their own


@dataclass(slots=True, eq=False)
class Section:
    """One section. ``body`` is every line that HAProxy may read as part of it.

    ``region`` holds those, blank lines and comments too, that follow the header without a break and under the
    same conditions: a place among them is read exactly when the header is.
    """

    file: int
    kind: str
    name: str
    header: Line
    parent: Section | None  # the defaults it takes its settings from
    body: list[Line] = field(default_factory=list)
    region: list[Line] = field(default_factory=list)

    def lines(self, *keywords: str) -> Iterator[Line]:
        """Its own lines that begin with one of these words."""
        return (line for line in self.body if line.words[0] in keywords)

    def setting(self, keyword: str) -> tuple[str, ...]:
        """The words after ``keyword`` on the line that is in force, its own or the defaults'; else none."""
        own = [line.words[1:] for line in self.lines(keyword)]
        if own:
            return own[-1]
        return self.parent.setting(keyword) if self.parent else ()

    def in_force(self, *keywords: str) -> list[Line]:
        """Its own lines that begin with one of these words; where it has none, those of its defaults."""
        return list(self.lines(*keywords)) or (self.parent.in_force(*keywords) if self.parent else [])

    @property
    def mode(self) -> str:
        return (*self.setting("mode"), "tcp")[0]

    @property
    def disabled(self) -> bool:
        """HAProxy leaves it out, or may: the word stands in it or in its defaults, perhaps in an ``.if``."""
        found = self.in_force("disabled", "enabled")
        certain = found and found[-1].words[0] == "enabled" and found[-1].depth <= self.header.depth
        return bool(found) and not certain

    @property
    def has_servers(self) -> bool:
        return any(self.lines("server", "server-template"))

    @property
    def sticky(self) -> bool:
        """A drained server may get requests all the same: by a cookie, a stick rule, RDP's own cookie, or a use-server.

        A stick rule counts whatever section or peers its table is in. A table alone does not: it may only count.
        """
        stick = any(line.words[1:2] != ("table",) for line in self.lines("stick"))
        steered = any(STEERED not in line.words for line in self.lines("use-server"))
        return stick or steered or bool(self.setting("cookie") or self.setting("persist"))

    @property
    def cuts_when_down(self) -> bool:
        """A server that is marked down, or goes to maint, loses its open requests (``on-marked-down``)."""
        lines = [*self.lines("server", "server-template"), *self._default_servers()]
        return any("shutdown-sessions" in line.words for line in lines)

    def _default_servers(self) -> list[Line]:
        """Those in force: each adds to the ones before it, the defaults' first."""
        return [*(self.parent._default_servers() if self.parent else ()), *self.lines("default-server")]

    def before(self, index: int) -> int:
        """The number of the line to insert before, so that it is above ``region[index]`` and in no ``.if``."""
        depth = self.header.depth
        while self.region[index].depth > depth or self.region[index].words[:1] in {(".elif",), (".else",)}:
            index -= 1
        return self.region[index].number

    def after(self, index: int) -> int:
        """The number of the line to insert before, so that it is below ``region[index]`` and in no ``.if``."""
        depth = self.header.depth
        inside = self.region[index].depth > depth
        while inside and not (self.region[index].depth == depth and self.region[index].words[0] == ".endif"):
            index += 1
        return self.region[index].number + 1


@dataclass(slots=True)
class _Conditional:
    """An open ``.if``: which sections a line may belong to, before it and at the ends of its branches."""

    before: list[Section]
    ends: list[Section] = field(default_factory=list)
    exhaustive: bool = False


@dataclass(slots=True)
class _Defaults:
    last: Section | None = None
    named: dict[str, Section] = field(default_factory=dict)


def split(text: str) -> list[str]:
    """The lines with their ends; only a line feed ends one, as for HAProxy."""
    *lines, rest = text.split("\n")
    return [line + "\n" for line in lines] + ([rest] if rest else [])


def words(line: str) -> tuple[str, ...]:
    """The words of a line: quotes and backslashes resolved, comment left out, variables as they are."""
    if not any(mark in line for mark in "\\\"'#"):
        return tuple(line.split())
    out: list[str] = []
    word: list[str] | None = None  # a quoted word may be empty: none at all is something else
    quote, escaped = "", False
    for char in line.rstrip("\r\n"):
        if not quote and not escaped and char == "#":
            break
        if not quote and not escaped and char.isspace():
            if word is not None:
                out.append("".join(word))
            word = None
            continue
        word = [] if word is None else word
        if escaped:
            word.append(char)
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif char == quote:
            quote = ""
        elif not quote and char in "\"'":
            quote = char
        else:
            word.append(char)
    if word is not None:
        out.append("".join(word) + "\\" * escaped)
    return tuple(out)


def begins_section(line: str) -> bool:
    first = line.split(maxsplit=1)[:1]
    return bool(first) and first[0].strip("\"'") in SECTIONS


def sections(files: Sequence[File]) -> list[Section]:
    """Every section, in the order of the files."""
    defaults = _Defaults()
    return [section for index, (_, text) in enumerate(files) for section in _parse(index, text, defaults)]


def _parse(index: int, text: str, defaults: _Defaults) -> list[Section]:
    out: list[Section] = []
    current: list[Section] = []  # a line may belong to several: each branch of an .if may have begun one
    growing: Section | None = None  # whose region this is
    conditionals: list[_Conditional] = []
    for number, raw in enumerate(split(text)):
        found = words(raw)
        first = found[0] if found else ""
        line = Line(number, found, len(conditionals) - (1 if conditionals and first in BRANCHES else 0))
        if first in SECTIONS:
            if growing and growing.header.depth < line.depth:
                _drop_open_conditional(growing)
            growing = _section(index, line, defaults)
            out.append(growing)
            current = [growing]
            continue
        if growing and line.depth < growing.header.depth:
            growing = None
        if growing:
            growing.region.append(line)
        if first == ".if" or first in BRANCHES:
            current = _branch(first, current, conditionals)
        elif found:
            for section in current:
                section.body.append(line)
    if growing and growing.header.depth < len(conditionals):
        _drop_open_conditional(growing)
    return out


def _section(index: int, line: Line, defaults: _Defaults) -> Section:
    kind, *rest = line.words
    name = rest.pop(0) if rest and not (kind == "defaults" and rest[0] == "from") else ""
    named = defaults.named.get(rest[1]) if len(rest) > 1 and rest[0] == "from" else None
    parent = named if named or kind not in _PROXIES else defaults.last
    section = Section(index, kind, name, line, parent)
    if kind == "defaults":
        defaults.last = section
        if name:
            defaults.named[name] = section
    return section


def _drop_open_conditional(section: Section) -> None:
    """The next section, or the file's end, comes inside an ``.if`` that began in this one: its region ends above."""
    while True:
        line = section.region.pop()
        if line.depth == section.header.depth and line.words[:1] == (".if",):
            return


def _branch(first: str, current: list[Section], conditionals: list[_Conditional]) -> list[Section]:
    if first == ".if":
        conditionals.append(_Conditional(before=current))
        return current
    if not conditionals:  # a stray .endif: HAProxy will say so
        return current
    top = conditionals[-1]
    if first != ".endif":
        top.ends += current
        top.exhaustive = top.exhaustive or first == ".else"
        return top.before
    conditionals.pop()
    ends = top.ends + current + ([] if top.exhaustive else top.before)
    return list({id(section): section for section in ends}.values())
