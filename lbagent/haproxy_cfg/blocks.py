"""Marked blocks of lines in a configuration file: put in, taken out byte for byte, shown as a diff. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from lbagent.guard import VERSION
from lbagent.haproxy_cfg import parse

NOTE = 'put here by "lbctl haproxy adopt", taken out by "--remove"; edits are lost'
MARK = re.compile(r"[ \t]*# (BEGIN|END) lbagent (guard|steer|drain|state)\b")

Opcode = tuple[str, int, int, int, int]
"""difflib's: what was done, and to which lines of the old and of the new text."""


class BrokenBlock(Exception):
    """A block has lost its first or last line: what adopt put in cannot be told from what the operator wrote."""


def block(kind: str, lines: Sequence[str]) -> list[str]:
    """``lines`` between the markers of ``kind``: guard, steer, drain or state."""
    return [f"  # BEGIN lbagent {kind} {VERSION}: {NOTE}", *lines, f"  # END lbagent {kind}"]


def insert(text: str, blocks: Sequence[tuple[int, Sequence[str]]]) -> str:
    """``text`` with each block above the line whose number it comes with; at the same line in the order given.

    A last line without an end is given one above a block, and that block then ends without: remove() knows.
    """
    lines = parse.split(text)
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    above: dict[int, list[str]] = {}
    for at, added in blocks:
        above.setdefault(at, []).extend(line + end for line in added)
    open_end = bool(lines) and not lines[-1].endswith("\n") and len(lines) in above
    if open_end:
        lines[-1] += "\n"
    out = [part for at, line in enumerate(lines) for part in (*above.get(at, ()), line)]
    whole = "".join(out + above.get(len(lines), []))
    return whole.removesuffix("\n") if open_end else whole


def remove(name: str, text: str) -> str:
    """What ``text`` was before insert(). BrokenBlock names the file ``name`` and the line."""
    kept: list[str] = []
    inside: tuple[str, int] | None = None  # which block, and the line it began on
    for number, line in enumerate(parse.split(text), 1):
        mark = MARK.match(line)
        if mark and mark[1] == "BEGIN" and not inside:
            inside = (mark[2], number)
        elif mark and mark[1] == "END" and inside and inside[0] == mark[2]:
            inside = None
            if not line.endswith("\n") and kept:
                kept[-1] = kept[-1].removesuffix("\n")
        elif mark and not inside:
            raise BrokenBlock(
                f'{name}:{number}: "# END lbagent {mark[2]}" without its BEGIN: take out the lines that belong to '
                "it by hand"
            )
        elif inside and (mark or (inside[0] != "state" and parse.begins_section(line))):
            raise _endless(name, *inside)
        elif not inside:
            kept.append(line)
    if inside:
        raise _endless(name, *inside)
    return "".join(kept)


def _endless(name: str, kind: str, number: int) -> BrokenBlock:
    return BrokenBlock(
        f'{name}:{number}: "# BEGIN lbagent {kind}" has no "# END lbagent {kind}" below it: put that line back where '
        "the block ends, or take its lines out by hand"
    )


def diff(name: str, old_text: str, new_text: str) -> str:
    """A unified diff of file ``name``; empty when the texts are the same."""
    old, new = parse.split(old_text), parse.split(new_text)
    matcher = difflib.SequenceMatcher(None, old, new)
    # Only blocks differ, which takes one walk; difflib by itself takes minutes for thousands of backends.
    matcher.opcodes = list(_opcodes(old, new))  # type: ignore[attr-defined]
    out: list[str] = []
    for group in [] if old == new else matcher.get_grouped_opcodes(3):
        first, last = group[0], group[-1]
        out.append(f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n")
        for what, i1, i2, j1, j2 in group:
            if what == "equal":
                out += [" " + line for line in old[i1:i2]]
            else:
                out += ["-" + line for line in old[i1:i2]] + ["+" + line for line in new[j1:j2]]
    head = f"--- {name}\n+++ {name}\n" if out else ""
    return head + "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in out)


def _opcodes(old: list[str], new: list[str]) -> Iterator[Opcode]:
    """What leads from ``old`` to ``new``, which differ in whole blocks and perhaps in the end of a last line."""
    i = j = 0
    what, i0, j0 = "equal", 0, 0
    while i < len(old) or j < len(new):
        i1, j1 = _step(old, i), _step(new, j)
        if old[i:i1] == new[j:j1]:
            now = "equal"
        else:
            now = "replace"
            if i1 - i > 1 and j1 - j == 1:  # a block went: the line below it is still to come
                j1 = j
            elif j1 - j > 1 and i1 - i == 1:
                i1 = i
        if now != what:
            if (i, j) != (i0, j0):
                yield what, i0, i, j0, j
            what, i0, j0 = now, i, j
        i, j = i1, j1
    if (i, j) != (i0, j0):
        yield what, i0, i, j0, j


def _step(lines: list[str], at: int) -> int:
    """The end of the block that begins at ``at``, else of the line."""
    mark = MARK.match(lines[at]) if at < len(lines) else None
    if mark and mark[1] == "BEGIN":
        for end in range(at + 1, len(lines)):
            if MARK.match(lines[end]):
                return end + 1
    return min(at + 1, len(lines))


def _range(start: int, stop: int) -> str:
    """Lines as a unified diff counts them: from 1, and from the line before where there are none."""
    return f"{start + 1 if stop > start else start},{stop - start}"
