"""``make demo``: three small controllers, a real HAProxy and a real lbagent go through every mode under live traffic.

After each step stands what clients see beside what they should; exit 1 when anything differs. ``KEEP=1`` leaves
everything running to explore.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.lab.agent import BIN
from tests.lab.clients import Answer, Load, ask
from tests.lab.one_haproxy import Lab, running_lab
from tests.lab.wait import eventually

SPREAD = 2  # seconds; small, so that a few seconds of countdown show
WINDOW = 1200  # seconds; --for 20m
SETTINGS = {
    "services": {"keystone": {}, "nova": {"frontends": ["nova_public"]}},
    "retry_after": {"floor": 30, "cap": 3600, "spread": SPREAD},
}
SERVERS, USERS, TOKENS, PROJECTS = "/v2.1/servers", "/v3/users", "/v3/auth/tokens", "/v3/projects"
ENOUGH = 20  # answers of each kind of traffic, before it is judged
BOLD, GREEN, RED, DIM = "1", "32", "1;31", "2"


def paint(text: str, colour: str) -> str:
    return f"\033[{colour}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def typed(text: str) -> None:
    print(paint(f"$ {text}", BOLD))


def told(text: str) -> None:
    print(f"  {text}".rstrip())


@dataclass
class Row:
    what: str
    expected: str
    seen: str
    ok: bool


@dataclass
class Demo:
    lab: Lab
    traffic: dict[str, Load] = field(default_factory=dict)
    until: tuple[float, float] = (0.0, 0.0)  # between these two nova's window ends
    rows: list[Row] = field(default_factory=list)  # of the step under way
    steps: int = 0
    compared: int = 0
    differing: int = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.steps += 1
        print("\n" + paint(f"{self.steps}. {title}", BOLD))
        try:
            yield
        except Exception as error:  # whatever a client or lbctl did not expect is a difference, not the demo's end
            self.see("the step", "runs to its end", f"{type(error).__name__}: {error}")
        show(self.rows)
        self.compared += len(self.rows)
        self.differing += sum(not row.ok for row in self.rows)
        self.rows = []

    def lbctl(self, *arguments: str) -> float:
        """What an operator types; when it had returned."""
        typed(shlex.join(["lbctl", *arguments]))
        done = subprocess.run(
            [BIN / "lbctl", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
            env=self.lab.agent.env(),
        )
        returned = time.time()
        for line in done.stdout.splitlines():
            told(line)
        if done.returncode:
            self.see(f"exit code of lbctl {arguments[0]}", 0, done.returncode)
        return returned

    def ask(self, service: str, method: str = "GET", path: str = SERVERS, *, internal: bool = False) -> Answer:
        ports = self.lab.internal if internal else self.lab.port
        return ask(ports[service], method, path, body=b"{}" if method == "POST" else None)

    def see(self, what: str, expected: object, seen: object, ok: bool | None = None) -> None:
        self.rows.append(Row(what, str(expected), str(seen), expected == seen if ok is None else ok))

    def see_traffic(self, since: float, but: dict[str, int] | None = None) -> None:
        """Every answer to requests begun at or after ``since``: 200, ``but`` for some kinds of traffic."""
        for name, load in self.traffic.items():
            eventually(lambda load=load: sum(t >= since for t, _ in list(load.results)) >= ENOUGH, f"traffic: {name}")
            statuses = [status for began, status in list(load.results) if began >= since]
            expected, seen = (but or {}).get(name, 200), set(statuses)
            words = " ".join(sorted(str(status) for status in seen))
            self.see(f"live: {name}", expected, f"{words} ({len(statuses)} answers)", seen == {expected})

    def see_untouched(self, node: str, since: float, until: float = float("inf")) -> None:
        count = sum(entry.started < until for entry in self.lab.requests(node, since=since))
        self.see(f"requests in the log of {node}, drained", 0, count)

    def see_closed(self) -> int:
        """Nova's polite 503; its Retry-After, which has to be the time that is left."""
        before = time.time()
        answer = self.ask("nova")
        least = int(self.until[0]) - int(time.time())
        most = int(self.until[1]) - int(before) + SPREAD
        retry = answer.headers.get("retry-after", "")
        self.see("GET nova", 503, answer.status)
        self.see("GET nova: X-Maintenance", "down", answer.headers.get("x-maintenance"))
        true = retry.isdecimal() and least <= int(retry) <= most
        self.see("GET nova: Retry-After", f"{least} to {most}", retry, true)
        reason = answer.json["error"]["message"].rpartition(": ")[2]
        self.see("GET nova: reason in the JSON", "schema upgrade", reason)
        return int(retry)


def show(rows: list[Row]) -> None:
    head = ("what clients see", "expected", "seen")
    widths = [max(len(cells[i]) for cells in [head, *((r.what, r.expected, r.seen) for r in rows)]) for i in range(3)]

    def line(*cells: str) -> str:
        return "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))

    print("\n" + paint(line(*head).rstrip(), DIM))
    for row in rows:
        print(line(row.what, row.expected, row.seen) + "  " + (paint("ok", GREEN) if row.ok else paint("DIFFERS", RED)))


# -------------------------------------------------------------------------------------------- the steps


def ordinary(demo: Demo) -> None:
    with demo.step("An ordinary day"):
        since = demo.lbctl("status")
        for name in demo.lab.port:
            answer = demo.ask(name)
            demo.see(f"GET {name}", 200, answer.status)
            demo.see(f"GET {name}: X-Maintenance", "none", answer.headers.get("x-maintenance", "none"))
        demo.see_traffic(since)


def rolling(demo: Demo) -> None:
    began = time.time()
    origins = list(demo.lab.origins["ctl2"].values())
    with demo.step("Drain ctl2"):
        drained = demo.lbctl("drain", "ctl2", "--reason", "kernel")
        demo.see_traffic(began)
        demo.see_untouched("ctl2", drained)
    with demo.step("Patch ctl2: its servers stop, and start again"):
        stopped = time.time()
        for origin in origins:
            origin.stop()
        told(f"stopped: {', '.join(origin.name for origin in origins)}")
        demo.see_traffic(stopped)
        for origin in origins:
            origin.start()
        told(f"started: {', '.join(origin.name for origin in origins)}")
        demo.see_untouched("ctl2", drained)
    with demo.step("Ready ctl2"):
        asked = time.time()
        ready = demo.lbctl("ready", "ctl2")
        for name in demo.lab.port:
            served = eventually(lambda name=name: demo.lab.requests("ctl2", ready, name), f"ctl2 serves {name}")
            demo.see(f"ctl2 serves {name} again", "yes", "yes" if served else "no")
        demo.see_untouched("ctl2", drained, until=asked)
        told("The live traffic below is counted from before the drain on.")
        demo.see_traffic(began)


def read_only(demo: Demo) -> None:
    with demo.step("Keystone read-only"):
        since = demo.lbctl("read-only", "keystone", "--reason", "moving the database")
        demo.see(f"GET {PROJECTS}", 200, demo.ask("keystone", path=PROJECTS).status)
        login = demo.ask("keystone", "POST", TOKENS)
        demo.see(f"POST {TOKENS}, a login", 200, login.status)
        demo.see(f"POST {TOKENS}: X-Maintenance", "read-only", login.headers.get("x-maintenance"))
        refused = demo.ask("keystone", "POST", USERS)
        demo.see(f"POST {USERS}", 503, refused.status)
        demo.see(f"POST {USERS}: X-Maintenance", "read-only", refused.headers.get("x-maintenance"))
        retry = refused.headers.get("retry-after", "")
        demo.see(f"POST {USERS}: Retry-After", f"30 to {30 + SPREAD}", retry, retry in map(str, range(30, 31 + SPREAD)))
        demo.see_traffic(since)


def down(demo: Demo) -> None:
    closed = {"GET nova": 503, "POST nova": 503}
    with demo.step("Nova down for its users; its internal side stays open"):
        asked = time.time()
        since = demo.lbctl("down", "nova", "--for", "20m", "--reason", "schema upgrade")
        demo.until = (asked + WINDOW, since + WINDOW)
        demo.lbctl("status")
        demo.see_closed()
        demo.see("GET nova, internal frontend", 200, demo.ask("nova", internal=True).status)
        demo.see_traffic(since, closed)
    with demo.step("The agent is killed: HAProxy keeps every mode by itself"):
        first = demo.see_closed()
        assert demo.lab.agent.process is not None
        typed(f"kill -9 {demo.lab.agent.process.pid}    # lbagent")
        demo.lab.agent.kill()
        killed = time.time()
        later = eventually(lambda: all_below(demo, first), "Retry-After falls", 10)
        words = f"{min(later)} to {max(later)}, {time.time() - killed:.0f} s later"
        demo.see("Retry-After of ten answers", f"below {first}", words, max(later) < first)
        demo.see_closed()
        demo.see(f"POST {USERS}, keystone read-only", 503, demo.ask("keystone", "POST", USERS).status)
        demo.see_traffic(killed, closed)
    with demo.step("The agent starts again, and changes nothing"):
        typed(f"lbagent --config {demo.lab.agent.config} &")
        started = time.time()
        demo.lab.agent.start()
        demo.lbctl("status")
        demo.see_closed()
        demo.see(f"POST {USERS}, keystone read-only", 503, demo.ask("keystone", "POST", USERS).status)
        demo.see_traffic(started, closed)


def all_below(demo: Demo, first: int) -> list[int] | None:
    """Retry-After of ten answers, once each is below ``first``."""
    values = [int(demo.ask("nova").headers.get("retry-after", first)) for _ in range(10)]
    return values if max(values) < first else None


def up(demo: Demo) -> None:
    with demo.step("Both up"):
        since = demo.lbctl("up", "keystone", "nova")
        demo.lbctl("history")
        answer = demo.ask("nova")
        demo.see("GET nova", 200, answer.status)
        demo.see("GET nova: X-Maintenance", "none", answer.headers.get("x-maintenance", "none"))
        demo.see(f"POST {USERS}", 200, demo.ask("keystone", "POST", USERS).status)
        demo.see_traffic(since)


STEPS: tuple[Callable[[Demo], None], ...] = (ordinary, rolling, read_only, down, up)


# ----------------------------------------------------------------------------------------- around them


def live_traffic(made: Lab) -> dict[str, Load]:
    """Clients that keep their connections open and ask from the first step to the last."""
    common = {"clients": 2, "pause": 0.02, "seconds": 86400.0}
    return {
        "GET nova": Load(made.port["nova"], SERVERS, **common),
        "POST nova": Load(made.port["nova"], SERVERS, "POST", body=b"{}", **common),
        "GET nova, internal": Load(made.internal["nova"], SERVERS, **common),
        "GET keystone": Load(made.port["keystone"], PROJECTS, **common),
        "POST keystone, logins": Load(made.port["keystone"], TOKENS, "POST", body=b"{}", **common),
    }


def how_to_explore(made: Lab) -> None:
    address = "http://127.0.0.1"
    print(f"""
{paint("Everything is running, under gentle traffic. In another terminal:", BOLD)}

  export LBAGENT_SOCKET={made.agent.socket} LBAGENT_CONFIG={made.agent.config}
  export PATH={BIN}:$PATH

  lbctl status --watch
  lbctl down nova --for 20m --reason "schema upgrade"
  curl -i {address}:{made.port["nova"]}{SERVERS}        # nova, public
  curl -i {address}:{made.internal["nova"]}{SERVERS}        # nova, internal
  curl -i {address}:{made.port["keystone"]}{PROJECTS}        # keystone, public
  curl -i {address}:{made.internal["keystone"]}{PROJECTS}        # keystone, internal
  curl -s {address}:{made.agent.metrics_port}/metrics
  cat {made.state}/guard-v1.map
  less {made.haproxy.config}

Ctrl-C here ends it all and takes it away.""")
    sys.stdout.flush()


def keep(demo: Demo) -> None:
    """Until Ctrl-C; logs are cut so that they do not grow for ever."""
    for load in demo.traffic.values():
        load.pause = 0.2
    how_to_explore(demo.lab)
    forever = threading.Event()
    while not forever.wait(10):
        for load in demo.traffic.values():
            del load.results[:-1000]
        for services in demo.lab.origins.values():
            for origin in services.values():
                del origin.log[:-1000]


def ended(signum: int, _: object) -> None:
    sys.exit(128 + signum)  # an exception: what was started is taken down on its way


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it otherwise
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, ended)
    began = time.monotonic()
    with ExitStack() as stack:
        try:
            print("Three controllers, each with keystone and nova; one HAProxy; one lbagent beside it.")
            demo = Demo(stack.enter_context(running_lab(("keystone", "nova"), settings=SETTINGS)))
            for name, load in live_traffic(demo.lab).items():
                demo.traffic[name] = stack.enter_context(load)
            for step in STEPS:
                step(demo)
        except KeyboardInterrupt:
            print("\ninterrupted")
            return 130
        verdict = f"{demo.differing} DIFFER" if demo.differing else "all as expected"
        summary = f"{demo.steps} steps, {demo.compared} comparisons, {verdict} ({time.monotonic() - began:.0f} s)"
        print("\n" + paint(summary, RED if demo.differing else GREEN))
        if os.environ.get("KEEP"):
            try:
                keep(demo)
            except KeyboardInterrupt:
                print()
        return 1 if demo.differing else 0


if __name__ == "__main__":
    sys.exit(main())
