"""The limits that keep files readable: no module over 350 lines, no class over 200, no function over 50."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lbagent

ROOT = Path(lbagent.__file__).parent
LIMITS = {ast.ClassDef: 200, ast.FunctionDef: 50, ast.AsyncFunctionDef: 50}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_grows_out_of_hand(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if limit := LIMITS.get(type(node)):
            assert node.end_lineno - node.lineno < limit, node.name


def test_the_root_holds_few_modules() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 8
