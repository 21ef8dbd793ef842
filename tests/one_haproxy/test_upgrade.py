"""An upgrade in the middle of a maintenance opens nothing: what version 0.1 left is taken over under load.

``version_0_1`` holds the files that lbagent 0.1 wrote for a lab of nova and keystone: keystone down, nova read-only,
ctl1 drained. @…@ stands for folders and ports.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.clients import Load, ask
from tests.lab.one_haproxy import Lab
from tests.lab.wait import eventually

WRITTEN = Path(__file__).parent / "version_0_1"


def lay_down(lab: Lab, *left_out: str) -> None:
    """The files of version 0.1, in the places and for the ports of this lab."""
    shutil.rmtree(lab.state)
    lab.state.mkdir()

    def value(found: re.Match[str]) -> str:
        if found[1] == "FOLDER":
            return str(lab.folder)
        service, what = found[1].split("_")
        if what in lab.origins:
            return str(lab.origins[what][service].port)
        return str({"public": lab.port, "internal": lab.internal}[what][service])

    for file in WRITTEN.rglob("*"):
        if file.is_file() and file.name not in left_out:
            text = re.sub(r"@(FOLDER|\w+_\w+)@", value, file.read_text())
            (lab.folder / file.relative_to(WRITTEN)).write_text(text)


@contextlib.contextmanager
def under_load(lab: Lab) -> Iterator[None]:
    """All the time keystone is closed, nova is read-only, and ctl1 gets nothing."""
    since = time.time()
    with contextlib.ExitStack() as stack:
        loads = [
            (expected, stack.enter_context(Load(lab.port[service], "/v2.1", method, clients=2, pause=0.01, seconds=90)))
            for service, method, expected in (
                ("keystone", "GET", 503),
                ("keystone", "POST", 503),
                ("nova", "GET", 200),
                ("nova", "POST", 503),
            )
        ]
        yield
        seen = [len(load.results) for _, load in loads]
        for (_, load), count in zip(loads, seen, strict=True):
            eventually(lambda load=load, count=count: len(load.results) > count + 50, "the load goes on")
    for expected, load in loads:
        assert load.statuses() == {expected}, (load.port, load.method)
    assert lab.requests("ctl1", since) == []


def healthy(lab: Lab) -> bool:
    return all(lab.haproxy.server(f"nova/{node}")["srv_op_state"] == "2" for node in ("ctl2", "ctl3"))


@pytest.mark.parametrize("left_out", ["nothing", "intent.json"])
def test_what_the_version_before_closed_and_drained_stays_so(make_lab, left_out):
    """Agent first, then a reload, a crash, the new guard and another reload; at last the commands that end it."""
    lab = make_lab(start=False)
    lay_down(lab, left_out)
    lab.haproxy.start()
    eventually(lambda: healthy(lab), "its servers are up")
    with under_load(lab):
        lab.agent.start()
        lab.haproxy.reload()
        lab.agent.stop()
        lab.agent.start()
    status = {service["name"]: service for service in lab.agent.status()["services"]}
    assert (status["keystone"]["mode"], status["nova"]["mode"]) == ("down", "read-only")
    assert status["keystone"]["reason"] == "schema upgrade é"
    assert lab.agent.node("ctl1")["state"] == "drained"
    lab.haproxy.kill()
    lab.haproxy.start()
    eventually(lambda: healthy(lab), "its servers are up")
    with under_load(lab):
        lab.agent.ok("haproxy", "adopt", str(lab.haproxy.config), "--write")
        lab.haproxy.reload()
        eventually(lambda: lab.agent.status()["haproxy"]["in_sync"], "the agent is in sync")
    lab.agent.ok("up", "keystone", "nova")
    lab.agent.ok("ready", "ctl1")
    assert ask(lab.port["keystone"], "POST").status == 200
    since = time.time()
    for _ in range(6):
        assert ask(lab.port["nova"], "POST").status == 200
    assert lab.requests("ctl1", since)
