"""Plain words: short sentences in the manual, a README that is read in five minutes, and none of the old riddles."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import FENCE, ROOT, pages

LONGEST = 25  # words of a sentence
README = 900  # words

RIDDLES = (
    "Though the shared intent say the same by now",
    "it knows of its exceptions, so they end by it",
    "goes before anything is done, and comes after all of it",
    "Every server that is to come back on node may",
    "Until how long from its start",
    "though it shares its intent with others",
    "End what is remembered of",
    "; it has to end",
    "taking traffic again on =guard",
    "[Errno",
)
"""What stopped readers once. None of it may come back."""


def sentences(text: str) -> list[str]:
    """Those of a page's prose: no code, each cell of a table and each point of a list by itself."""
    text = FENCE.sub("\n\n", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^#+ .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "CODE", text)
    found = []
    for part in re.split(r"\n\s*\n|^\s*[-*] |^\s*\d+\. |\|", text, flags=re.MULTILINE):
        found += [s for s in re.split(r"(?<=[.!?])[*_)]*\s", " ".join(part.split())) if s]
    return found


def words(sentence: str) -> int:
    return sum(any(c.isalnum() for c in word) for word in sentence.split())


@pytest.mark.parametrize("page", pages())
def test_sentences_are_short(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [s for s in sentences(text) if words(s) > LONGEST] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= README


def test_no_riddle_has_come_back() -> None:
    folders = ("lbagent", "docs", "haproxy", "systemd")
    shown = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.suffix != ".pyc"]
    for path in (ROOT / "README.md", *shown):
        text = path.read_text(encoding="utf-8")
        assert [riddle for riddle in RIDDLES if riddle in text] == [], path
