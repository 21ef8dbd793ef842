"""For each closed service, the requests from before its mode that are still held (rules/barrier.py has the theory)."""

from __future__ import annotations

from collections.abc import Mapping

from lbagent.model.intent import Intent, Mode, ServiceIntent
from lbagent.model.observed import Stream
from lbagent.rules import barrier
from lbagent.rules.barrier import Key

Closing = tuple[Mode, int, tuple[str, ...]]


class Barriers:
    """A barrier belongs to one closing of a service: another mode, start or set of backends is waited for anew."""

    def __init__(self) -> None:
        self._closings: dict[str, Closing] = {}
        self._held: dict[str, dict[Key, Stream] | None] = {}

    def of(self, intent: Intent) -> Mapping[str, dict[Key, Stream] | None]:
        """Service → requests from before that are left; None where they have not been counted yet."""
        for name, service in intent.services.items():
            if self._closings.get(name) != _closing(service):
                self._closings[name], self._held[name] = _closing(service), None
        for name in set(self._held) - set(intent.services):
            del self._closings[name], self._held[name]
        return self._held

    def pending(self, intent: Intent, now: float) -> bool:
        """A mode that is in force has requests from before, or they have not been counted."""
        held = self.of(intent)
        return any(
            held.get(name) != {} for name, service in intent.services.items() if service.effective(now) is not Mode.UP
        )

    def record(self, streams: list[Stream], intent: Intent, now: float) -> None:
        """``streams`` are all that any worker holds, listed after every worker had the new map."""
        before = self.of(intent)
        for name, service in intent.services.items():
            mode = service.effective(now)
            if mode is Mode.UP:
                continue
            held = before[name]
            self._held[name] = (
                barrier.held_up(streams, service.keys, mode) if held is None else barrier.still(held, streams)
            )


def _closing(service: ServiceIntent) -> Closing:
    return service.mode, service.start, service.keys
