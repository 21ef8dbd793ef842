"""Durations (``90s``, ``20m``, ``2h``, ``1h30m``) and times (ISO 8601), read and written."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

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
    """Seconds since 1970 of an ISO 8601 time with its offset. LbagentError names ``field``.

    A time without an offset is refused: this program's zone is not the zone of whoever typed it. lbctl adds it.
    """
    read = _iso(text)
    if read is None:
        raise LbagentError("bad_request", f"{field}: {text!r} is not an ISO 8601 time such as 2026-12-01T02:00:00Z")
    if read.tzinfo is None:
        raise LbagentError("bad_request", f"{field}: {text!r} has no zone: add Z, or an offset such as +02:00")
    return int(read.timestamp())


def typed(text: str, field: str, after: float) -> datetime:
    """The moment of a time as somebody types it here: ISO 8601, or ``02:00`` for the next one after ``after``.

    Without an offset it is in this process's zone. LbagentError for a time that the zone does not have (the clocks are
    put forward over it), or has twice (they are put back over it).
    """
    clock = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])(:[0-5][0-9])?(Z|[+-][0-9]{2}:[0-9]{2})?", text)
    if clock is None:
        read = _iso(text)
        if read is None:
            raise LbagentError(
                "bad_request",
                f"{field}: {text!r} is not a time such as 2026-12-01T02:00:00Z, 2026-12-01T02:00 or 02:00",
            )
        return read if read.tzinfo else _here(read, text, field)
    zone = datetime.fromisoformat(f"2026-01-01T{text}").tzinfo
    today = datetime.fromtimestamp(after, zone)
    next_one = datetime.fromisoformat(f"{today:%Y-%m-%d}T{text}")
    if next_one.replace(tzinfo=None) <= today.replace(tzinfo=None):
        next_one = datetime.fromisoformat(f"{today + timedelta(days=1):%Y-%m-%d}T{text}")
    return next_one if zone else _here(next_one, text, field)


def _here(naive: datetime, text: str, field: str) -> datetime:
    """``naive`` with this process's offset at that time."""
    first, second = (naive.replace(fold=fold).astimezone() for fold in (0, 1))
    back = first.astimezone(UTC).astimezone().replace(tzinfo=None)
    if back != naive:
        raise LbagentError(
            "bad_request",
            f"{field}: {text} on {naive:%Y-%m-%d} does not exist in this zone, the clocks are put forward over it: "
            "give another time, or one with an offset such as Z",
        )
    if first.utcoffset() != second.utcoffset():
        both = " or ".join(moment.isoformat() for moment in (first, second))
        raise LbagentError(
            "bad_request",
            f"{field}: {text} on {naive:%Y-%m-%d} is there twice in this zone, the clocks are put back over it: "
            f"give {both}",
        )
    return first


def _iso(text: object) -> datetime | None:
    """An ISO 8601 time from 1970 to 2100; None for what is none."""
    try:
        read = datetime.fromisoformat(text) if isinstance(text, str) and len(text) >= 10 else None
        seconds = read.replace(tzinfo=read.tzinfo or UTC).timestamp() if read else -1
    except (ValueError, OverflowError):
        return None
    return read if 0 <= seconds < LATEST else None


def shown(seconds: float) -> str:
    """A moment for people, in this process's zone, with its offset: ``2026-12-01T02:00:00+01:00``."""
    return datetime.fromtimestamp(int(seconds)).astimezone().isoformat()


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
