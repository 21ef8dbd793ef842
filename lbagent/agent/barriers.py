"""For each closed service, the requests from before its mode that are still held (rules/barrier.py has the theory)."""

from __future__ import annotations

from collections.abc import Mapping

from lbagent.model.intent import Intent, Mode, ServiceIntent
from lbagent.model.observed import Stream
from lbagent.rules import barrier
from lbagent.rules.barrier import Key

Closing = tuple[Mode, int, tuple[str, ...]]


class Barriers:
    """A barrier belongs to one closing of a service: another mode, start or set of backends is waited for anew.

    All requests from before are kept, also those that the mode lets through: one may turn into a websocket later.
    """

    def __init__(self) -> None:
        self._closings: dict[str, Closing] = {}
        self._held: dict[str, dict[Key, Stream] | None] = {}

    def of(self, intent: Intent) -> Mapping[str, dict[Key, Stream] | None]:
        """Service → requests from before that its mode would refuse; None where they have not been counted yet."""
        self._begin_anew(intent)
        return {
            name: None if held is None else barrier.refused(held, self._closings[name][0])
            for name, held in self._held.items()
        }

    def _begin_anew(self, intent: Intent) -> None:
        for name, service in intent.services.items():
            if self._closings.get(name) != _closing(service):
                self._closings[name], self._held[name] = _closing(service), None
        for name in set(self._held) - set(intent.services):
            del self._closings[name], self._held[name]

    def pending(self, intent: Intent, now: float) -> bool:
        """A mode that is in force has requests from before, or they have not been counted."""
        held = self.of(intent)
        return any(
            held.get(name) != {} for name, service in intent.services.items() if service.effective(now) is not Mode.UP
        )

    def record(self, streams: list[Stream], intent: Intent, now: float) -> None:
        """``streams`` are all that any worker holds, listed after every worker had the new map."""
        self._begin_anew(intent)
        for name, service in intent.services.items():
            if service.effective(now) is not Mode.UP:
                before = self._held[name]
                self._held[name] = (
                    barrier.of_keys(streams, service.keys) if before is None else barrier.still(before, streams)
                )


def _closing(service: ServiceIntent) -> Closing:
    return service.mode, service.start, service.keys
