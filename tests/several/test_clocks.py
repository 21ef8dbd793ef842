"""A control plane of three hosts of which one has a wrong clock."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.lab.several_haproxies import PORTS, ControlPlane, Host
from tests.lab.wait import eventually
from tests.several.test_etcd_trouble import (
    closed,
)

AHEAD = 120  # seconds


@pytest.fixture
def askew() -> Iterator[ControlPlane]:
    """The agent of ctl2 is two minutes ahead."""
    made = ControlPlane()
    two = made.host["ctl2"].agent
    two.prefix = (*two.prefix, "env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", f"+{AHEAD}s")
    try:
        yield made.start()
    finally:
        made.close()


class Slow:
    """A request through ``host`` that lasts; ``node`` works on it."""

    def __init__(self, three: ControlPlane, host: Host) -> None:
        since = time.time()  # an origin goes on with what was cut before
        self._curl = subprocess.Popen(
            [
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                f"http://{host.address}:{PORTS['nova']}/wait/25000",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.node = eventually(
            lambda: next((n for n in three.names if any(e.ended is None for e in three.requests(n, since))), None),
            "it waits",
        )

    @property
    def open(self) -> bool:
        return self._curl.poll() is None

    def end(self) -> None:
        self._curl.kill()
        self._curl.wait()


@pytest.mark.slow
def test_a_clock_that_is_ahead_cuts_nobody_early(askew):
    one, two, last = askew.hosts
    eventually(
        lambda: re.search(r"the clock of ctl2 is 1[12]\d s ahead", one.agent.status()["trouble"]),
        lambda: one.agent.status()["trouble"],
    )
    eventually(lambda: re.search(r"the clock of ctl1 is 1[12]\d s behind", two.agent.status()["trouble"]), "so does it")
    for asked, through in ((one, two), (two, one), (one, last)):
        slow = Slow(askew, through)
        began = time.monotonic()
        draining = asked.agent.begin("drain", slow.node, "--kill", "--deadline", "4s")
        eventually(lambda slow=slow: not slow.open, "it is cut in the end", 12)
        took = time.monotonic() - began
        assert took >= 3, f"asked of {asked.name}, cut on {through.name} after {took:.1f} s"
        _, said = draining.communicate(timeout=20)
        assert draining.returncode == 0, said
        last.agent.ok("ready", slow.node)
    for host in askew.hosts:
        host.agent.ok("down", "nova", "--for", "5m")
        assert closed(askew) == [503] * 3
        host.agent.ok("up", "nova")
        assert closed(askew) == [200] * 3


@pytest.mark.slow
def test_one_that_hears_of_a_drain_late_cuts_nobody_early_for_a_later_askers_clock(askew):
    one, two, last = askew.hosts
    last.agent.kill()
    slow = Slow(askew, last)
    try:
        assert one.agent.lbctl("drain", slow.node, "--kill", "--deadline", "60s", "--detach").returncode in (0, 7)
        two.agent.lbctl("down", "keystone", "--detach")
        last.agent.start(in_sync=False)
        eventually(askew.agree, lambda: "all agree" + askew.log())
        assert slow.open
        deadlines = [h.agent.node(slow.node)["deadline"] for h in (one, last)]
        assert all(50 < d - time.time() <= 60 for d in deadlines), deadlines
    finally:
        slow.end()


@pytest.mark.slow
def test_the_timeout_of_ready_is_by_the_askers_clock(askew):
    one, two, last = askew.hosts
    one.agent.ok("drain", "ctl1")
    askew.origins["ctl1"]["nova"].sick = True
    for asked in (two, one, last):
        began = time.monotonic()
        late = asked.agent.lbctl("ready", "ctl1", "--timeout", "3s")
        took = time.monotonic() - began
        assert late.returncode == 4, late.stderr
        assert 1.9 < took < 10, f"asked of {asked.name}: {took:.1f} s"
        eventually(lambda: all(h.agent.node("ctl1")["state"] == "drained" for h in askew.hosts), "drained as a whole")
    askew.origins["ctl1"]["nova"].sick = False
    two.agent.ok("ready", "ctl1")
    assert [h.agent.node("ctl1")["state"] for h in askew.hosts] == ["ready"] * 3
