"""Nobody is cut who was not named: without --kill no request ends early, whatever options its backend carries."""

from __future__ import annotations

import contextlib
import re
import socket
import time

import pytest

from tests.lab.clients import Waiting, WebSocket, ask
from tests.lab.clock import Clock
from tests.lab.one_haproxy import Lab
from tests.lab.wait import eventually

CUTS = "default-server on-marked-down shutdown-sessions\n"
STICKY = {
    "cookie": "cookie S insert\n",
    "stick on src": "stick-table type ip size 10k expire 1h\nstick on src\n",
    "plain": "",
}


def busiest(lab: Lab) -> str:
    """The node that has the most open requests."""
    return max(lab.nodes, key=lambda node: sum(entry.ended is None for entry in lab.requests(node)))


def passes(seconds: float) -> None:
    """Time in which something must not happen."""
    until = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > until, "time passes", seconds + 5)


# ------------------------------------------------------------------------------ options that cut what is marked down


@pytest.mark.parametrize("sticky", STICKY)
def test_a_drain_waits_for_requests_that_a_mark_would_cut(make_lab, sticky):
    """`on-marked-down shutdown-sessions`: maint, and a forced health, end every request of the server at once."""
    lab = make_lab(("nova",), backend={"nova": STICKY[sticky] + CUTS})
    waiting = Waiting(lab.port["nova"], 6)
    eventually(lambda: sum(len(lab.requests(node)) for node in lab.nodes) == 6, "six requests are open")
    node = busiest(lab)
    draining = lab.agent.begin("drain", node, "--deadline", "30s")
    eventually(lambda: lab.agent.node(node)["state"] == "draining", "it drains")
    passes(3)
    assert waiting.ended == []
    assert draining.poll() is None
    lab.let_go()
    assert waiting.all() == [200] * 6
    out, err = draining.communicate(timeout=20)
    assert draining.returncode == 0, out + err
    drained = time.time()
    later = Waiting(lab.port["nova"], 6, "GET", "/")
    assert later.all() == [200] * 6
    assert lab.requests(node, drained) == []


@pytest.mark.parametrize("sticky", STICKY)
def test_ready_cuts_nobody_whom_the_drain_had_spared(make_lab, sticky):
    """A server with requests in flight is not marked down to prove its health; ready gives it back all the same."""
    lab = make_lab(("nova",), backend={"nova": STICKY[sticky] + CUTS})
    waiting = Waiting(lab.port["nova"], 6)
    eventually(lambda: sum(len(lab.requests(node)) for node in lab.nodes) == 6, "six requests are open")
    node = busiest(lab)
    assert lab.agent.lbctl("drain", node, "--deadline", "1s").returncode == 4
    lab.agent.ok("ready", node, "--timeout", "20s")
    passes(2)
    assert waiting.ended == []
    lab.let_go()
    assert waiting.all() == [200] * 6


def test_an_idle_database_connection_is_not_cut(make_lab):
    """A transaction that waits for its client is no idle matter: the drain waits, says how many, and ends with 4."""
    lines = "stick-table type ip size 10 expire 1h\nstick on dst\n" + CUTS
    lab = make_lab(("nova",), tcp=("db",), backend={"db": lines}, settings={"services": {"db": {"backends": ["db"]}}})
    with contextlib.ExitStack() as stack:
        open_ones = []
        for count in (1, 2, 3):  # one by one: each finds the entry of the one before in the table
            connection = socket.create_connection(("127.0.0.1", lab.port["db"]), timeout=0.2)
            open_ones.append(stack.enter_context(connection))
            eventually(lambda c=count: lab.agent.service("db")["sessions"] == c, "it is open")
        [node] = {server["node"] for server in lab.agent.service("db")["servers"] if server["sessions"]}
        done = lab.agent.lbctl("drain", node, "--deadline", "2s")
        assert done.returncode == 4, done.stdout + done.stderr
        assert f"db/{node}" in done.stderr and "3" in done.stderr
        for connection in open_ones:
            with pytest.raises(TimeoutError):
                connection.recv(1)  # the end of the connection would be b""
        assert lab.agent.node(node)["state"] == "draining"
    eventually(lambda: lab.agent.node(node)["state"] == "drained", "it ends drained when they have ended")


# ------------------------------------------------------------------------------------------------- --kill


def test_a_queue_in_an_old_worker_is_waited_for_and_nobody_else_is_cut(make_lab):
    """An old worker gives what waits in a backend's queue to the server that has room first, and takes no drain.

    A cut on the drained server would make such room. So the queue is waited for, and named.
    """
    lab = make_lab(
        ("nova",), check="check inter 200 fall 2 rise 2 maxconn 1", backend={"nova": "  timeout queue 60s\n"}
    )
    waiting = Waiting(lab.port["nova"], 9)
    eventually(lambda: sum(len(lab.requests(node)) for node in lab.nodes) == 3, "three are at work, six are queued")
    lab.haproxy.reload()
    done = lab.agent.lbctl("drain", "ctl1", "--deadline", "1s", "--kill")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "6 requests queued in old worker" in done.stderr
    assert waiting.ended == []
    deadline = time.monotonic() + 25
    while len(waiting.ended) < 9:
        assert time.monotonic() < deadline, waiting.ended
        assert lab.agent.node("ctl1")["state"] == "draining"
        lab.let_go()
        passes(0.2)
    eventually(lambda: lab.agent.node("ctl1")["state"] == "drained", "it is drained")
    drained = time.time()
    assert len([status for status in waiting.ended if status != 200]) <= 1, waiting.ended
    assert {ask(lab.port["nova"]).status for _ in range(9)} == {200}
    assert lab.requests("ctl1", drained) == []


@pytest.mark.parametrize("step", [600, -600], ids=["ahead", "behind"])
def test_a_deadline_is_by_no_wall_clock(make_lab, tmp_path, step):
    """Given --kill, a clock that jumps ten minutes cuts nobody before the deadline, and puts no cut off."""
    clock = Clock(tmp_path)
    lab = make_lab(("nova",), start=False)
    lab.agent.program = clock.program
    lab.start()
    waiting = Waiting(lab.port["nova"], 3)
    eventually(lambda: sum(len(lab.requests(node)) for node in lab.nodes) == 3, "three requests are open")
    began = time.monotonic()
    draining = lab.agent.begin("drain", "ctl1", "--deadline", "7s", "--kill")
    eventually(lambda: lab.agent.node("ctl1")["state"] == "draining", "it drains")
    clock.step(step)
    passes(4 - (time.monotonic() - began))
    assert waiting.ended == []
    eventually(lambda: len(waiting.ended) == 1, "the one on ctl1 is cut", 8)
    assert time.monotonic() - began > 6.5
    draining.communicate(timeout=20)
    assert draining.returncode == 0
    lab.let_go()
    assert sorted(map(str, waiting.all())) == ["200", "200", "502"]


# ------------------------------------------------------------------------------------------------- websockets


@pytest.mark.parametrize("reloaded", [False, True], ids=["", "in an old worker"])
@pytest.mark.parametrize("mode", ["read-only", "down"])
def test_a_mode_waits_for_upgraded_connections_and_refuses_new_ones(lab, mode, reloaded):
    """HAProxy sees no request in them any more, and a console writes: they count until they end."""
    console = WebSocket(lab.port["nova"])
    assert (console.status, console.say(b"hello")) == (101, b"hello")
    if reloaded:
        lab.haproxy.reload()
    done = lab.agent.lbctl(mode, "nova", "--deadline", "2s")
    assert done.returncode == 4, done.stdout + done.stderr
    assert re.search(r"nova.*(upgraded|websocket)", done.stderr, re.I), done.stderr
    assert console.say(b"still there") == b"still there"
    assert WebSocket(lab.port["nova"]).status == 503
    assert not lab.agent.service("nova")["quiesced"]
    console.close()
    eventually(lambda: lab.agent.service("nova")["quiesced"], "it is quiesced")


@pytest.mark.parametrize("mode", ["read-only", "down"])
def test_kill_ends_what_a_mode_waits_for(lab, mode):
    console = WebSocket(lab.port["nova"])
    assert console.say(b"hello") == b"hello"
    writes = Waiting(lab.port["nova"], 2)
    reads = Waiting(lab.port["nova"], 2, "GET")
    eventually(lambda: sum(len(lab.requests(node)) for node in lab.nodes) == 5, "five are open")
    other = Waiting(lab.port["keystone"], 1)
    eventually(lambda: sum(len(lab.requests(node, service="keystone")) for node in lab.nodes) == 1, "so is another's")
    lab.agent.ok(mode, "nova", "--deadline", "2s", "--kill")
    assert lab.agent.service("nova")["quiesced"]
    assert console.say(b"?") == b""
    assert len(writes.all()) == 2 and 200 not in writes.ended
    assert other.ended == []
    assert len(reads.ended) == (2 if mode == "down" else 0)
    lab.let_go()
    assert other.all() == [200]
    assert reads.all() == [200, 200] if mode == "read-only" else 200 not in reads.all()
