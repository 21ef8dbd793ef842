"""The fault test for a minute, and proof that its judge can fail."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.judge import (
    Answered,
    Cut,
    Excuse,
    Promise,
    Record,
    Seen,
    client_violations,
    origin_violations,
)
from tests.chaos.script import Script

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_minute_of_chaos():
    """LBAGENT_CHAOS_SEED replays the decisions of a seed."""
    seed = os.environ.get("LBAGENT_CHAOS_SEED", "20261123")  # the same each time: `make chaos` looks for new ones
    print(f"LBAGENT_CHAOS_SEED={seed}")
    chaos = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--seconds", "60", "--seed", seed],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        told, _ = chaos.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        chaos.terminate()  # it takes its mount and its processes down
        told, _ = chaos.communicate(timeout=30)
        raise AssertionError(f"it does not end; seed {seed}\n{told}") from None
    assert chaos.returncode == 0, told


# A forged history: at 10 ctl1 was drained for nova, at 20 glance became read-only, at 30 keystone went down.
RECORD = Record(
    promises=[
        Promise("drained", "nova", 10.0, "ctl1", end=50.0, by="drain"),
        Promise("restricted", "glance", 20.0, end=50.0, by="read-only"),
        Promise("unwritten", "glance", 20.0, end=50.0, by="read-only"),
        Promise("closed", "keystone", 30.0, end=50.0, by="down"),
        Promise("open", "nova", 0.0, by="the start"),
    ],
    excuses=[Excuse("HAProxy killed", 40.0, 42.0)],
    cuts=[Cut(15.0, 15.2)],
)

FINE = [
    Seen("ctl1", "nova", "GET", "/", 8.0, 9.9),  # ended before the drain returned
    Seen("ctl2", "nova", "PUT", "/", 11.0, 12.0),  # another node
    Seen("ctl1", "glance", "GET", "/", 11.0, 12.0),  # another service
    Seen("ctl1", "nova", "GET", "/", 50.1, 51.0),  # after `ready` was asked for
    Seen("ctl2", "glance", "GET", "/", 19.0, 22.0),  # read-only does not wait for a query
    Seen("ctl2", "glance", "PUT", "/", 15.1, 20.5),  # HAProxy was killed at 15: it had given this up
    Seen("ctl3", "keystone", "GET", "/", 29.0, 30.0),
]

LATE = [
    Seen("ctl1", "nova", "GET", "/", 10.001, 10.1),
    Seen("ctl1", "nova", "GET", "/", 9.0, 10.5),
    Seen("ctl1", "nova", "GET", "/", 9.0, None),
    Seen("ctl1", "nova", "PUT", "/", 40.5, 41.0),  # no crash excuses a request that reaches a drained node
    Seen("ctl2", "glance", "PUT", "/", 25.0, 25.1),
    Seen("ctl2", "glance", "DELETE", "/", 18.0, 20.001),
    Seen("ctl3", "keystone", "GET", "/", 30.5, 30.6),
    Seen("ctl3", "keystone", "PUT", "/", 29.0, 31.0),
]


def test_the_judge_lets_pass_what_is_fine():
    assert origin_violations(FINE, RECORD) == []


@pytest.mark.parametrize("late", LATE, ids=str)
def test_the_judge_finds_one_late_request(late):
    [violation] = origin_violations([*FINE, late], RECORD)
    assert violation.line is late


ANSWERS = [
    # (answer, whether it is fine)
    (Answered("nova", "GET", 12.0, 12.1, 200), True),
    (Answered("nova", "GET", 12.0, 12.1, 503, "30"), False),  # open, yet refused
    (Answered("nova", "GET", 12.0, 12.1, 502), False),
    (Answered("nova", "GET", 12.0, 12.1, "ConnectionResetError()"), False),
    (Answered("nova", "GET", 39.0, 40.5, "ConnectionResetError()"), True),  # its HAProxy was killed
    (Answered("nova", "GET", 43.0, 43.1, "ConnectionResetError()"), False),
    (Answered("glance", "GET", 25.0, 25.1, 200), True),
    (Answered("glance", "PUT", 25.0, 25.1, 503, "30"), True),
    (Answered("glance", "PUT", 25.0, 25.1, 503, "soon"), False),
    (Answered("glance", "PUT", 25.0, 25.1, 503, "0"), False),
    (Answered("glance", "PUT", 25.0, 25.1, 503), False),
    (Answered("glance", "PUT", 25.0, 25.1, 200), False),
    (Answered("glance", "GET", 25.0, 25.1, 503, "30"), False),
    (Answered("glance", "PUT", 19.9, 20.1, 200), True),  # asked before read-only had returned
    (Answered("keystone", "GET", 31.0, 31.1, 200), False),
    (Answered("keystone", "GET", 31.0, 31.1, 503, "600"), True),
    (Answered("keystone", "GET", 49.9, 50.1, 200), True),  # `up` was asked for meanwhile
]


@pytest.mark.parametrize(("answer", "fine"), ANSWERS, ids=str)
def test_the_judge_of_answers(answer, fine):
    assert (client_violations([answer], RECORD) == []) is fine


def test_a_seed_replays():
    def first(seed: int) -> list[str]:
        return [str(s) for s in itertools.islice(Script(seed, ("nova", "glance"), ("ctl1", "ctl2", "ctl3")), 500)]

    assert first(7) == first(7)
    assert first(7) != first(8)
    kinds = {step.split()[0] for step in first(7)}
    assert {
        "lbctl",
        "reload",
        "reload-twice",
        "worker-stop",
        "old-worker-stop",
        "haproxy-kill",
        "haproxy-start",
    } <= kinds
    assert {"agent-kill", "agent-start", "agent-stop", "disk-full", "disk-free", "file-lost", "settle"} <= kinds
