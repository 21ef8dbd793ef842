"""The fenced blocks of a page, and the commands in them with the output that the page shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = ("reference",)
"""Folders of docs/ that docs/generate writes: compared with what it writes, so not run."""

OURS = "# /etc/lbagent/lbagent.yaml\n"
"""How a block begins that is a configuration of lbagent."""

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: the section it stands in, its language, its text without indentation, the line it begins in."""

    page: str
    section: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """What is typed behind ``$``, and the lines that the page shows below it."""

    where: str
    typed: str
    shown: tuple[str, ...]


def pages() -> list[str]:
    """Every page that somebody wrote, by its path below the repository: README.md, docs/concepts.md …"""
    written = [p for p in DOCS.rglob("*.md") if p.relative_to(DOCS).parts[0] not in GENERATED]
    return ["README.md", *sorted(str(p.relative_to(ROOT)) for p in written)]


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent, language, body = match.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        number = text.count("\n", 0, match.start(3)) + 1
        above = re.findall(r"^## (.*)$", text[: match.start()], re.MULTILINE)
        found.append(Block(page, above[-1] if above else "", number, language, "\n".join(lines) + "\n"))
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a ``console`` block. A line that ends in a backslash goes on in the next one."""
    found: list[Command] = []
    typed: list[str] = []
    shown: list[str] = []
    began = block.line

    def end() -> None:
        if typed:
            found.append(Command(f"{block.page}:{began}", "\n".join(typed), tuple(shown)))

    going_on = False
    for number, line in enumerate(block.text.splitlines(), block.line):
        if going_on:
            typed.append(line.strip())
        elif line.startswith("$ "):
            end()
            typed, shown, began = [line[2:]], [], number
        elif typed:
            shown.append(line)
        else:
            raise AssertionError(f"{block.page}:{number}: output without a command above it: {line!r}")
        going_on = line.endswith("\\")
    end()
    return found
