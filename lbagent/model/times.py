"""Durations (``90s``, ``20m``, ``2h``, ``1h30m``) and times (ISO 8601), read and written."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from lbagent.errors import LbagentError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 366 * 86400  # seconds; a longer one is a slip of the hand
LATEST = 4102444800  # 2100-01-01: likewise


def duration(text: object, field: str) -> int:
    """Seconds of ``90s``, ``20m``, ``2h``, ``1h30m``. LbagentError names ``field``."""
    parts = re.findall(r"([0-9]{1,9})([smhd])", text) if isinstance(text, str) else []
    seconds = sum(int(number) * UNITS[unit] for number, unit in parts)
    if not parts or "".join(a + b for a, b in parts) != text or not 0 < seconds <= LONGEST:
        raise LbagentError("bad_request", f"{field}: {text!r} is not a duration such as 90s, 20m or 2h")
    return seconds


def moment(text: object, field: str) -> int:
    """Seconds since 1970 of an ISO 8601 time; without an offset it is local time."""
    try:
        if not isinstance(text, str) or len(text) < 10:
            raise ValueError
        seconds = int(datetime.fromisoformat(text).astimezone(UTC).timestamp())
        if not 0 <= seconds < LATEST:
            raise ValueError
        return seconds
    except (ValueError, OverflowError):
        raise LbagentError(
            "bad_request", f"{field}: {text!r} is not an ISO 8601 time such as 2026-12-01T02:00:00Z"
        ) from None


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def short(seconds: float) -> str:
    """``90`` → ``1m30s``: what :func:`duration` reads."""
    rest, out = max(0, round(seconds)), ""
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, UNITS[unit])
        if count:
            out += f"{count}{unit}"
    return out or "0s"
