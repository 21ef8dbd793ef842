"""HAProxy's configuration files as they lie on the disk, read for whoever wants to know what they say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lbagent import files
from lbagent.haproxy_cfg.pages import is_stock
from lbagent.haproxy_cfg.parse import File
from lbagent.haproxy_cfg.reading import Reading, read


class Unreadable(Exception):
    """A configuration file cannot be read; the text says which, and why."""


def load(names: Iterable[str]) -> list[File]:
    """The files ``names``, and those of folders that HAProxy would load, in its order. Unreadable."""
    found: list[File] = []
    for name in names:
        try:
            found += [(str(file), files.text(file)) for file in files.configuration(Path(name))]
        except OSError as error:
            raise Unreadable(f"{name} cannot be read: {error.strerror}") from error
    return found


def has_stock_page(path: str) -> bool:
    """Whether the errorfile at ``path`` holds no more than HAProxy's built-in 503; False where it cannot be read."""
    try:
        return is_stock(Path(path).read_bytes())
    except OSError:
        return False


class Watched:
    """The files ``names``, read again when one of them has changed on the disk."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._signature: Signature | None = None
        self._reading: Reading | None = None

    def look(self) -> Reading:
        """What they say now. Unreadable."""
        signature = _signature(self._names)
        if self._reading is None or signature != self._signature:
            self._reading, self._signature = read_files(self._names), signature
        return self._reading


Signature = tuple[tuple[str, int, int, int], ...]


def _signature(names: Iterable[str]) -> Signature:
    """Inode, size and time of change of each file. Unreadable."""
    found = []
    for name in names:
        try:
            for file in files.configuration(Path(name)):
                seen = file.stat()
                found.append((str(file), seen.st_ino, seen.st_size, seen.st_mtime_ns))
        except OSError as error:
            raise Unreadable(f"{name} cannot be read: {error.strerror}") from error
    return tuple(found)


def read_files(names: Iterable[str]) -> Reading:
    """What the files ``names`` say. Unreadable."""
    return read(load(names))
