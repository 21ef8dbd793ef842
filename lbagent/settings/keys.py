"""What a key of the configuration file is: its meaning, its reader, its place. The types of :mod:`config` carry these.

A field of a type is annotated with one of the three below. From these annotations the file is read (:mod:`load`) and
the reference is made (:mod:`reference`), so that no key is described twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

import msgspec


@dataclass(frozen=True, slots=True)
class Key:
    """A key with a value. ``at`` is its path below the section, where that is not the field's name."""

    meaning: str  # one sentence
    read: Callable[[object], Any]  # fields.Bad for a value that cannot be used
    at: str = ""
    default: str = ""  # for the reference, where the default is worked out and not a constant


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping of keys, of which ``kind`` is the type; ``optional``: None where the file does not have it."""

    meaning: str
    kind: type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Entries:
    """Several mappings of one ``kind``: by ``name`` (``services.NAME``), or in a list where that is empty."""

    meaning: str
    kind: type
    name: str = ""
    at: str = ""


@cache
def keys_of(kind: type[msgspec.Struct]) -> tuple[tuple[msgspec.structs.FieldInfo, Key | Section | Entries], ...]:
    """The fields of a type of the configuration, in their order, with what stands with each."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field, hints[field.name].__metadata__[0]) for field in msgspec.structs.fields(kind))
