"""``make scale``: many agents on one etcd. What a command costs, and what they ask of etcd when nothing happens.

Agents and etcd are real, HAProxies are stand-ins (tests/lab/standin.py). All share the cores of one machine, where in a
control plane each agent has a host of its own: the times are upper bounds, and the yardstick beside them (one put into
this etcd until its watch event is back) is taken on the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etcd3gw.client import Etcd3Client

from lbagent.agent.shared import AT_REST
from lbagent.control.client import Client, NoAgent
from lbagent.errors import Exit
from lbagent.guard.file_names import MAP
from tests.lab.agent import Agent, settings_for
from tests.lab.haproxy import HAProxy
from tests.lab.ports import free_port
from tests.lab.wait import eventually
from tests.measure.bench import cpu_seconds

SERVICES = ["keystone", "nova"]
STARTING = 2  # agents at once
PUTS = 200  # of the yardstick
WINDOW = 6.0  # seconds over which requests and CPU are counted
ROUNDS = 3  # of each command
WARM_UP = 1.0  # seconds that figures change before their reports are counted
PREFIX = "/lbagent"
ALONE = "alone"  # an agent without etcd, to compare with


class Beside(Agent):
    """An agent that is asked over its socket: fifty lbctl would be the load."""

    patience = 120.0

    def __init__(self, folder: Path, name: str, store: dict[str, Any], prefix: tuple[str, ...] = ()) -> None:
        (folder / name).mkdir()
        self.name = name
        more = {
            "haproxy": {"socket": str(folder / f"{name}.sock"), "config": [str(folder / "none.cfg")]},
            "metrics": {"listen": "127.0.0.1:0"},  # any: nobody asks
            "store": {"path": str(folder / name / "intent.json"), **store},
        }
        stand_in = HAProxy(folder / name)  # for its settings: nobody starts it
        super().__init__(folder / name, settings_for(folder / name, stand_in, name, more, master=False), prefix)
        self.client = Client(str(self.socket))

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.client.get("/v1/status")
        return status

    def _serves(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(NoAgent):
            return bool(self.status())
        return False

    def cpu(self) -> float:
        assert self.process is not None
        return cpu_seconds(self.process.pid)


@dataclass
class Report:
    at: float  # monotonic
    node: str
    revision: int
    open: dict[str, list[str]]


@dataclass
class Took:
    """One command, in seconds from its sending."""

    end: float  # it returned
    confirmed: float  # etcd passed the last agent's confirmation on
    in_force: float  # the last HAProxy was told
    requests: dict[str, float]  # method of etcd → requests per agent, until all was quiet again
    cpu: float  # seconds, of an agent, until then
    cpu_etcd: float  # seconds, until then


@dataclass
class Measured:
    agents: int
    put: float  # seconds: one put until its watch event
    idle: dict[str, float]  # method of etcd → requests per agent and second
    busy: dict[str, float]  # the same while figures change all the time
    bytes: int  # of the values that a look reads
    bytes_busy: int
    cpu: float  # share of a core, an agent when idle
    cpu_busy: float  # the same while figures change
    cpu_alone: float  # when idle, without etcd
    commands: dict[str, list[Took]] = field(default_factory=dict)
    away: int = 0  # commands that are not counted, because an agent was away

    def ratio(self, command: str, what: str = "end") -> float:
        return statistics.median(getattr(t, what) for t in self.commands[command]) / self.put


def etcd_command(folder: Path, port: int) -> list[str]:
    """An etcd of one member on loopback."""
    url, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
    return [
        "etcd",
        *("--data-dir", str(folder / "etcd"), "--log-level", "error"),
        *("--listen-client-urls", url, "--advertise-client-urls", url),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
    ]


class World:
    """One etcd, a stand-in for each HAProxy, and as many agents as :meth:`grow` was asked for.

    ``prefix``: what agents are started through.
    """

    def __init__(self, most: int, prefix: tuple[str, ...] = ()) -> None:
        self.prefix = prefix
        self.folder = Path(tempfile.mkdtemp(prefix="lbs-", dir="/tmp"))  # short: a unix socket's path has 107 bytes
        self.names = [f"ctl{n + 1}" for n in range(most)]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes = [
            self._run(*etcd_command(self.folder, self.port)),
            self._run(
                sys.executable,
                *("-m", "tests.lab.standin", str(self.folder), "--services", *SERVICES),
                *("--nodes", *self.names, "--more", ALONE),
            ),
        ]
        self.etcd = Etcd3Client("127.0.0.1", self.port, timeout=10)
        self.agents: list[Beside] = []
        self.alone = Beside(self.folder, ALONE, {}, prefix)
        self.reports: list[Report] = []
        self._cancel: Callable[[], None] = lambda: None

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{len(list(self.folder.glob('*.log')))}.log").open("ab")
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])

    def start(self) -> World:
        eventually(self._etcd_answers, "etcd answers", 30)
        eventually((self.folder / "truth.sock").exists, "the stand-ins serve", 30)
        self.alone.start()
        events, self._cancel = self.etcd.watch_prefix(f"{PREFIX}/agents/")
        threading.Thread(target=self._collect, args=(events,), daemon=True).start()
        return self

    def _etcd_answers(self) -> bool:
        assert all(process.poll() is None for process in self.processes), "etcd or the stand-ins have ended"
        with contextlib.suppress(Exception):
            return bool(self.etcd.status())
        return False

    def _collect(self, events: Iterator[dict[str, Any]]) -> None:
        for event in events:
            if value := event["kv"].get("value"):
                told = json.loads(value)
                revision = (told.get("followed") or {"revision": -1})["revision"]
                self.reports.append(Report(time.monotonic(), told["node"], revision, told.get("open", {})))

    def grow(self, count: int) -> None:
        """So many agents, all of one mind."""
        store = {"etcd": {"endpoints": [self.url], "prefix": PREFIX}}
        new = [Beside(self.folder, name, store, self.prefix) for name in self.names[len(self.agents) : count]]
        self.agents += new
        with ThreadPoolExecutor(STARTING) as pool:
            list(pool.map(lambda agent: agent.start(), new))
        self.settle()

    def settle(self) -> None:
        eventually(self._agree, lambda: f"all agree: {self.agents[0].status()['agents']}", 60)

    def _agree(self) -> bool:
        status = self.agents[0].status()
        seen = [a for a in status["agents"] if a["alive"] and a["in_sync"] and a["revision"] == status["revision"]]
        return len(seen) == len(self.agents) and self._joined() == {agent.name for agent in self.agents}

    def quiet(self) -> None:
        """Nobody has anything left to tell: figures that the last revision found too early come so much later."""
        began = time.monotonic()
        eventually(
            lambda: time.monotonic() - max([began, *(report.at for report in self.reports)]) > 1.2 * AT_REST,
            "no agent reports",
            60,
        )

    def _joined(self) -> set[str]:
        """Those in the shared intent: each that joins makes a revision, which every other one confirms."""
        held = self.etcd.get(f"{PREFIX}/intent")
        return set(json.loads(held[0])["intent"]["members"]) if held else set()

    def truth(self, word: str = "") -> dict[str, dict[str, Any]]:
        """What each agent's stand-in holds."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "truth.sock"))
            connection.sendall(f"{word}\n".encode())
            held = json.loads(b"".join(iter(lambda: connection.recv(1 << 20), b"")))
        return {agent.name: held[agent.name] for agent in self.agents}

    def requests(self) -> Counter[str]:
        """What etcd has answered so far, by method."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:  # noqa: S310 etcd's, on loopback
            text = answer.read().decode()
        found: Counter[str] = Counter()
        for method, count in re.findall(r'^grpc_server_handled_total\{.*grpc_method="(\w+)".*\} (\S+)', text, re.M):
            found[method] += int(float(count))
        return found

    def size(self) -> int:
        """Bytes of the values that a look reads."""
        return sum(len(value) for value, _ in self.etcd.get_prefix(f"{PREFIX}/"))

    def cpu(self) -> float:
        """Seconds, of all agents."""
        return sum(agent.cpu() for agent in self.agents)

    def close(self) -> None:
        self._cancel()
        for agent in [*self.agents, self.alone]:
            if agent.process:
                agent.process.kill()
        for agent in [*self.agents, self.alone]:
            agent.kill()
        for process in self.processes:
            process.kill()
            process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def world(most: int, prefix: tuple[str, ...] = ()) -> Iterator[World]:
    made = World(most, prefix)
    try:
        yield made.start()
    finally:
        made.close()


# ------------------------------------------------------------------------------------------- measuring


def put_and_event(made: World, puts: int) -> float:
    """Median seconds from a put, through the library that the agents use, to its watch event. Before agents run."""
    events, cancel = made.etcd.watch("/yardstick")
    took = []
    made.etcd.put("/yardstick", "the watch serves")
    next(events)
    for number in range(puts):
        value = f"{number:0600}"  # about as long as an intent
        began = time.monotonic()
        made.etcd.put("/yardstick", value)
        next(events)
        took.append(time.monotonic() - began)
    cancel()
    return statistics.median(took)


def rates(made: World, seconds: float) -> tuple[dict[str, float], float, float]:
    """(method → requests per agent and second, CPU share of an agent, CPU share of the one without etcd)."""
    before, began = made.requests(), time.monotonic()
    cpu, alone = made.cpu(), made.alone.cpu()
    time.sleep(seconds)  # the window that is measured
    cpu, alone = made.cpu() - cpu, made.alone.cpu() - alone
    after, took = made.requests(), time.monotonic() - began
    count = len(made.agents)
    return {m: n / took / count for m, n in (after - before).items()}, cpu / took / count, alone / took


def command(made: World, asked: Beside, body: dict[str, Any]) -> Took | None:
    """Carry ``body`` out through ``asked``; None when an agent was away: it got no CPU for as long as a lease lasts."""
    made.reports.clear()
    before, cpu, cpu_etcd = made.requests(), made.cpu(), cpu_seconds(made.processes[0].pid)
    began = time.monotonic()
    operation = asked.client.change({"reason": "measured", **body})
    *_, ended = asked.client.follow(operation["id"])
    end = time.monotonic() - began
    if away := ended["exit"] == Exit.NOT_YET_IN_FORCE:
        made.settle()
    else:
        assert ended["exit"] == Exit.DONE, ended
    check(made, body)
    if away:
        return None
    made.settle()
    count = len(made.agents)
    requests, cpu, cpu_etcd = made.requests(), made.cpu() - cpu, cpu_seconds(made.processes[0].pid) - cpu_etcd
    # The one that was asked need not wait for its own report.
    others = {agent.name for agent in made.agents} - {asked.name}
    first = {r.node: r.at for r in reversed(made.reports) if r.revision >= operation["revision"] and not r.open}
    eventually(lambda: others <= set(first), f"reports of all: {others - set(first)}", 1)
    return Took(
        end=end,
        confirmed=max((first[name] for name in others), default=began) - began,
        in_force=max(max(held["moved"].values()) for held in made.truth().values()) - began,
        requests={method: n / count for method, n in (requests - before).items()},
        cpu=cpu / count,
        cpu_etcd=cpu_etcd,
    )


def check(made: World, body: dict[str, Any]) -> None:
    """A command that has returned is in force on every HAProxy, and in the file that each would start from."""
    for name, held in made.truth().items():
        file = (made.folder / name / "state" / MAP).read_text()
        for service, asked in body.get("services", {}).items():
            closed = asked["mode"] == "down"
            assert (service in held["closed"]) == closed, (name, body, held)
            assert bool(re.search(rf"^{service} ", file, re.M)) == closed, (name, body, file)
        for node, asked in body.get("nodes", {}).items():
            out = {f"{service}/{node}" for service in SERVICES} <= set(held["out"])
            assert out == (asked["state"] == "drained"), (name, body, held)


def measure(made: World, put: float, rounds: int, window: float) -> Measured:
    made.settle()
    made.quiet()
    idle, cpu, cpu_alone = rates(made, window)
    made.truth("busy")
    time.sleep(WARM_UP)
    busy, cpu_busy, _ = rates(made, window)
    size = made.size()
    made.truth("idle")
    eventually(lambda: made.size() < size / 2, "figures are at rest")
    found = Measured(
        agents=len(made.agents),
        put=put,
        idle=idle,
        busy=busy,
        bytes=made.size(),
        bytes_busy=size,
        cpu=cpu,
        cpu_busy=cpu_busy,
        cpu_alone=cpu_alone,
    )
    commands: dict[str, Callable[[str], dict[str, Any]]] = {
        "down": lambda _: {"services": {"nova": {"mode": "down"}}},
        "up": lambda _: {"services": {"nova": {"mode": "up"}}},
        "drain": lambda node: {"nodes": {node: {"state": "drained"}}, "until_reload": True},
        "ready": lambda node: {"nodes": {node: {"state": "ready"}}},
    }
    for number in range(3 * rounds):
        asked, node = made.agents[number % len(made.agents)], made.agents[-1 - number % len(made.agents)].name
        for verb, body in commands.items():
            took = command(made, asked, body(node))
            found.commands.setdefault(verb, []).extend([took] if took else [])
            found.away += took is None
        if all(len(took) >= rounds for took in found.commands.values()):
            return found
    raise AssertionError(f"this machine is too busy: {found.away} commands found an agent away")


# ---------------------------------------------------------------------------------------------- report


HEAD = (
    ("in force", 10),
    ("confirmed", 11),
    ("returned", 10),
    ("", 12),
    ("requests", 10),
    ("CPU", 9),
    ("etcd's CPU", 12),
)


def show(found: Measured) -> None:
    print(f"\n{found.agents} agents; times in units of one put until its watch event: {found.put * 1000:.2f} ms")
    head = "".join(f"{word:>{width}}" for word, width in HEAD)
    print(f"  {'command':10}{head}")
    for verb, took in found.commands.items():
        requests = statistics.median(sum(t.requests.values()) for t in took)
        end, cpu, etcd = (1000 * statistics.median(getattr(t, w) for t in took) for w in ("end", "cpu", "cpu_etcd"))
        print(
            f"  {verb:10}{found.ratio(verb, 'in_force'):>10.0f}{found.ratio(verb, 'confirmed'):>11.0f}"
            f"{found.ratio(verb):>10.0f} ={end:>7.0f} ms{requests:>10.1f}{cpu:>6.0f} ms{etcd:>9.0f} ms"
        )
    if found.away:
        print(f"  the machine was busy: {found.away} commands more found an agent away, and are not counted")
    for title, asked in (("idle", found.idle), ("figures change", found.busy)):
        print(f"  requests per agent and second, {title}: {sum(asked.values()):.2f} ({methods(asked)})")
    print(f"  values in a look: {found.bytes} bytes; while figures change {found.bytes_busy}")
    more = found.cpu / found.cpu_alone
    print(
        f"  CPU of an agent when idle: {found.cpu * 100:.1f} % of a core, {more:.1f} × one without etcd; "
        f"while figures change {found.cpu_busy * 100:.1f} %"
    )


def methods(asked: dict[str, float]) -> str:
    return ", ".join(f"{method} {rate:.2f}" for method, rate in sorted(asked.items(), key=lambda p: -p[1]))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.measure.scale", description="What many agents cost on one etcd."
    )
    parser.add_argument("--agents", type=int, nargs="+", default=[3, 10, 25, 50], help="one measurement each")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each command (%(default)s)")
    parser.add_argument("--window", type=float, default=WINDOW, help="seconds to count requests over (%(default)s)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{os.cpu_count()} cores for all, load {os.getloadavg()[0]:.1f} at the start")
    with world(max(given.agents)) as made:
        put = put_and_event(made, PUTS)
        for count in sorted(given.agents):
            began = time.monotonic()
            made.grow(count)
            grown = time.monotonic() - began
            show(measure(made, put, given.rounds, given.window))
            print(f"  ({grown:.0f} s to start, {time.monotonic() - began - grown:.0f} s to measure)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
