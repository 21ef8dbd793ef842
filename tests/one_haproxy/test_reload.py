"""Nothing lost: reloads, restarts and crashes of HAProxy, with the agent alive or dead, and old workers."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time

import pytest

from tests.lab.clients import Load, ask
from tests.lab.wait import eventually


def test_six_reloads_three_with_the_agent_dead_then_a_crash(make_lab):
    """One node drained, one service closed: no request to the node, only 503 from the one, only 200 from the others."""
    lab = make_lab(services=("nova", "keystone", "glance"))
    lab.agent.ok("drain", "ctl1", "--reason", "kernel")
    lab.agent.ok("down", "nova", "--for", "1h")
    since = time.time()
    loads = [Load(lab.port[name]) for name in ("nova", "keystone", "glance")]
    for load in loads:
        load.__enter__()
    for number in range(6):
        if number == 3:
            lab.agent.kill()
        lab.haproxy.reload()
        seen = len(loads[0].results)
        eventually(lambda seen=seen: len(loads[0].results) > seen + 60, "the load goes on")
    for load in loads:
        load.__exit__()
    assert loads[0].statuses() == {503}
    assert loads[1].statuses() == {200}
    assert loads[2].statuses() == {200}
    assert lab.requests("ctl1", since) == []
    lab.haproxy.kill()
    lab.haproxy.start()
    for _ in range(30):
        assert ask(lab.port["nova"]).status == 503
        assert eventually(lambda: ask(lab.port["keystone"]).status == 200, "checks have passed")
    assert lab.requests("ctl1", since) == []
    lab.agent.start()
    lab.agent.ok("ready", "ctl1")
    lab.agent.ok("up", "nova")
    lab.agent.kill()
    lab.haproxy.reload()
    since = time.time()
    eventually(lambda: ask(lab.port["nova"]).status == 200, "nothing old comes back")
    eventually(lambda: ask(lab.port["nova"]).status == 200 and lab.requests("ctl1", since), "the node serves")
    assert {ask(lab.port["nova"]).status for _ in range(20)} == {200}


@pytest.mark.parametrize("check", ["check inter 200 fall 2 rise 2", ""], ids=["checked", "unchecked"])
@pytest.mark.parametrize("maint", [[], ["--maint"]], ids=["drain", "maint"])
def test_a_drain_outlives_a_reload_without_the_agent(make_lab, check, maint):
    lab = make_lab(services=("nova",), check=check)
    lab.agent.ok("drain", "ctl1", *maint)
    lab.agent.kill()
    lab.haproxy.reload()
    expected = "1" if maint else "8"
    assert lab.haproxy.server("nova/ctl1")["srv_admin_state"] == expected
    assert lab.haproxy.server("nova/ctl2")["srv_admin_state"] == "0"
    lab.agent.start()
    assert "lbagent_drift_repaired_total 0.0" in ask(lab.agent.metrics_port, path="/metrics").body.decode()
    lab.agent.ok("ready", "ctl1")
    lab.haproxy.reload()
    assert lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "0"
    assert (lab.state / "servers.state").read_text() == "1\n"


def test_late_requests_of_old_workers(lab):
    """Connections from before a reload, half a request sent or none yet, finished after down and drain returned."""

    def opened(service: str, half: bool) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", lab.port[service]), timeout=20)
        if half:
            connection.sendall(b"GET /late HTTP/1.1\r\nHost: x\r\nX-Half: ")
        return connection

    def finish(connection: socket.socket, half: bool) -> int:
        rest = b"y\r\n\r\n" if half else b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n"
        try:
            connection.sendall(rest)
            answer = connection.recv(65536)
        except ConnectionError:
            return 0
        finally:
            connection.close()
        return int(answer.split()[1]) if answer else 0

    closed = [(opened("nova", half), half) for half in (True, False) * 6]
    drained = [(opened("keystone", half), half) for half in (True, False) * 6]
    hold = http.client.HTTPConnection("127.0.0.1", lab.port["keystone"], timeout=30)
    hold.request("GET", "/wait/4000")  # keeps the old worker alive
    eventually(lambda: lab.agent.service("keystone")["sessions"], "it is open")
    lab.haproxy.reload()
    eventually(lambda: lab.agent.status()["haproxy"]["old_workers"] == 1, "an old worker is seen")
    lab.agent.ok("down", "nova")
    lab.agent.ok("drain", "ctl1")
    since = time.time()
    # An idle connection that had sent nothing may be closed by the stopping worker (no answer: 0), never served.
    assert {finish(connection, half) for connection, half in closed if half} == {503}
    assert {finish(connection, half) for connection, half in closed if not half} <= {503, 0}
    assert {finish(connection, half) for connection, half in drained if half} == {200}
    assert {finish(connection, half) for connection, half in drained if not half} <= {200, 0}
    assert lab.requests("ctl1", since) == []
    assert [e for n in lab.nodes for e in lab.requests(n, since, "nova")] == []
    assert hold.getresponse().status == 200


def test_sessions_of_old_workers_count(lab):
    """Nine slow requests, a reload: status counts them, drain waits for the node's and names the worker."""
    slow = [http.client.HTTPConnection("127.0.0.1", lab.port["nova"], timeout=30) for _ in range(9)]
    for connection in slow:
        connection.request("GET", "/wait/60000")
    eventually(lambda: lab.agent.service("nova")["sessions"] == 9, "nine requests are open")
    old = lab.haproxy.pid()
    lab.haproxy.reload()
    eventually(lambda: lab.agent.status()["haproxy"]["old_workers"] == 1, "an old worker is seen")
    assert lab.agent.service("nova")["sessions"] == 9
    draining = lab.agent.begin("drain", "ctl1")
    eventually(lambda: f"old worker {old}" in draining.stderr.readline(), "the worker is named")
    assert draining.poll() is None
    lab.let_go()
    draining.communicate(timeout=20)
    returned = time.time()
    assert draining.returncode == 0
    assert [e.ended is not None and e.ended <= returned for e in lab.requests("ctl1")] == [True] * 3
    assert {connection.getresponse().status for connection in slow} == {200}
    eventually(lambda: lab.agent.status()["haproxy"]["old_workers"] == 0, "it has ended")


def test_kill_reaches_into_old_workers(lab):
    slow = [http.client.HTTPConnection("127.0.0.1", lab.port["nova"], timeout=30) for _ in range(3)]
    for connection in slow:
        connection.request("GET", "/wait/20000")
    eventually(lambda: lab.agent.service("nova")["sessions"] == 3, "three requests are open")
    lab.haproxy.reload()
    eventually(lambda: lab.agent.status()["haproxy"]["old_workers"] == 1, "an old worker is seen")
    done = lab.agent.lbctl("drain", "ctl1", "--deadline", "1s", "--kill")
    assert done.returncode == 0, done.stderr
    assert lab.agent.node("ctl1")["sessions"] == 0
    assert lab.agent.service("nova")["sessions"] == 2


def test_down_waits_for_requests_in_old_workers(lab):
    slow = http.client.HTTPConnection("127.0.0.1", lab.port["nova"], timeout=30)
    slow.request("PUT", "/wait/60000", b"x")
    eventually(lambda: lab.agent.service("nova")["sessions"] == 1, "it is open")
    lab.haproxy.reload()
    closing = lab.agent.begin("down", "nova")
    eventually(lambda: "in old worker" in closing.stderr.readline(), "the old worker is named")
    assert closing.poll() is None
    lab.let_go()
    closing.communicate(timeout=20)
    returned = time.time()
    assert closing.returncode == 0
    assert all(e.ended and e.ended <= returned for n in lab.nodes for e in lab.requests(n, service="nova"))
    assert slow.getresponse().status == 200


def test_without_a_master_socket(make_lab):
    """It works, old_workers is null, and a wait says what it cannot see."""
    lab = make_lab(master=False)
    assert lab.agent.status()["haproxy"]["old_workers"] is None
    done = lab.agent.lbctl("drain", "ctl1")
    assert done.returncode == 0
    assert "cannot be seen" in done.stderr
    assert "cannot be seen" in lab.agent.lbctl("down", "nova").stderr
    lab.haproxy.reload()
    assert ask(lab.port["nova"]).status == 503
    assert "\nlbagent_haproxy_old_workers " not in ask(lab.agent.metrics_port, path="/metrics").body.decode()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_writes_in_flight_with_reloads(make_lab):
    """Eight trials: no write starts or ends at an origin after read-only or down has returned."""
    lab = make_lab(services=("nova",))
    for trial in range(8):
        mode = "read-only" if trial % 2 else "down"
        stop = threading.Event()

        def write(number: int, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                wait = 50 + (number * 397) % 1950
                with contextlib.suppress(OSError):
                    ask(lab.port["nova"], "PUT", f"/wait/{wait}", body=b"x")
                number += 1

        writers = [threading.Thread(target=write, args=(n * 7,), daemon=True) for n in range(8)]
        for writer in writers:
            writer.start()
        reloader = threading.Thread(target=lab.haproxy.reload)
        eventually(lambda: lab.agent.service("nova")["sessions"] >= 3, "writes are in flight")
        reloader.start()
        lab.agent.ok(mode, "nova")
        returned = time.time()
        eventually(lambda r=returned: time.time() > r + 1, "a second of refused writes")
        stop.set()
        reloader.join()
        for writer in writers:
            writer.join()
        late = [
            e
            for n in lab.nodes
            for e in lab.requests(n)
            if e.method == "PUT" and (e.started > returned or (e.ended or returned + 1) > returned)
        ]
        assert late == [], (trial, mode)
        lab.agent.ok("up", "nova")
        for node in lab.nodes:
            lab.origins[node]["nova"].log.clear()


def test_a_reason_reads_the_same_from_the_file(lab):
    """What a new worker loads is what the old one was told, blanks at the end too: no drift after a reload."""
    lab.agent.ok("down", "nova", "--reason", "  trailing blanks  ")
    lab.haproxy.reload()
    began = time.time()
    eventually(lambda: time.time() > began + 2, "two ticks")
    assert b"lbagent_drift_repaired_total 0.0" in ask(lab.agent.metrics_port, path="/metrics").body
