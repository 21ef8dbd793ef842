"""An intent in a file of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lbagent import files
from lbagent.errors import Conflict, StoreError
from lbagent.model.intent import Intent
from lbagent.store.codec import Damaged, decode, encode


@contextlib.contextmanager
def sole_user(path: Path) -> Iterator[None]:
    """Hold the intent file ``path`` for this process alone. StoreError when another agent has it.

    Two agents with one file would undo each other's changes: each takes what the other stored for its own. The lock is
    a file beside it, as the intent itself is replaced at every change; it ends with the process.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{lock} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"store.path: another lbagent uses {path}; stop it, or give this one a file of its own"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


class FileStore:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()

    async def read(self) -> Intent | None:
        return await asyncio.to_thread(self._read)

    async def swap(self, expected: int, intent: Intent) -> Intent:
        async with self._lock:
            try:
                stored = await self.read()
            except Damaged:
                stored = None  # the caller has rebuilt it; the damaged file is kept beside
                await asyncio.to_thread(self._set_aside)
            if stored is not None and stored.revision != expected:
                raise Conflict(f"the intent is at revision {stored.revision}, not {expected}")
            new = msgspec.structs.replace(intent, revision=expected + 1)
            await asyncio.to_thread(self._write, new)
        return new

    def _read(self) -> Intent | None:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise Damaged(f"{self._path} cannot be read: {error}") from error
        return decode(text, str(self._path))

    def _write(self, intent: Intent) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write(self._path, encode(intent), mode=0o640)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written, nothing was changed: {error.strerror}") from error

    def _set_aside(self) -> None:
        try:
            self._path.replace(self._path.with_name(self._path.name + ".damaged"))
        except OSError as error:
            raise StoreError(f"{self._path} is damaged and cannot be set aside: {error.strerror}") from error
