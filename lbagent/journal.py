"""What the agent logs, bounded: whatever goes on, and whoever makes it go on, the log stays readable and the disk free.

A *kind* is a place in the program and what it says there, without the numbers in it. Of one kind one line a minute is
written; the next one, or the next line of any kind after that minute, says how many were left out. One place may have
``KINDS`` kinds a minute, as what it says may hold a name that somebody else chose.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

MINUTE = 60.0  # seconds
KINDS = 20  # kinds of one place in the program that are told apart in a minute
LONGEST = 2000  # characters of one message


class OnceAMinute(logging.Filter):
    """Lets the first record of a kind through, and counts the others until its minute is over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._since: dict[tuple[str, str], float] = {}  # kind → when its minute began
        self._left_out: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        message = record.getMessage()
        place = f"{record.pathname}:{record.lineno}"
        kind = (place, re.sub(r"[0-9]+", "#", message[:LONGEST]))
        over = [k for k, since in self._since.items() if now - since >= MINUTE]
        count = self._left_out.get(kind, 0) if kind in over else 0
        others = sum(self._left_out.get(k, 0) for k in over) - count
        for known in over:
            del self._since[known]
            self._left_out.pop(known, None)
        if kind not in self._since and sum(k[0] == place for k in self._since) >= KINDS:
            kind = (place, "")  # one more for all that are too many
        if kind in self._since:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._since[kind] = now
        cut = message if len(message) <= LONGEST else f"{message[:LONGEST]}… ({len(message)} characters)"
        said = [f"{count} more like this in the last minute"] if count else []
        said += [f"{others} lines of other kinds were left out in the last minute"] if others else []
        record.msg, record.args = cut + (f" ({'; '.join(said)})" if said else ""), ()
        return True


def begin(stream: TextIO = sys.stderr) -> None:
    """Log to ``stream`` from now on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(OnceAMinute())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
