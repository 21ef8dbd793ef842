"""How long the agent waits between two ticks when nothing is to be done.

A tick costs the agent some CPU time, and HAProxy less than that: it prints what the agent has to parse. Both grow with
the number of servers. So the pause grows with the cost: the agent spends at most one hundredth of a core on ticks. The
smallest of the last costs counts, so that other work of the process does not slow the ticks down.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

SHORTEST, LONGEST = 1.0, 30.0  # seconds
SHARE = 0.01  # of a core


class Pace:
    def __init__(self, cpu_seconds: Callable[[], float] = time.process_time) -> None:
        self._cpu_seconds = cpu_seconds
        self._costs: deque[float] = deque(maxlen=5)
        self._began = 0.0

    def begin(self) -> None:
        self._began = self._cpu_seconds()

    def end(self) -> None:
        self._costs.append(self._cpu_seconds() - self._began)

    @property
    def pause(self) -> float:
        """Seconds."""
        return min(LONGEST, max(SHORTEST, min(self._costs, default=0.0) / SHARE))
