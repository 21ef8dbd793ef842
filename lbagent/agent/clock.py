"""Two clocks: what users are told is by the wall clock, which is HAProxy's; what waits is by one that nobody sets."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """``steady`` starts as the wall clock and goes on by itself, so that a deadline is not moved when that is set."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.now, self._monotonic = wall, monotonic
        self._ahead = wall() - monotonic()

    def steady(self) -> float:
        """Seconds since 1970 by the wall clock of the start, whatever was done to it since."""
        return self._ahead + self._monotonic()
