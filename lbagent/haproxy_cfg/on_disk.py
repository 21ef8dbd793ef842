"""HAProxy's configuration files as they lie on the disk, read for whoever wants to know what they say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lbagent import files
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


def read_files(names: Iterable[str]) -> Reading:
    """What the files ``names`` say. Unreadable."""
    return read(load(names))
