"""What was promised, what was seen, what was broken. Pure: lists in, sentences out.

Nothing here is taken from the agent's word but the moment at which a command returned, which is the promise itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

NEVER = float("inf")


@dataclass(slots=True)
class Promise:
    """Something that a command's success said, from its return until a command that ends it is issued.

    ``drained``: nothing reaches ``node`` for ``service``. ``closed``: nothing reaches ``service``.
    ``unwritten``: no write reaches ``service``. ``open``: its clients are served. ``restricted``: queries are served,
    writes are refused.
    """

    what: str
    service: str
    begin: float
    node: str = ""
    end: float = NEVER
    by: str = ""

    def __str__(self) -> str:
        return f"{self.what} {f'{self.node}/' if self.node else ''}{self.service} (by {self.by})"


@dataclass(slots=True)
class Excuse:
    """A window in which clients may see errors; ``service`` empty: every service."""

    what: str
    begin: float
    end: float = NEVER
    service: str = ""

    def covers(self, service: str, begin: float, end: float) -> bool:
        return self.service in ("", service) and begin <= self.end and end >= self.begin


@dataclass(slots=True)
class Cut:
    """A moment at which HAProxy gave up on requests that an origin goes on with: kill -9, or ``--kill``."""

    begin: float
    end: float
    service: str = ""
    node: str = ""

    def cuts(self, seen: Seen) -> bool:
        mine = self.service in ("", seen.service) and self.node in ("", seen.node)
        return mine and seen.started <= self.end and (seen.ended is None or seen.ended >= self.begin)


@dataclass(slots=True)
class Seen:
    """A request in an origin's log."""

    node: str
    service: str
    method: str
    path: str
    started: float
    ended: float | None


@dataclass(slots=True)
class Answered:
    """A request as its client saw it; ``status`` is a sentence where there was none."""

    service: str
    method: str
    began: float
    ended: float
    status: int | str
    retry_after: str | None = None


@dataclass(slots=True)
class Violation:
    at: float
    text: str
    line: Seen | Answered | None = None


@dataclass
class Record:
    """Everything that was promised and done so far."""

    promises: list[Promise] = field(default_factory=list)
    excuses: list[Excuse] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)

    def standing(self, what: str, service: str, node: str = "") -> Promise | None:
        for promise in reversed(self.promises):
            if (promise.what, promise.service, promise.node) == (what, service, node) and promise.end == NEVER:
                return promise
        return None


def origin_violations(seen: Iterable[Seen], record: Record) -> list[Violation]:
    """Requests that began, or were still worked on, at an origin after a promise that they would not."""
    found = []
    for request in seen:
        for promise in record.promises:
            if promise.service != request.service or promise.what in ("open", "restricted"):
                continue
            if promise.what == "drained" and promise.node != request.node:
                continue
            if promise.what == "unwritten" and request.method not in WRITES:
                continue
            if promise.begin < request.started < promise.end:
                late = request.started - promise.begin
                found.append(Violation(request.started, f"began {late:.3f} s after: {promise}", request))
            elif request.started <= promise.begin and (request.ended is None or request.ended > promise.begin):
                if any(cut.begin <= promise.begin and cut.cuts(request) for cut in record.cuts):
                    continue  # HAProxy had given it up before it promised
                over = "still open" if request.ended is None else f"ended {request.ended - promise.begin:.3f} s after"
                found.append(Violation(promise.begin, f"in flight, {over}: {promise}", request))
    return found


WRITES = frozenset({"PUT", "POST", "PATCH", "DELETE"})


def client_violations(answers: Iterable[Answered], record: Record) -> list[Violation]:
    """Answers that a promise, or common decency, rules out; windows around a fault are excused."""
    found = []
    for answer in answers:
        if any(e.covers(answer.service, answer.began, answer.ended) for e in record.excuses):
            continue
        refused = answer.status == 503 and _positive_integer(answer.retry_after)
        if answer.status != 200 and not refused:
            found.append(Violation(answer.began, "neither served nor told to come back", answer))
            continue
        for promise in record.promises:
            if promise.service != answer.service or not promise.begin <= answer.began <= answer.ended <= promise.end:
                continue
            write = answer.method in WRITES
            served = {"open": True, "closed": False, "restricted": not write}.get(promise.what)
            if served is not None and served is refused:
                found.append(
                    Violation(answer.began, f"{'refused' if refused else 'served'} although {promise}", answer)
                )
    return found


def _positive_integer(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdigit() and int(text) > 0
