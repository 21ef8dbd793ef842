"""One step each that takes the observed towards the desired."""

from __future__ import annotations

import msgspec

from lbagent.model.servers import Admin, Ref


class WriteFile(msgspec.Struct, frozen=True):
    """Replace a file of state_dir: write, fsync, rename, fsync the folder."""

    name: str
    text: str


class ReplaceMap(msgspec.Struct, frozen=True):
    """Replace the guard's map in a worker, atomically."""

    entries: tuple[tuple[str, str], ...]
    pid: int | None = None  # an old worker; None: the current one


class ReplaceList(msgspec.Struct, frozen=True):
    """Replace one of the guard's ACL files in the current worker, atomically."""

    name: str
    patterns: tuple[str, ...]


class SetAdmin(msgspec.Struct, frozen=True):
    ref: Ref
    admin: Admin


class ProveHealth(msgspec.Struct, frozen=True):
    """Put a checked server in drain and call it down, so that only fresh passes bring it up."""

    ref: Ref


class SetAgentCheck(msgspec.Struct, frozen=True):
    ref: Ref
    on: bool


class CutSessions(msgspec.Struct, frozen=True):
    """End what a server still works on: its clients see a 502."""

    ref: Ref
    old_workers: bool = True  # there as well


Action = CutSessions | WriteFile | ReplaceMap | ReplaceList | SetAdmin | ProveHealth | SetAgentCheck
