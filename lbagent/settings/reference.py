"""Every key of the configuration file with its default and its meaning, for the manual. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from lbagent.settings.config import Config
from lbagent.settings.keys import Entries, Key, Section, keys_of


class Described(NamedTuple):
    """A key as the manual has it."""

    path: str  # such as services.SERVICE.read_only.allow
    default: str  # as YAML, or in words where it is worked out; empty for a section
    meaning: str


def described(kind: type[msgspec.Struct] = Config, prefix: str = "") -> Iterator[Described]:
    """Every section and key in the order of the types."""
    for field, what in keys_of(kind):
        match what:
            case Key():
                constant = None if field.default is msgspec.NODEFAULT else field.default
                yield Described(f"{prefix}{what.at or field.name}", what.default or _yaml(constant), what.meaning)
            case Section():
                yield Described(f"{prefix}{field.name}", "", what.meaning)
                yield from described(what.kind, f"{prefix}{field.name}.")
            case Entries():
                path = f"{prefix}{field.name}" + (f".{what.name}" if what.name else "[]")
                yield Described(path, "", what.meaning)
                yield from described(what.kind, f"{path}.")


def _yaml(value: object) -> str:
    """A default in one line of YAML, which takes JSON."""
    return json.dumps(value, default=list)
