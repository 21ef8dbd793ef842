"""The folder of files that a guarded HAProxy needs at its start: laid down where they are missing, taken away again."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lbagent.files import sync_folder
from lbagent.guard import state_files
from lbagent.settings.config import Config


def lay_down(config: Config) -> list[Path]:
    """Create state_dir and those of its files that are not there; returns what was created, folders first.

    A file that exists may hold a maintenance and is left alone. Everything is readable by all, HAProxy's user
    too, and belongs to the folder's owner. OSError, after which the rest may be missing.
    """
    folder = Path(config.haproxy.state_dir)
    created = _make_folders(folder)
    owner = folder.stat()
    for name, text in state_files.files_at_rest(config).items():
        target = folder / name
        if target.exists():
            continue
        descriptor, beside = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                os.fchmod(descriptor, 0o644)
                with contextlib.suppress(PermissionError):  # the agent replaces it by its own
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                file.flush()
                os.fsync(descriptor)
            with contextlib.suppress(FileExistsError):  # the agent was quicker
                os.link(beside, target)
                created.append(target)
        finally:
            Path(beside).unlink()
    if created:
        sync_folder(folder)
    return created


def take_up(created: Sequence[Path]) -> None:
    """Undo lay_down()."""
    for path in reversed(created):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _make_folders(folder: Path) -> list[Path]:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir()
        owner = path.parent.stat()
        path.chmod(0o755)
        with contextlib.suppress(PermissionError):
            os.chown(path, owner.st_uid, owner.st_gid)
    return missing[::-1]
