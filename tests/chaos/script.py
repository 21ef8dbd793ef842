"""What will be done, from the seed alone: an endless sequence of steps. Pure.

It keeps a model of what its commands would have led to, so that they make sense; whether they did is another matter.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

FILES = ("guard-v1.map", "allow-v1.acl", "deny-v1.acl", "probes-v1.acl", "page-v1.html", "503-v1.http", "servers.state")
DAMAGES = ("deleted", "empty", "cut", "garbage", "altered")


@dataclass(frozen=True)
class Step:
    """``pause`` seconds after the last one was begun, do ``kind``."""

    kind: str
    pause: float
    detail: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = {k: v for k, v in self.detail.items() if v not in (None, "", ())}
        if self.kind == "command":
            return "lbctl " + " ".join(shown.get("words", ()))
        return " ".join((self.kind, *(f"{k}={v}" for k, v in shown.items())))


class Script:
    def __init__(self, seed: int, services: tuple[str, ...], nodes: tuple[str, ...]) -> None:
        self._dice = random.Random(seed)
        self._services, self._nodes = services, nodes
        self._modes = dict.fromkeys(services, "up")
        self._drained: set[tuple[str, str]] = set()
        self._agent = self._haproxy = True
        self._full = False
        self._clock = 0.0  # of pauses
        self._due: list[tuple[float, str]] = []  # what ends a fault
        self._settle_at = 40.0
        self._last: Step | None = None
        self._waits = False  # the last step was a command that waits for requests

    def __iter__(self) -> Iterator[Step]:
        while True:
            step = self._next()
            self._clock += step.pause
            yield step

    def _next(self) -> Step:
        pause = round(self._dice.choice((0.02, 0.1, 0.3, 0.6, 1.0, 1.5)), 3)
        self._due.sort()
        if self._due and self._due[0][0] <= self._clock + pause:
            return self._end(self._due.pop(0)[1], pause)
        if not self._due and self._clock >= self._settle_at:
            self._settle_at = self._clock + self._dice.uniform(30, 70)
            return Step("settle", pause)
        if self._waits and self._agent and self._haproxy:
            self._waits = False
            if self._dice.random() < 0.4 and (faults := self._faults()):
                # In the middle of a command that waits is where it hurts, most of all in what it waits for.
                faults |= {"old-worker-stop": 3.0} if self._haproxy else {}
                pause = round(self._dice.uniform(0.1, 0.9), 2)
                return self._fault(self._dice.choices(list(faults), list(faults.values()))[0], pause)
        choices = {"command": 12.0 if self._agent else 2.0} | self._faults()
        kind = self._dice.choices(list(choices), list(choices.values()))[0]
        return self._command(pause) if kind == "command" else self._fault(kind, pause)

    # ------------------------------------------------------------------------------------------- faults

    def _faults(self) -> dict[str, float]:
        """What may break now, with weights: HAProxy's files are never lost while nobody would put them back."""
        out: dict[str, float] = {}
        if self._haproxy:
            out |= {"reload": 2.5, "reload-twice": 0.7, "worker-stop": 0.5, "old-worker-stop": 0.6, "haproxy-kill": 0.5}
        if self._agent:
            out |= {"agent-kill": 1.0, "agent-stop": 0.5}
        if not self._full:
            out |= {"disk-full": 0.6}
        if self._agent and not self._full and not self._due:
            out |= {"file-lost": 0.5}
        return out

    def _fault(self, kind: str, pause: float) -> Step:
        dice = self._dice
        detail: dict[str, Any] = {}
        match kind:
            case "reload-twice":
                detail = {"gap": round(dice.choice((0.0, 0.02, 0.05, 0.1, 0.3)), 3)}
            case "haproxy-kill":
                self._haproxy = False
                self._due.append((self._clock + dice.uniform(0.0, 2.0), "haproxy-start"))
            case "agent-kill":
                self._agent = False
                self._due.append((self._clock + dice.uniform(0.0, 5.0), "agent-start"))
            case "agent-stop":
                detail = {"seconds": round(dice.uniform(0.1, 3.0), 2)}
            case "worker-stop":
                detail = {"seconds": round(dice.uniform(0.1, 3.0), 2), "worker": dice.randrange(4)}
            case "old-worker-stop":
                detail = {"seconds": round(dice.uniform(0.5, 3.0), 2)}
            case "disk-full":
                self._full = True
                seconds = round(dice.uniform(0.5, 6.0), 2)
                detail = {"pages": dice.choice((0, 0, 0, 1, 2, 3, 5, 8, 12)), "seconds": seconds}
                self._due.append((self._clock + seconds, "disk-free"))
            case "file-lost":
                detail = {"name": dice.choice(FILES)}
        return Step(kind, pause, detail)

    def _end(self, kind: str, pause: float) -> Step:
        match kind:
            case "haproxy-start":
                self._haproxy = True
            case "disk-free":
                self._full = False
            case "agent-start":
                self._agent = True
                damage = self._dice.choice(DAMAGES) if self._dice.random() < 0.4 else ""
                return Step(kind, pause, {"damage": damage})
        return Step(kind, pause)

    # ----------------------------------------------------------------------------------------- commands

    def _command(self, pause: float) -> Step:
        if self._last is not None and self._dice.random() < 0.08:
            return Step("command", pause, self._last.detail | {"repeat": True})
        verb = self._dice.choices(("drain", "ready", "down", "read-only", "up"), (6, 5, 2, 3, 6))[0]
        words, detail = self._node_words(verb) if verb in ("drain", "ready") else self._service_words(verb)
        verb = words[0]
        if self._dice.random() < 0.12:
            words.append("--detach")
        if self._dice.random() < 0.3:
            words += ["--reason", f"step {self._dice.randrange(1000)}" + " x" * self._dice.choice((0, 0, 50, 200))]
        self._waits = verb in ("drain", "down", "read-only")
        self._last = Step("command", pause, {"words": tuple(words), "verb": verb, **detail})
        return self._last

    def _node_words(self, verb: str) -> tuple[list[str], dict[str, Any]]:
        dice = self._dice
        drained = sorted({n for n, _ in self._drained})
        node = dice.choice(drained if verb == "ready" and drained and dice.random() < 0.9 else self._nodes)
        some = tuple(sorted(dice.sample(self._services, dice.randint(1, 2)))) if dice.random() < 0.35 else ()
        touched = {(node, service) for service in some or self._services}
        words = [verb, node, *(w for service in some for w in ("--service", service))]
        if verb == "ready":
            self._drained -= touched
            words += ["--timeout", f"{dice.randint(6, 12)}s"] + (["--force"] if dice.random() < 0.1 else [])
            return words, {"node": node, "services": some or self._services, "kill": False}
        after = self._drained | touched
        empties = [s for s in self._services if all((n, s) in after for n in self._nodes)]
        if empties and (dice.random() < 0.5 or not any(self._modes[s] == "up" for s in empties)):
            return self._node_words("ready")  # the other half is a refusal to come
        if not empties:
            self._drained = after
        words += ["--deadline", f"{dice.choice((1, 2, 4, 8))}s"]
        kill = dice.random() < 0.2
        words += (["--kill"] if kill else []) + (["--maint"] if dice.random() < 0.3 else [])
        return words, {"node": node, "services": some or self._services, "kill": kill}

    def _service_words(self, verb: str) -> tuple[list[str], dict[str, Any]]:
        dice = self._dice
        closed = sorted(s for s in self._services if self._modes[s] != "up")
        pool = closed if verb == "up" and closed and dice.random() < 0.9 else self._services
        some = tuple(sorted(dice.sample(pool, min(len(pool), dice.choice((1, 1, 2))))))
        self._modes |= dict.fromkeys(some, verb)
        words = [verb, *some]
        if verb != "up":
            words += ["--deadline", f"{dice.choice((1, 2, 4, 8))}s"]
            words += ["--for", f"{dice.randint(1, 90)}m"] if dice.random() < 0.5 else []
        return words, {"services": some}
