"""``make bench``: what the guard costs per request, and what lbctl costs the operator.

The guard: CPU time of the HAProxy process per request, with and without, in alternating pairs within the same
process; one pair without either side guarded shows the noise. Where valgrind is installed also instructions per
request, which have none. ``--guard FILE`` measures another guard.cfg than the one that is shipped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbagent.guard import VERSION, cfg_lines, file_names, guard_map, state_files
from lbagent.model.intent import Intent, Mode, ServiceIntent
from lbagent.settings import load
from tests.lab.agent import BIN, Agent, settings_for
from tests.lab.clients import ask
from tests.lab.configuration import Backend, Configuration, Server, head, section
from tests.lab.haproxy import HAPROXY, HAProxy
from tests.lab.one_haproxy import Lab
from tests.lab.ports import free_port
from tests.lab.wait import eventually

ROUNDS, SECONDS, CONNECTIONS = 8, 2, 32
WARM_UP = 500  # requests
COUNTED = (400, 2400)  # requests of the two callgrind runs; the difference is counted
COMMANDS = 5  # how often an lbctl command that changes something is timed
STARTS = 15  # how often python and lbctl status are
SERVICES = 150
LIMIT = 175  # seconds for everything; the pairs, which come last, take what is left
STARTED = time.monotonic()
RUNNING: list[subprocess.Popen[bytes]] = []
CORES = sorted(os.sched_getaffinity(0))

BARE, CONTROL, GUARDED, READ_ONLY = "bare", "control", "guarded", "read_only"


# ------------------------------------------------------------------------------------------ the guard


@dataclass
class Proxy:
    """An HAProxy with one thread and a frontend and backend per variant, the same but for the guard."""

    folder: Path
    variants: tuple[str, ...]
    origin: int  # port
    guard_file: Path | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.port = {variant: free_port() for variant in self.variants}
        tree = load.parse(
            json.dumps(
                {
                    "haproxy": {"state_dir": str(self.folder)},
                    "services": {name: {"preset": "keystone"} for name in self.variants},
                }
            )
        )
        for name, text in state_files.files_at_rest(tree).items():
            (self.folder / name).write_text(text)
        if READ_ONLY in self.variants:
            restricted = ServiceIntent(mode=Mode.READ_ONLY, keys=(READ_ONLY,), start=0, at_once=True)
            table = guard_map.entries(tree, Intent().with_service(READ_ONLY, restricted))
            (self.folder / file_names.MAP).write_text(guard_map.map_text(table))
        self.config = self.folder / "haproxy.cfg"
        self.config.write_text(self._text())

    def _text(self) -> str:
        text = head(None, (*BARE, f"server-state-file {self.folder}/{file_names.STATE}"))
        for variant, port in self.port.items():
            text += f"frontend {variant}\n  bind 127.0.0.1:{port}\n  default_backend {variant}\n"
            guarded = variant in (GUARDED, READ_ONLY)
            lines = self._lines(variant) if guarded else []
            steer = cfg_lines.steer_lines(variant, str(self.folder)) if guarded else []
            text += "\n".join([f"backend {variant}", *lines, f"  server one 127.0.0.1:{self.origin}", *steer]) + "\n"
        return text

    def _lines(self, backend: str) -> list[str]:
        if self.guard_file is None:
            return cfg_lines.lines(backend, str(self.folder))
        text = self.guard_file.read_text()
        for mark, value in (("BACKEND", backend), ("DIR", str(self.folder)), ("VERSION", str(VERSION))):
            text = text.replace(f"@{mark}@", value)
        return [line for line in text.splitlines() if not line.startswith("#")]


BARE = ("nbthread 1", "maxconn 1000")
ANSWER = 'http-request return status 200 content-type application/json string "{}"'


@contextlib.contextmanager
def running(*command: str, port: int, core: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program that serves on ``port``, until the block ends."""
    pin = [] if core is None else ["taskset", "-c", str(core)]
    process = subprocess.Popen([*pin, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    RUNNING.append(process)
    try:
        eventually(lambda: process.poll() is not None or serves(port), f"{command[0]} serves", 60)
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)}:\n{process.communicate()[1].decode()}")
        yield process
    finally:
        RUNNING.remove(process)
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def serves(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def cpu_seconds(pid: int) -> float:
    """CPU time of every thread, as the scheduler counted it."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def drive(port: int, seconds: int) -> int:
    """Requests that wrk got through."""
    done = subprocess.run(
        [
            "taskset",
            "-c",
            str(CORES[0]),
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds}s",
            f"http://127.0.0.1:{port}/v3",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 20,
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"wrk saw errors:\n{done.stdout}")
    return int(re.search(r"(\d+) requests in", done.stdout)[1])  # type: ignore[index]


def per_request(pid: int, port: int, seconds: int) -> float:
    """Microseconds of CPU."""
    while True:
        before = cpu_seconds(pid)
        requests = drive(port, seconds)
        if requests:  # none at all: the machine stood still
            return (cpu_seconds(pid) - before) / requests * 1e6


def measure_pairs(folder: Path, origin: int, rounds: int, seconds: int, file: Path | None) -> dict[str, Any]:
    """Rounds in a fresh process each, so that no layout of memory is measured; every order comes up."""
    pairs: dict[str, list[tuple[float, float]]] = {CONTROL: [], GUARDED: [], READ_ONLY: []}
    round_takes = 0.0
    for number in range(rounds):
        began = time.monotonic()
        if number and began - STARTED + 1.5 * round_takes > LIMIT:
            break  # a busy machine: fewer pairs, and the table says how many
        for variants in ((BARE, CONTROL, GUARDED), (BARE, READ_ONLY)):
            proxy = Proxy(folder / f"{number}-{len(variants)}", variants, origin, file)
            with running(HAPROXY, "-db", "-f", str(proxy.config), port=proxy.port[BARE], core=CORES[-1]) as process:
                order = random.sample(variants, len(variants))
                for variant in order:
                    ask_often(proxy.port[variant], WARM_UP)
                cost = {variant: per_request(process.pid, proxy.port[variant], seconds) for variant in order}
            for variant in variants[1:]:
                pairs[variant].append((cost[BARE], cost[variant]))
        round_takes = max(round_takes, time.monotonic() - began)
    return {variant: summary(found) for variant, found in pairs.items()}


def summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = [with_ / without for without, with_ in pairs]
    return {
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "without_us": statistics.median(without for without, _ in pairs),
        "with_us": statistics.median(with_ for _, with_ in pairs),
        "pairs": len(pairs),
    }


def measure_instructions(folder: Path, origin: int, file: Path | None) -> dict[str, Any] | None:
    """Instructions per request, by the difference of two runs; None without valgrind."""
    if not shutil.which("valgrind"):
        return None
    runs = [
        # each with ports of its own: HAProxies share a port without a word
        (Proxy(folder / f"callgrind-{variant}-{requests}", (variant,), origin, file), variant, requests)
        for variant in (BARE, GUARDED, READ_ONLY)
        for requests in COUNTED
    ]
    with ThreadPoolExecutor(len(CORES)) as pool:  # what is counted does not depend on who else runs
        totals = dict(zip([(v, n) for _, v, n in runs], pool.map(lambda run: instructions(*run), runs), strict=True))
    few, many = COUNTED
    out = {v: (totals[v, many] - totals[v, few]) / (many - few) for v in (BARE, GUARDED, READ_ONLY)}
    return {
        "without": out[BARE],
        **{v: {"with": out[v], "ratio": out[v] / out[BARE], "more": out[v] - out[BARE]} for v in (GUARDED, READ_ONLY)},
    }


def instructions(proxy: Proxy, variant: str, requests: int) -> int:
    """Of a whole run of HAProxy that answers so many requests on one connection."""
    out = proxy.folder / f"callgrind.{variant}.{requests}"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", HAPROXY, "-db", "-f", str(proxy.config)]
    with running(*command, port=proxy.port[variant]):
        ask_often(proxy.port[variant], requests)
    return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)[1])  # type: ignore[index]


def ask_often(port: int, requests: int) -> None:
    """One after the other on one connection; every request and answer in one piece."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        for _ in range(requests):
            connection.sendall(b"GET /v3 HTTP/1.1\r\nHost: bench\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\n{}"):
                more = connection.recv(65536)
                assert more, "HAProxy closed the connection"
                answer += more
            assert answer.startswith(b"HTTP/1.1 200"), answer


def measure_guard(rounds: int, seconds: int, file: Path | None) -> dict[str, Any]:
    missing = [program for program in ("wrk", "taskset") if not shutil.which(program)]
    if missing:
        return {"skipped": f"needs {' and '.join(missing)}: apt-get install wrk util-linux"}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="lbb-", dir="/tmp") as name:
        folder, port = Path(name), free_port()
        origin = folder / "origin.cfg"
        origin.write_text(head(None, BARE) + section("frontend origin", [f"bind 127.0.0.1:{port}", ANSWER]))
        with running(HAPROXY, "-db", "-f", str(origin), port=port, core=CORES[0]):
            assert ask(port).status == 200
            counted = measure_instructions(folder, port, file)
            pairs = measure_pairs(folder, port, rounds, seconds, file)
    return {"load": load, "cores": len(CORES), "cpu": pairs, "instructions": counted}


# -------------------------------------------------------------------------------------------- lbctl


def seconds_of(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def median_ms(times: list[float]) -> float:
    return statistics.median(times) * 1000


def measure_status() -> dict[str, Any]:
    """`lbctl status` of a small lab beside a Python that does nothing, in turns."""
    made = Lab()
    try:
        made.start()
        nothing, status = [], []
        for _ in range(STARTS):
            nothing.append(seconds_of(lambda: subprocess.run([BIN / "python", "-c", "pass"], check=True)))
            status.append(seconds_of(lambda: made.agent.ok("status")))
    finally:
        made.close()
    python, lbctl = median_ms(nothing), median_ms(status)
    return {"python_ms": python, "status_ms": lbctl, "ratio": lbctl / python, "least_ms": min(status) * 1000}


@contextlib.contextmanager
def many_services(count: int) -> Iterator[Agent]:
    """An agent and an HAProxy with so many guarded backends, of three unchecked servers that need not exist."""
    folder = Path(tempfile.mkdtemp(prefix="lba-", dir="/tmp"))
    folder.chmod(0o755)
    haproxy = HAProxy(folder)
    front = section("frontend public", [f"bind 127.0.0.1:{free_port()}", "use_backend %[path,field(2,/)]"])
    configuration = Configuration(head(haproxy.socket) + front)
    for number in range(count):
        configuration.add(Backend(f"s{number:03}", [Server(f"ctl{node}", node) for node in (1, 2, 3)]))
    agent = Agent(folder, settings_for(folder, haproxy, "ctl1"))
    try:
        agent.install(str(configuration))
        haproxy.start()
        agent.start()
        yield agent
    finally:
        agent.kill()
        haproxy.kill()
        shutil.rmtree(folder, ignore_errors=True)


def measure_commands() -> dict[str, Any]:
    """Commands in many services, less what `lbctl status` takes there."""
    names = [f"s{number:03}" for number in range(SERVICES)]
    times: dict[str, list[float]] = {"status": [], "drain": [], "ready": [], "down": [], "up": []}
    with many_services(SERVICES) as agent:
        commands = (("status",), ("drain", "ctl1"), ("ready", "ctl1"), ("down", *names), ("up", *names))
        for _ in range(COMMANDS):
            for command in commands:
                times[command[0]].append(seconds_of(lambda command=command: agent.ok(*command)))
    status = median_ms(times["status"])
    return {
        "services": SERVICES,
        "status_ms": status,
        **{f"{verb}_ms": median_ms(times[verb]) for verb in ("drain", "ready", "down", "up")},
        **{f"{verb}_less_status_ms": median_ms(times[verb]) - status for verb in ("drain", "ready", "down", "up")},
    }


# -------------------------------------------------------------------------------------------- report


def print_guard(found: dict[str, Any]) -> None:
    print("\nThe guard, CPU time of HAProxy per request")
    if "skipped" in found:
        print(f"  skipped: {found['skipped']}")
        return
    if found["load"] > 1:
        print(f"  the machine was busy at the start (load {found['load']:.1f}): see how far the noise reaches")
    print(f"  {'':32}{'ratio':>8}{'least':>8}{'most':>8}{'without':>11}{'with':>11}{'pairs':>7}")
    titles = {
        GUARDED: "guard, idle",
        READ_ONLY: "guard, read-only, GETs pass",
        CONTROL: "no guard on either side: noise",
    }
    for variant, title in titles.items():
        row = found["cpu"][variant]
        print(
            f"  {title:32}{row['ratio']:>8.3f}{row['least']:>8.3f}{row['most']:>8.3f}"
            f"{row['without_us']:>8.2f} µs{row['with_us']:>8.2f} µs{row['pairs']:>7}"
        )
    if found["cores"] < 2:
        print("  one core only: wrk and HAProxy shared it")
    print("Instructions per request, in HAProxy without the kernel")
    counted = found["instructions"]
    if counted is None:
        print("  skipped: needs valgrind")
        return
    for variant in (GUARDED, READ_ONLY):
        row = counted[variant]
        print(f"  {titles[variant]:32}{row['ratio']:>8.3f}{counted['without']:>24.0f} → {row['with']:.0f}")


def print_lbctl(status: dict[str, Any], commands: dict[str, Any]) -> None:
    print("lbctl, wall time")
    print(f"  python -c pass                  {status['python_ms']:>8.1f} ms")
    print(f"  lbctl status                    {status['status_ms']:>8.1f} ms   {status['ratio']:.1f} × python -c pass")
    print(f"With {commands['services']} services of three servers each")
    print(f"  lbctl status                    {commands['status_ms']:>8.1f} ms")
    for verb, title in (
        ("drain", "drain ctl1"),
        ("ready", "ready ctl1"),
        ("down", f"down, all {commands['services']}"),
        ("up", f"up, all {commands['services']}"),
    ):
        whole, less = commands[f"{verb}_ms"], commands[f"{verb}_less_status_ms"]
        print(f"  lbctl {title:26}{whole:>8.1f} ms   {less:.1f} ms more than status")


def too_long(*_: object) -> None:
    for process in RUNNING:
        process.kill()  # threads wait for them
    raise SystemExit(f"bench: not done within {LIMIT} s")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.measure.bench", description="What the guard and lbctl cost.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", choices=("guard", "lbctl"), help="measure only this")
    parser.add_argument("--guard", type=Path, metavar="FILE", help="another guard.cfg to measure")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs (%(default)s)")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each half of a pair (%(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(LIMIT)
    found: dict[str, Any] = {}
    if arguments.only != "guard":
        found["status"], found["commands"] = measure_status(), measure_commands()
        if not arguments.json:
            print_lbctl(found["status"], found["commands"])
    if arguments.only != "lbctl":
        found["guard"] = measure_guard(arguments.rounds, arguments.seconds, arguments.guard)
        if not arguments.json:
            print_guard(found["guard"])
    if arguments.json:
        print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
