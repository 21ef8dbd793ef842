"""What was promised, what was seen, what was broken. Pure: lists in, sentences out.

Nothing here is taken from the agent's word but the moment at which a command returned, which is the promise itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

NEVER = float("inf")


@dataclass(slots=True)
class Promise:
    """Something that a command's success said, from its return until a command that ends it is issued.

    ``drained``: nothing reaches ``node`` for ``service``. ``closed``: nothing reaches ``service``.
    ``unwritten``: no write reaches ``service``. ``open``: its clients are served. ``restricted``: queries are served,
    writes are refused. ``at``: the HAProxies that it was said of, empty where it was of each.
    """

    what: str
    service: str
    begin: float
    node: str = ""
    end: float = NEVER
    by: str = ""
    at: frozenset[str] = frozenset()
    waited: bool = True  # for what was in flight when it begins

    def __str__(self) -> str:
        where = f" at {', '.join(sorted(self.at))}" if self.at else ""
        return f"{self.what} {f'{self.node}/' if self.node else ''}{self.service}{where} (by {self.by})"

    def holds_at(self, via: str) -> bool:
        return not self.at or via in self.at


@dataclass(slots=True)
class Excuse:
    """A window in which clients may see errors; ``service``, ``via`` empty: every service, through any HAProxy."""

    what: str
    begin: float
    end: float = NEVER
    service: str = ""
    via: str = ""

    def covers(self, answer: Answered) -> bool:
        mine = self.service in ("", answer.service) and self.via in ("", answer.via)
        return mine and answer.began <= self.end and answer.ended >= self.begin


@dataclass(slots=True)
class Cut:
    """A moment at which HAProxy gave up on requests that an origin goes on with: kill -9, or ``--kill``."""

    begin: float
    end: float
    service: str = ""
    node: str = ""
    via: str = ""

    def cuts(self, seen: Seen) -> bool:
        mine = self.service in ("", seen.service) and self.node in ("", seen.node) and self.via in ("", seen.via)
        return mine and seen.started <= self.end and (seen.ended is None or seen.ended >= self.begin)


@dataclass(slots=True)
class Seen:
    """A request in an origin's log; ``via`` the HAProxy that it came through, where there are several."""

    node: str
    service: str
    method: str
    path: str
    started: float
    ended: float | None
    via: str = ""


@dataclass(slots=True)
class Answered:
    """A request as its client saw it; ``status`` is a sentence where there was none.

    ``maintenance``: the answer says that somebody wanted it so (X-Maintenance), and that no empty backend gave it.
    """

    service: str
    method: str
    began: float
    ended: float
    status: int | str
    retry_after: str | None = None
    via: str = ""
    maintenance: bool = True


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
    vias: frozenset[str] = frozenset()  # every HAProxy, where there are several

    def standing(self, what: str, service: str, node: str = "") -> Promise | None:
        for promise in reversed(self.promises):
            if (promise.what, promise.service, promise.node) == (what, service, node) and promise.end == NEVER:
                return promise
        return None

    def end(self, what: Iterable[str], service: str, node: str, now: float, at: frozenset[str] = frozenset()) -> None:
        """Promises of these kinds hold no longer ``at`` these HAProxies of all ``self.vias``; empty: anywhere."""
        for promise in [p for p in self.promises if p.end == NEVER]:
            if promise.what not in what or (promise.service, promise.node) != (service, node):
                continue
            left = (promise.at or self.vias) - at if at else frozenset()
            if left == (promise.at or self.vias):
                continue
            promise.end = now
            if left:
                self.promises.append(replace(promise, begin=now, end=NEVER, at=left))


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
            if not promise.holds_at(request.via):
                continue
            if promise.begin < request.started < promise.end:
                late = request.started - promise.begin
                found.append(Violation(request.started, f"began {late:.3f} s after: {promise}", request))
            elif (
                promise.waited
                and request.started <= promise.begin
                and (request.ended is None or request.ended > promise.begin)
            ):
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
        if any(e.covers(answer) for e in record.excuses):
            continue
        refused = answer.status == 503 and _positive_integer(answer.retry_after)
        if answer.status != 200 and not refused:
            found.append(Violation(answer.began, "neither served nor told to come back", answer))
            continue
        if refused and not answer.maintenance:
            found.append(Violation(answer.began, "refused by a backend that had no server", answer))
            continue
        for promise in record.promises:
            if promise.service != answer.service or not promise.holds_at(answer.via):
                continue
            if not promise.begin <= answer.began <= answer.ended <= promise.end:
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
