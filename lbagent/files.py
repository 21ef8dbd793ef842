"""Files that survive a power cut: written beside, synced, renamed, the folder synced. Source: rename(2), fsync(2)."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

LARGEST = 256 * 1024 * 1024  # bytes: of 100,000 services' map no more is needed


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace ``path`` by ``text``, durably; OSError leaves the old one whole."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        beside.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_all(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Those of ``names`` that exist in ``folder`` and are text: name → content.

    What is no plain file, or larger than ``LARGEST``, is left out: root reads these files as well (`lbctl doctor`), and
    a pipe in their place would hold it up.
    """
    found = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                seen = os.fstat(descriptor)
                if stat.S_ISREG(seen.st_mode) and seen.st_size <= LARGEST:
                    found[name] = file.read(LARGEST).decode()
    return found


def configuration(path: Path) -> list[Path]:
    """The file, or the files of a folder that HAProxy would load (management.txt, -f), in its order. OSError."""
    if not path.is_dir():
        return [path]
    inside = [entry for entry in path.iterdir() if entry.suffix == ".cfg" and entry.name[0] != "."]
    return sorted((entry for entry in inside if entry.is_file()), key=lambda entry: os.fsencode(entry.name))


def text(path: Path) -> str:
    """A configuration as it is: bytes that are no text come back the same. OSError."""
    return path.read_bytes().decode("utf-8", "surrogateescape")
