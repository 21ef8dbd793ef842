"""What every run of chaos does: let time pass, carry out a script's steps, judge what has become known."""

from __future__ import annotations

import itertools
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.chaos.clients import Clients, via_of
from tests.chaos.judge import (
    NEVER,
    Answered,
    Cut,
    Excuse,
    Record,
    Seen,
    Violation,
    client_violations,
    origin_violations,
)
from tests.chaos.script import Step
from tests.lab.origins import Entry, Origin

LAG = 1.5  # seconds after which everything about a moment is known here
SLOWEST = 45.0  # seconds for a command beyond its own deadline
BAD_WORDS = ("Traceback", "tick failed", "defect", "never retrieved")

Key = tuple[str, ...]  # ("mode", service) or ("drain", node, service)


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(v.text for v in violations[:5]))
        self.violations = violations


@dataclass
class Command:
    step: Step
    issued: float
    keys: frozenset[Key]
    excuses: list[Excuse] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)

    @property
    def words(self) -> tuple[str, ...]:
        return self.step.detail["words"]

    @property
    def verb(self) -> str:
        return self.step.detail["verb"]

    @property
    def patience(self) -> int:
        """Seconds of its own --deadline or --timeout."""
        given = [b for a, b in itertools.pairwise(self.words) if a in ("--deadline", "--timeout")]
        return int(given[0].rstrip("s")) if given else 0


def keys_of(step: Step) -> frozenset[Key]:
    """What a command is about."""
    detail = step.detail
    return frozenset(("drain", detail["node"], s) if "node" in detail else ("mode", s) for s in detail["services"])


class Chaos(ABC):
    clients: Clients

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.began = time.time()
        self.events: list[tuple[float, str]] = []
        self.record = Record()
        self.violations: list[Violation] = []
        self.odd: list[str] = []
        self.operations: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.checked = self.excused = 0
        self.promised: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._outages: list[tuple[str, float, float]] = []
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._open: list[tuple[str, str, Entry]] = []
        self._places: dict[tuple[str, str], int] = {}
        self._logged: dict[Path, int] = {}
        self._answers = 0
        self._ended = threading.Event()

    # ------------------------------------------------------------------------------------ what each kind has

    @property
    @abstractmethod
    def origins(self) -> dict[str, dict[str, Origin]]: ...

    @abstractmethod
    def agent_logs(self) -> list[Path]: ...

    @abstractmethod
    def haproxy_logs(self) -> list[Path]: ...

    @abstractmethod
    def _set_up(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def run(self, seconds: float) -> None: ...

    @abstractmethod
    def keep(self, where: Path) -> None:
        """Copies of logs and files, for whoever looks into a violation."""

    @abstractmethod
    def _processes(self, now: float) -> list[Violation]:
        """Processes that ended by themselves."""

    # ------------------------------------------------------------------------------------------- running

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def event(self, text: str) -> None:
        with self._lock:
            self.events.append((time.time(), text))

    def carry_out(self, steps: Iterable[Step]) -> None:
        """Broken as soon as an invariant does not hold."""
        for step in steps:
            self._pass(step.pause)
            self.event(f"· {step}")
            more: dict[str, Any] = {"step": step} if step.kind == "command" else {}
            getattr(self, "_do_" + step.kind.replace("-", "_"))(**step.detail, **more)

    def _pass(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time go by, looking at everything; True as soon as ``until`` is."""
        deadline = time.time() + seconds
        looked = 0.0
        while True:
            now = time.time()
            for timer in [t for t in self._timers if t[0] <= now]:
                self._timers.remove(timer)
                timer[1]()
            if now - looked > 0.5:
                self._look()
                looked = now
            if until is not None and until():
                return True
            if now >= deadline:
                return False
            time.sleep(0.01)

    # ------------------------------------------------------------------------------------------- judging

    def _look(self, everything: bool = False) -> None:
        """Judge what has become known since the last look. Broken stops the run."""
        now = time.time()
        with self._lock:
            horizon = now - 60
            self.record.promises = [p for p in self.record.promises if p.end > horizon]
            self.record.excuses = [e for e in self.record.excuses if e.end > horizon]
            self.record.cuts = [c for c in self.record.cuts if c.end > horizon]
            found = list(self.violations)
            found += origin_violations(self._seen(now, everything), self.record)
            found += client_violations(self._answered(now, everything), self.record)
        found += self._logs()
        found += self._processes(now)
        if found:
            raise Broken(found)

    def _seen(self, now: float, everything: bool) -> list[Seen]:
        for node, services in self.origins.items():
            for service, origin in services.items():
                place = self._places.get((node, service), 0)
                fresh = origin.log[place:]
                self._places[node, service] = place + len(fresh)
                self._open += [(node, service, e) for e in fresh if e.path != "/health"]
        ripe, rest = [], []
        for node, service, entry in self._open:
            seen = Seen(node, service, entry.method, entry.path, entry.started, entry.ended, via_of(entry.path))
            asked = int(entry.path.rpartition("/")[2]) / 1000
            if seen.ended is None and now > entry.started + asked + 8:  # its connection was cut, nobody could be told
                seen.ended = entry.started + asked
            (ripe if everything or (seen.ended or now) < now - LAG else rest).append((node, service, entry, seen))
        self._open = [(n, s, e) for n, s, e, _ in rest]
        self.checked += len(ripe)
        return [seen for *_, seen in ripe]

    def _answered(self, now: float, everything: bool) -> list[Answered]:
        answers = self.clients.answers
        fresh = []
        for answer in itertools.islice(answers, self._answers, None):
            if answer.ended > now - LAG and not everything:
                break
            fresh.append(answer)
            self.statuses[str(answer.status).partition("(")[0]] += 1
            self.excused += any(e.covers(answer) for e in self.record.excuses)
        self._answers += len(fresh)
        return fresh

    def _logs(self) -> list[Violation]:
        found = []
        for path in self.agent_logs():
            if not path.exists():
                continue
            with path.open("rb") as log:
                log.seek(self._logged.get(path, 0))
                text = log.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._logged[path] = self._logged.get(path, 0) + len(whole)
            found += [
                Violation(time.time(), f"the agent's log says {line.strip()!r}")
                for line in whole.decode(errors="replace").splitlines()
                if any(word in line for word in BAD_WORDS)
            ]
        return found

    # -------------------------------------------------------------------------------------------- faults

    def _begin(self, kind: str, excuse: str = "") -> None:
        with self._lock:
            now = time.time()
            self.faults[kind] += 1
            self._outages.append((kind, now, NEVER))
            if excuse:
                self.record.excuses.append(Excuse(excuse, now))

    def _finish(self, kind: str, excuse: str = "", after: float = 0.0) -> None:
        with self._lock:
            now = time.time()
            self._outages = [(k, b, now if k == kind and e == NEVER else e) for k, b, e in self._outages]
            for one in self.record.excuses:
                if excuse and one.what == excuse and one.end == NEVER:
                    one.end = now + after

    def _around(self, kinds: tuple[str, ...], begin: float, end: float) -> bool:
        """A fault of one of these kinds was there between the two moments."""
        return any(kind in kinds and b <= end and e >= begin for kind, b, e in self._outages)

    # ------------------------------------------------------------------------------------------- report

    def alerts(self) -> Counter[str]:
        """What HAProxy itself complained about, addresses and numbers taken out."""
        lines = [
            line
            for log in self.haproxy_logs()
            for line in (log.read_text(errors="replace").splitlines() if log.exists() else ())
        ]
        return Counter(re.sub(r"\d+", "N", line)[:160] for line in lines if "[ALERT]" in line)
