"""The fault test for a minute, and proof that its judge can fail."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.chaos import Broken
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
from tests.chaos.possible import Possible
from tests.chaos.script import Script, Step
from tests.chaos.script_several import ScriptSeveral
from tests.chaos.several import Several, away

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_minute_of_chaos():
    chaos("--seconds", "60")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_minute_of_chaos_over_three_hosts():
    chaos("--hosts", "3", "--seconds", "60")


def chaos(*options: str) -> None:
    """A run that has to find nothing; LBAGENT_CHAOS_SEED replays the decisions of a seed."""
    seed = os.environ.get("LBAGENT_CHAOS_SEED", "20261123")  # the same each time: `make chaos` looks for new ones
    print(f"LBAGENT_CHAOS_SEED={seed}")
    running = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", *options, "--seed", seed],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        told, _ = running.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        running.terminate()  # it takes its mount, its namespaces and its processes down
        told, _ = running.communicate(timeout=30)
        raise AssertionError(f"it does not end; seed {seed}\n{told}") from None
    assert running.returncode == 0, told


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


# ------------------------------------------------------------------------------------------ several hosts

HOSTS = ("ctl1", "ctl2", "ctl3")
SOME = frozenset({"ctl1", "ctl2"})


def test_a_promise_holds_at_the_haproxies_that_it_was_said_of():
    record = Record(
        promises=[Promise("closed", "nova", 10.0, at=SOME)], excuses=[Excuse("cut", 30.0, 40.0, via="ctl1")]
    )
    for via, found in (("ctl1", 1), ("ctl2", 1), ("ctl3", 0)):
        assert len(origin_violations([Seen("ctl1", "nova", "GET", "/", 11.0, 11.1, via)], record)) == found
        assert len(client_violations([Answered("nova", "GET", 11.0, 11.1, 200, via=via)], record)) == found
    assert not client_violations([Answered("nova", "GET", 31.0, 31.1, "timed out", via="ctl1")], record)
    assert client_violations([Answered("nova", "GET", 31.0, 31.1, "timed out", via="ctl2")], record)


def test_a_promise_ends_where_another_command_was_given():
    record = Record(promises=[Promise("closed", "nova", 10.0)], vias=frozenset(HOSTS))
    record.end(("closed",), "nova", "", 20.0, frozenset({"ctl3"}))
    late = [Seen("ctl1", "nova", "GET", "/", 21.0, 21.1, via) for via in HOSTS]
    assert [v.line.via for v in origin_violations(late, record)] == ["ctl1", "ctl2"]
    record.end(("closed",), "nova", "", 30.0)
    assert not origin_violations([Seen("ctl1", "nova", "GET", "/", 31.0, 31.1, "ctl1")], record)


def test_an_empty_backend_is_told_from_maintenance():
    [found] = client_violations([Answered("glance", "PUT", 25.0, 25.1, 503, "30", maintenance=False)], RECORD)
    assert "no server" in found.text


def test_an_exit_code_7_names_who_is_away():
    text = "lbctl: accepted and kept, but not in force yet:\n"
    assert away(f"{text}  ctl3 is away: it follows as soon as …\nTo undo: lbctl up nova\n", "ctl1") == {"ctl3"}
    assert away(f"{text}  ctl2: its HAProxy is down; …\n", "ctl1") == {"ctl2"}
    assert away(f"{text}  no answer; it will be in force the moment HAProxy starts\n", "ctl1") == {"ctl1"}


NOVA, DRAIN = ("mode", "nova"), ("drain", "ctl1", "nova")


def quiet(possible: Possible, **seen: str) -> dict:
    """All open and ready, but for nova as ``seen`` at some hosts."""
    plain = {(h, k): "up" if k[0] == "mode" else "ready" for h in HOSTS for k in possible.keys}
    return plain | {(host, NOVA): verb for host, verb in seen.items()}


def test_the_ledger_finds_what_nobody_asked_for():
    possible = Possible(HOSTS, ("nova",))
    assert not possible.wrong(quiet(possible))
    assert possible.wrong(quiet(possible, ctl1="down", ctl2="down", ctl3="down"))
    possible.accepted(NOVA, "down")
    assert len(possible.wrong(quiet(possible))) == 3
    assert not possible.wrong(quiet(possible, ctl1="down", ctl2="down", ctl3="down"))
    assert len(possible.wrong(quiet(possible, ctl1="down", ctl2="down", ctl3="up"))) == 2  # and they differ


def test_the_ledger_allows_both_outcomes_of_a_command_in_doubt_but_one_everywhere():
    possible = Possible(HOSTS, ("nova",))
    added = possible.doubtful(NOVA, "down")
    assert not possible.wrong(quiet(possible))
    assert not possible.wrong(quiet(possible, ctl1="down", ctl2="down", ctl3="down"))
    assert possible.wrong(quiet(possible, ctl1="down"))
    possible.refused(added, "down")
    assert possible.wrong(quiet(possible, ctl1="down", ctl2="down", ctl3="down"))


def test_the_ledger_lets_local_open_where_it_was_asked_only():
    possible = Possible(HOSTS, ("nova",))
    possible.accepted(NOVA, "down")
    possible.here("ctl3", NOVA, "up")
    assert not possible.wrong(quiet(possible, ctl1="down", ctl2="down", ctl3="up"))
    assert possible.wrong(quiet(possible, ctl1="down", ctl2="up", ctl3="up"))


def test_the_ledger_lets_only_restrictions_come_back():
    possible = Possible(HOSTS, ("nova",))
    possible.accepted(NOVA, "read-only")
    possible.accepted(DRAIN, "drain")
    assert possible.comes_back({NOVA: {"up"}, DRAIN: {"ready"}}) == set()
    assert possible.comes_back({NOVA: {"down"}}) == {NOVA}
    possible.settled(quiet(possible))
    assert possible.comes_back({DRAIN: {"drain"}}) == {DRAIN}


def test_a_seed_replays_over_three_hosts():
    def first(seed: int) -> list[Step]:
        return list(itertools.islice(ScriptSeveral(seed, ("nova", "keystone"), HOSTS), 600))

    assert first(7) == first(7)
    assert first(7) != first(8)
    kinds = {step.kind for step in first(7)}
    assert {"command", "cut", "heal", "etcd-kill", "etcd-stop", "etcd-gone", "etcd-start", "etcd-continue"} <= kinds
    assert {"agent-kill", "agent-start", "haproxy-kill", "haproxy-start", "host-kill", "host-start"} <= kinds
    assert {"reload", "intent-deleted", "intent-older", "sick", "well", "settle"} <= kinds
    assert any(step.detail.get("local") for step in first(7))
    assert any(step.detail.get("race") for step in first(7))


def told(host: str, *words: str, services: tuple[str, ...] = ("nova",)) -> Step:
    return Step("command", 0.0, {"words": words, "verb": words[0], "services": services, "host": host})


DEFECTS = {
    # what is wrong with the agents → what is done to them, in the words of the script
    "member.follow = lambda mine, shared, *_: replace(mine, trail=shared.trail)": [
        told("ctl1", "down", "nova", "--deadline", "5s"),
    ],
    "share.mend = lambda stored, mine, now, m=share.mend: None if mine.followed else m(stored, mine, now)": [
        told("ctl1", "down", "nova", "--deadline", "5s"),
        Step("settle", 1.0),
        Step("intent-deleted", 0.0, {"everything": False}),
        told("ctl2", "read-only", "keystone", "--deadline", "5s", services=("keystone",)),
    ],
    "operations.pending = lambda *_: ([], [])": [
        Step("cut", 0.0, {"host": "ctl3"}),
        told("ctl1", "down", "nova", "--deadline", "5s"),
        Step("agent-kill", 1.0, {"host": "ctl3"}),
        Step("heal", 0.0, {"host": "ctl3"}),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda text: text.partition(" ")[0])
def test_the_judge_finds_agents_with_a_defect(defect):
    imports = (
        "from msgspec.structs import replace",
        "from lbagent import daemon",
        "from lbagent.agent import member",
        "from lbagent.cluster import share",
        "from lbagent.rules import operations",
    )
    code = "\n".join((*imports, defect, "daemon.main()"))
    several = Several(1, 3)
    for host in several.control.hosts:
        host.agent.program = (sys.executable, "-c", code)
    with several:
        with pytest.raises(Broken) as found:
            several.carry_out([*DEFECTS[defect], Step("settle", 8.0)])
        print(f"found: {found.value}")
    assert "nova" in str(found.value)
