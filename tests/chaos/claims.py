"""What status claims, held against the origins: no service is shown ``down``, no node ``drained``, that gets requests.

Status tells what the agent saw at its last tick, so a claim may be wrong for a moment: after a reload that brings a new
backend, say. A claim that outlives the first request against it by more than ``GRACE`` is false. So is one that was
made for as long before a single request, with nothing done meanwhile that could have opened anything.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from lbagent.control.client import Client, NoAgent, NotPermitted, Refused

GRACE = 3.0  # seconds: a tick, and another one on a busy machine
EVERY = 0.15  # seconds between two readings


@dataclass(frozen=True)
class Subject:
    """``down`` of a service, or ``drained`` of a node for a service."""

    what: str
    service: str
    node: str = ""

    def hit_by(self, node: str, service: str) -> bool:
        return self.service == service and self.node in ("", node)

    def __str__(self) -> str:
        return f"{self.service} is down" if self.what == "down" else f"{self.node} is drained for {self.service}"


@dataclass
class Claim:
    """Made by every reading of status between ``begin`` and ``end``; ``via`` is the HAProxy whose agent was read."""

    subject: Subject
    begin: float
    end: float
    via: str = ""


@dataclass
class Hit:
    """A client's request that an origin got."""

    node: str
    service: str
    started: float
    via: str = ""


@dataclass
class Claims:
    """All claims so far; readings are added in the order in which they were taken."""

    made: list[Claim] = field(default_factory=list)
    _open: dict[tuple[str, Subject], Claim] = field(default_factory=dict)

    def add(self, asked: float, answered: float, status: dict[str, Any] | None, via: str = "") -> None:
        """A reading; None when there was no answer, which claims nothing and takes nothing back."""
        if status is None:
            return
        said = subjects(status)
        for (where, subject), claim in list(self._open.items()):
            if where != via:
                continue
            if subject in said:
                claim.end = asked
            else:
                del self._open[where, subject]
        for subject in said - {s for w, s in self._open if w == via}:
            claim = Claim(subject, answered, answered, via)
            self.made.append(claim)
            self._open[via, subject] = claim


def subjects(status: dict[str, Any]) -> set[Subject]:
    """What a status claims of services and nodes."""
    names = [service["name"] for service in status["services"]]
    said = {Subject("down", s["name"]) for s in status["services"] if s["mode"] == "down" and s["quiesced"]}
    for node in status["nodes"]:
        if node["state"] == "drained":
            said |= {Subject("drained", name, node["name"]) for name in node.get("services") or names}
    return said


def contradictions(
    claims: Iterable[Claim], hits: Sequence[Hit], changes: Sequence[float] = (), grace: float = GRACE
) -> list[str]:
    """Claims that origins contradict; ``changes`` are moments at which something was done that may open a door."""
    found = []
    for claim in claims:
        against = sorted(
            hit.started
            for hit in hits
            if claim.via == hit.via
            and claim.begin < hit.started < claim.end
            and claim.subject.hit_by(hit.node, hit.service)
        )
        if not against:
            continue
        where = f" ({claim.via})" if claim.via else ""
        shown = f"status says {claim.subject}{where} for {claim.end - claim.begin:.1f} s"
        if against[-1] - against[0] > grace:
            found.append(
                f"{shown}, and origins get {len(against)} requests over {against[-1] - against[0]:.1f} s of it"
            )
            continue
        stray = [
            moment
            for moment in against
            if moment - claim.begin > grace and not any(moment - grace < change <= moment for change in changes)
        ]
        if stray:
            found.append(f"{shown}, and an origin gets a request {stray[0] - claim.begin:.1f} s into it")
    return found


class StatusLog:
    """Reads the status of one agent all the time, while the block lasts."""

    def __init__(self, socket: str, via: str = "", claims: Claims | None = None) -> None:
        self.claims = claims or Claims()
        self._client, self._via = Client(socket), via
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            self.read()

    def read(self) -> None:
        asked, status = time.time(), None
        with contextlib.suppress(NoAgent, NotPermitted, Refused, OSError):
            status = self._client.get("/v1/status")
        self.claims.add(asked, time.time(), status, self._via)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(20)

    def contradictions(self, hits: Callable[[], Sequence[Hit]], changes: Sequence[float] = ()) -> list[str]:
        return contradictions(self.claims.made, hits(), changes)
