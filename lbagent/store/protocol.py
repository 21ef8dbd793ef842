"""What an agent needs of the place where its own intent is kept; a file (file.py) implements it."""

from __future__ import annotations

from typing import Protocol

from lbagent.model.intent import Intent


class Store(Protocol):
    async def read(self) -> Intent | None:
        """The newest intent; None when nothing was ever stored. Damaged when it cannot be read."""
        ...

    async def swap(self, expected: int, intent: Intent) -> Intent:
        """Store ``intent`` as revision ``expected + 1``; Conflict when the stored one is not ``expected``."""
        ...
