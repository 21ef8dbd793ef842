"""Where the files that ship with lbagent lie: in the wheel, or beside the package in a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent


@cache
def folder(name: str) -> Path:
    """The shipped folder ``haproxy`` or ``systemd``."""
    installed = _HERE / "shipped" / name
    return installed if installed.is_dir() else _HERE.parent / name


@cache
def text(name: str) -> str:
    """The text of ``haproxy/NAME``."""
    return (folder("haproxy") / name).read_text(encoding="utf-8")
