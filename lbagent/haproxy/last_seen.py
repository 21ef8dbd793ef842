"""HAProxy's backends and frontends as they were last seen, for an agent that starts while it is down. Blocking."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from lbagent import files
from lbagent.model.observed import BackendSeen

Layout = tuple[dict[str, BackendSeen], frozenset[str]]


class LastSeen:
    """A convenience, so that commands can be given while HAProxy is down: what matters is in the intent."""

    def __init__(self, state_dir: str) -> None:
        self._path = Path(state_dir) / "last-seen.json"
        self.backends, self.frontends = self._read()

    def _read(self) -> Layout:
        try:
            remembered: Layout = msgspec.json.decode(self._path.read_bytes(), type=Layout)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}, frozenset()
        return remembered

    def keep(self, backends: dict[str, BackendSeen], frontends: frozenset[str]) -> None:
        """Remember these; on the disk only where what a command has to know of them has changed."""
        changed = _known(backends) != _known(self.backends) or frontends != self.frontends
        self.backends, self.frontends = backends, frontends
        if changed:
            with contextlib.suppress(OSError):
                files.write(self._path, msgspec.json.encode((backends, frontends)).decode())


def _known(backends: dict[str, BackendSeen]) -> dict[str, tuple[bool, bool, int | None, tuple[str, ...]]]:
    """What a command has to know of them, without what changes all the time."""
    return {name: (b.http, b.sticky, b.guard, tuple(b.servers)) for name, b in backends.items()}
