"""What will be done to a control plane of several hosts, from the seed alone: an endless sequence of steps. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tests.chaos.script import Step

AT_ONCE = 3  # faults that last, at most
DEADLINES = (2, 4, 8)  # seconds
SETTLE = (20, 40)  # seconds of the script between two moments of quiet


class ScriptSeveral:
    def __init__(self, seed: int, services: tuple[str, ...], hosts: tuple[str, ...]) -> None:
        self._dice = random.Random(seed)
        self._services, self._hosts = services, hosts
        self._modes = dict.fromkeys(services, "up")
        self._drained = ""  # the node that the last drain was about
        self._agents, self._haproxies = set(hosts), set(hosts)
        self._cut = ""
        self._etcd = set(hosts)  # members that answer
        self._sick: set[str] = set()
        self._clock = 0.0  # of pauses
        self._due: list[tuple[float, str, dict[str, Any]]] = []  # what ends a fault
        self._settle_at = 20.0
        self._next_ones: list[Step] = []

    def __iter__(self) -> Iterator[Step]:
        while True:
            step = self._next_ones.pop(0) if self._next_ones else self._next()
            self._clock += step.pause
            yield step

    def _next(self) -> Step:
        pause = round(self._dice.choice((0.05, 0.2, 0.5, 1.0, 1.5)), 3)
        self._due.sort(key=lambda due: due[0])
        if self._due and self._due[0][0] <= self._clock + pause:
            return self._end(*self._due.pop(0)[1:], pause)
        if self._clock >= self._settle_at and not self._due:
            self._settle_at = self._clock + self._dice.uniform(*SETTLE)
            return Step("settle", pause)
        choices = {"command": 11.0, "two": 2.0}
        if self._clock < self._settle_at:
            choices |= self._faults()
        kind = self._dice.choices(list(choices), list(choices.values()))[0]
        if kind == "two":
            return self._two(pause)
        return self._command(pause) if kind == "command" else self._fault(kind, pause)

    # ------------------------------------------------------------------------------------------- faults

    def _faults(self) -> dict[str, float]:
        out = {"reload": 1.0, "intent-deleted": 0.4, "intent-older": 0.4}
        if len(self._due) >= AT_ONCE:
            return out
        if not self._cut:
            out |= {"cut": 1.0}
        if self._etcd:
            out |= {"etcd-kill": 0.7, "etcd-stop": 0.6}
            if len(self._etcd) == len(self._hosts):
                out |= {"etcd-gone": 0.5}
        if self._agents:
            out |= {"agent-kill": 1.0}
        if self._haproxies - {self._cut}:
            out |= {"haproxy-kill": 0.5}
        if self._agents & self._haproxies - {self._cut}:
            out |= {"host-kill": 0.4}
        if len(self._sick) < 2:
            out |= {"sick": 0.6}
        return out

    def _fault(self, kind: str, pause: float) -> Step:
        dice = self._dice
        detail: dict[str, Any] = {}
        match kind:
            case "reload":
                detail = {"host": dice.choice(self._hosts)}
            case "intent-deleted":
                detail = {"everything": dice.random() < 0.5}
            case "intent-older":
                detail = {"back": dice.randint(1, 8)}
            case "cut":
                self._cut = dice.choice(sorted(self._hosts))
                detail = {"host": self._cut}
                self._later(0.5, 9.0, "heal", detail)
            case "etcd-kill" | "etcd-stop":
                leader = dice.random() < 0.4
                which = dice.choice(sorted(self._etcd))
                detail = {"which": "leader" if leader else which}
                self._etcd.discard(which)
                self._later(0.5, 6.0, {"etcd-kill": "etcd-start", "etcd-stop": "etcd-continue"}[kind], {})
            case "etcd-gone":
                self._etcd.clear()
                self._later(2.0, 9.0, "etcd-start", {})
            case "agent-kill":
                host = dice.choice(sorted(self._agents))
                self._agents.discard(host)
                detail = {"host": host}
                self._later(0.0, 8.0, "agent-start", {"host": host, "lost": dice.random() < 0.35})
            case "haproxy-kill":
                host = dice.choice(sorted(self._haproxies - {self._cut}))
                self._haproxies.discard(host)
                detail = {"host": host}
                self._later(0.0, 7.0, "haproxy-start", {"host": host})
            case "host-kill":
                host = dice.choice(sorted(self._agents & self._haproxies - {self._cut}))
                self._agents.discard(host)
                self._haproxies.discard(host)
                detail = {"host": host}
                self._later(0.5, 8.0, "host-start", {"host": host, "lost": dice.random() < 0.3})
            case "sick":
                node = dice.choice(sorted(set(self._hosts) - self._sick))
                self._sick.add(node)
                detail = {"node": node}
                self._later(2.0, 9.0, "well", {"node": node})
        return Step(kind, pause, detail)

    def _later(self, least: float, most: float, kind: str, detail: dict[str, Any]) -> None:
        self._due.append((self._clock + self._dice.uniform(least, most), kind, detail))

    def _end(self, kind: str, detail: dict[str, Any], pause: float) -> Step:
        match kind:
            case "heal":
                self._cut = ""
            case "etcd-start" | "etcd-continue":
                self._etcd = set(self._hosts)
            case "agent-start":
                self._agents.add(detail["host"])
            case "haproxy-start":
                self._haproxies.add(detail["host"])
            case "host-start":
                self._agents.add(detail["host"])
                self._haproxies.add(detail["host"])
            case "well":
                self._sick.discard(detail["node"])
        return Step(kind, pause, detail)

    # ----------------------------------------------------------------------------------------- commands

    def _two(self, pause: float) -> Step:
        """Two at once from two hosts: two drains, or whatever comes."""
        hosts = self._dice.sample(self._hosts, 2)
        if self._dice.random() < 0.6:
            nodes = self._dice.sample(self._hosts, 2)
            one, other = (self._drain(node) for node in nodes)
        else:
            one, other = self._any(), self._any()
        self._next_ones.append(Step("command", 0.0, other | {"host": hosts[1], "race": True}))
        return Step("command", pause, one | {"host": hosts[0], "race": True})

    def _command(self, pause: float) -> Step:
        dice = self._dice
        hosts = sorted(self._agents) if self._agents and dice.random() < 0.9 else self._hosts
        host = dice.choice(hosts)
        detail = self._any()
        if (not self._etcd or host == self._cut) and dice.random() < 0.4:
            detail |= {"words": (*detail["words"], "--local"), "local": True}
        elif dice.random() < 0.1:
            detail |= {"words": (*detail["words"], "--detach")}
        return Step("command", pause, detail | {"host": host})

    def _any(self) -> dict[str, Any]:
        verb = self._dice.choices(("drain", "ready", "down", "read-only", "up"), (5, 5, 3, 2, 5))[0]
        if verb == "drain":
            return self._drain(self._dice.choice(self._hosts))
        if verb == "ready":
            return self._ready()
        return self._mode(verb)

    def _some(self) -> tuple[str, ...]:
        """Services to name, or none, which is all."""
        return (self._dice.choice(self._services),) if self._dice.random() < 0.25 else ()

    def _drain(self, node: str) -> dict[str, Any]:
        if self._drained and self._dice.random() < 0.6:
            return self._ready()  # the others are refused, mostly
        self._drained = node
        some = self._some()
        words = ["drain", node, *(w for s in some for w in ("--service", s))]
        words += ["--deadline", f"{self._dice.choice(DEADLINES)}s"] + (["--maint"] if self._dice.random() < 0.2 else [])
        return {"words": tuple(words), "verb": "drain", "node": node, "services": some or self._services}

    def _ready(self) -> dict[str, Any]:
        node = self._drained if self._drained and self._dice.random() < 0.85 else self._dice.choice(self._hosts)
        some = self._some()
        if node == self._drained and not some:
            self._drained = ""
        words = ["ready", node, *(w for s in some for w in ("--service", s))]
        words += ["--timeout", f"{self._dice.randint(5, 10)}s"] + (["--force"] if self._dice.random() < 0.1 else [])
        return {"words": tuple(words), "verb": "ready", "node": node, "services": some or self._services}

    def _mode(self, verb: str) -> dict[str, Any]:
        closed = sorted(s for s in self._services if self._modes[s] != "up")
        pool = closed if verb == "up" and closed and self._dice.random() < 0.85 else self._services
        some = tuple(sorted(self._dice.sample(pool, min(len(pool), self._dice.choice((1, 1, 2))))))
        self._modes |= dict.fromkeys(some, verb)
        words = [verb, *some]
        if verb != "up":
            words += ["--deadline", f"{self._dice.choice(DEADLINES)}s"]
            words += ["--for", f"{self._dice.randint(1, 90)}m"] if self._dice.random() < 0.4 else []
        return {"words": tuple(words), "verb": verb, "services": some}
