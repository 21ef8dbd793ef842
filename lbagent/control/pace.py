"""Whose turn it is, where only so many a second may go on. Pure: the clock comes in.

Nobody is refused: who comes when too many have come waits. Clients take turns, so one that comes often delays itself
and not the others. Of one client the newest goes first: of a flood, the old ones are of no use to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Turns:
    """``rate`` a second may go on, and ``burst`` at once after a time of rest."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._free, self._counted_at = float(burst), 0.0  # how many may go on now, by the clock's ``_counted_at``
        self._waiting: dict[Hashable, list[Callable[[], object]]] = {}  # in the order of their turns

    def __bool__(self) -> bool:
        """Somebody waits."""
        return bool(self._waiting)

    def add(self, client: Hashable, go_on: Callable[[], object]) -> None:
        """``go_on`` is one of those that :meth:`due` gives back, when it is its turn."""
        self._waiting.setdefault(client, []).append(go_on)

    def remove(self, client: Hashable, go_on: Callable[[], object]) -> None:
        """It no longer waits; harmless where it does not."""
        mine = self._waiting.get(client, [])
        if go_on in mine:
            mine.remove(go_on)
            if not mine:
                del self._waiting[client]

    def due(self, now: float) -> list[Callable[[], object]]:
        """Those who may go on now."""
        self._free = min(float(self._burst), self._free + (now - self._counted_at) * self._rate)
        self._counted_at = now
        turns = []
        while self._waiting and self._free >= 1:
            client = next(iter(self._waiting))
            mine = self._waiting.pop(client)
            turns.append(mine.pop())
            if mine:
                self._waiting[client] = mine  # at the end of the row
            self._free -= 1
        return turns
