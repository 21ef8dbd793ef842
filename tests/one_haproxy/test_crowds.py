"""A user without rights crowds the control socket and the metrics port: operators get in, and the agent stays small.

LBAGENT_CROWD_SECONDS says how long each crowd lasts, for measurements longer than the suite can wait.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbagent.control.client import Client
from tests.lab import crowd
from tests.lab.clients import ask
from tests.lab.one_haproxy import Lab
from tests.lab.wait import eventually

SECONDS = float(os.environ.get("LBAGENT_CROWD_SECONDS", "6"))
COUNT = 1200

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="only root can become somebody else"
)


@pytest.fixture(scope="module", autouse=True)
def many_files() -> None:
    """For the crowd, which inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(services=("nova",), nodes=2)


@contextlib.contextmanager
def crowds(*kinds: tuple[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Each kind with its target, by user nobody."""
    nobody = pwd.getpwnam("nobody")
    running = [
        subprocess.Popen(
            ["nice", "-n", "5", sys.executable, crowd.__file__, kind, target, str(COUNT)],
            stdout=subprocess.PIPE,
            text=True,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
        )
        for kind, target in kinds
    ]
    try:
        for one in running:
            assert int(one.stdout.readline()) > 0  # type: ignore[union-attr]
        yield running
    finally:
        for one in running:
            one.kill()
            one.communicate()


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """MB that a process holds."""
    line = next(r for r in Path(f"/proc/{pid}/status").read_text().splitlines() if r.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Operator:
    """Asks as lbctl does, each time over a connection of its own; ``slowest`` is in seconds."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self.slowest = lab, 0.0

    def one_round(self) -> None:
        self._timed(lambda client: client.get("/v1/status"))
        self._timed(lambda client: client.change({"services": {"nova": {"mode": "down"}}}))
        assert ask(self._lab.port["nova"]).status == 503
        self._timed(lambda client: client.change({"services": {"nova": {"mode": "up"}}}))

    def _timed(self, act: Callable[[Client], Any]) -> None:
        began = time.monotonic()
        act(Client(str(self._lab.agent.socket)))
        self.slowest = max(self.slowest, time.monotonic() - began)


CONTROL = ["idle", "half", "drip", "ask", "unread", "hang-up", "body"]


@pytest.mark.parametrize(
    "kinds", [*((k, "") for k in CONTROL), ("", "half"), ("", "ask"), ("", "hang-up"), ("idle", "half")]
)
def test_whatever_a_crowd_does_operators_get_in(lab, kinds):
    """At the control socket, at the metrics port, or at both."""
    agent = lab.agent
    pid = agent.process.pid
    metrics = f"127.0.0.1:{agent.metrics_port}"
    log, before = agent.log.stat().st_size, memory(pid)
    targets = [(kind, target) for kind, target in zip(kinds, (str(agent.socket), metrics), strict=True) if kind]
    before_it = Operator(lab)
    for _ in range(5):
        before_it.one_round()
    with crowds(*targets):
        used, began, operator = cpu(pid), time.monotonic(), Operator(lab)
        while time.monotonic() - began < SECONDS:
            operator.one_round()
            time.sleep(0.2)
        agent.ok("status")
        share = (cpu(pid) - used) / (time.monotonic() - began)
        grown = memory(pid) - before
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    print(
        f"{kinds}: slowest {operator.slowest:.2f} s ({before_it.slowest:.2f} before), CPU {share:.0%}, "
        f"{grown:+.0f} MB, {files} files, log {agent.log.stat().st_size - log} bytes"
    )
    # A busy machine is slow without a crowd too.
    assert operator.slowest < 1.0 + 4 * before_it.slowest
    assert agent.log.stat().st_size - log < 200_000
    assert grown < 60
    assert files < 2500
    assert share < 0.5
    eventually(lambda: ask(agent.metrics_port, path="/metrics").status == 200, "a scrape is answered again")


def test_a_scrape_gets_in_beside_a_crowd_of_half_requests(lab):
    with crowds(("half", f"127.0.0.1:{lab.agent.metrics_port}")):
        answers = []
        for _ in range(5):
            with contextlib.suppress(OSError):
                answers.append(ask(lab.agent.metrics_port, path="/metrics").status)
    assert 200 in answers
