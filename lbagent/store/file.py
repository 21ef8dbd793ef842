"""What an intent is stored in: read, compare-and-swap, watch. Two implement it: a file here, etcd in etcd.py.

What is stored is JSON with a format number and a checksum. Missing and damaged are different answers, and neither is
ever taken for "nothing is in maintenance".
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from lbagent import files
from lbagent.errors import Conflict, StoreError
from lbagent.model.intent import Intent

FORMAT = 1
T = TypeVar("T", bound=Intent)


class Damaged(StoreError):
    """What is stored cannot be read; it is left as it is."""


class Store(Protocol[T]):
    async def read(self) -> T | None:
        """The newest intent; None when nothing was ever stored. Damaged when it cannot be read."""
        ...

    async def swap(self, expected: int, intent: T) -> T:
        """Store ``intent`` as revision ``expected + 1``; Conflict when the stored one is not ``expected``."""
        ...

    def watch(self) -> AsyncIterator[int]:
        """Revisions as they come; it only wakes, :meth:`read` is the truth."""
        ...


class FileStore:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._revision = 0

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
        async with self._changed:
            self._revision = new.revision
            self._changed.notify_all()
        return new

    async def watch(self) -> AsyncIterator[int]:
        seen = self._revision
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._revision != seen)  # noqa: B023 read at once
                seen = self._revision
            yield seen

    def _read(self) -> Intent | None:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise Damaged(f"{self._path} cannot be read: {error}") from error
        return decode(text, str(self._path), Intent)

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


def encode(intent: Intent) -> str:
    body = msgspec.to_builtins(intent)
    return json.dumps({"format": FORMAT, "checksum": _checksum(body), "intent": body}, indent=1) + "\n"


def decode(text: str | bytes, where: str, kind: type[T] = Intent) -> T:  # type: ignore[assignment]  # T's bound
    """The intent in ``text``; Damaged when it is cut off, altered or of another format."""
    try:
        tree = json.loads(text)
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']}, this lbagent reads {FORMAT}")
        if tree["checksum"] != _checksum(tree["intent"]):
            raise ValueError("its checksum does not match")
        return msgspec.convert(tree["intent"], kind)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{where} is damaged ({error}); nothing is opened for it") from error


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
