"""Faults: HAProxy down, hung or reloading slowly; a full disk; a guard that vanishes; an agent that restarts."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import threading
import time

import pytest

from tests.lab.clients import Load, ask
from tests.lab.wait import eventually


def test_commands_while_haproxy_is_down(lab):
    """Exit 7, named, kept; in force the moment HAProxy starts, the agent dead or alive."""
    lab.haproxy.kill()
    eventually(lambda: not lab.agent.status()["haproxy"]["up"], "the agent sees it")
    closed = lab.agent.lbctl("down", "nova", "--reason", "schema")
    drained = lab.agent.lbctl("drain", "ctl1")
    assert (closed.returncode, drained.returncode) == (7, 7)
    assert "not in force yet" in closed.stderr
    assert "HAProxy does not answer" in closed.stderr
    lab.agent.kill()
    since = time.time()
    lab.haproxy.start()
    for _ in range(20):
        assert ask(lab.port["nova"]).status == 503
        assert eventually(lambda: ask(lab.port["keystone"]).status == 200, "checks have passed")
    assert lab.requests("ctl1", since) == []
    lab.agent.start()
    assert lab.agent.node("ctl1")["state"] == "drained"
    lab.haproxy.kill()
    eventually(lambda: not lab.agent.status()["haproxy"]["up"], "the agent sees it")
    assert lab.agent.lbctl("up", "nova").returncode == 7
    assert lab.agent.lbctl("ready", "ctl1").returncode == 7
    lab.haproxy.start()
    eventually(lambda: lab.agent.node("ctl1")["state"] == "ready", "the node comes back by itself")
    assert ask(lab.port["nova"]).status == 200


def test_an_agent_that_starts_while_haproxy_is_down_knows_the_names(lab):
    lab.agent.kill()
    lab.haproxy.kill()
    lab.agent.start(in_sync=False)
    assert lab.agent.lbctl("down", "nova").returncode == 7
    assert lab.agent.lbctl("drain", "ctl2").returncode == 7
    lab.haproxy.start()
    since = time.time()
    assert ask(lab.port["nova"]).status == 503
    assert lab.requests("ctl2", since) == []


def test_a_hung_haproxy_hangs_nobody(lab):
    """SIGSTOP: status and metrics answer, lbctl ends, the loop goes on; SIGCONT: all is well again."""
    pid = lab.haproxy.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: not lab.agent.status()["haproxy"]["up"], "the agent sees it")
        began = time.monotonic()
        lab.agent.ok("status")
        assert b"lbagent_haproxy_up 0.0" in ask(lab.agent.metrics_port, path="/metrics").body
        assert (
            time.monotonic() - began < 6
        )  # two programs started on a machine that may be busy; HAProxy is stopped for longer
        assert lab.agent.lbctl("down", "nova").returncode == 7
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: ask(lab.port["nova"]).status == 503, "the command is in force")
    eventually(lambda: lab.agent.status()["haproxy"]["in_sync"], "in sync again")


@pytest.fixture
def slow_reload(tmp_path):
    """A last section that takes HAProxy a second to read, after it has read the guard's files, and many backends."""
    tmp_path.parent.parent.chmod(0o755)
    patterns = tmp_path / "patterns"
    patterns.write_text("".join(f"^/never/{n}/(a|b)+/[0-9]*$\n" for n in range(60000)))
    many = "".join(f"backend spare{n}\n  server s 127.0.0.1:9\n" for n in range(2000))
    return f"{many}backend slow\n  http-request deny if {{ path -m reg -f {patterns} }}\n  server s 127.0.0.1:9\n"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_change_during_a_slow_reload(make_lab, slow_reload):
    """Twenty trials: no wrong answer after the command has returned."""
    settings = {"discover": False, "services": {"nova": {}, "keystone": {}}}  # two thousand are spare
    lab = make_lab(extra=slow_reload, settings=settings)
    for trial in range(20):
        closing = trial % 2 == 0
        reloading = threading.Thread(target=lab.haproxy.reload)
        with Load(lab.port["nova"], clients=3) as load:
            reloading.start()
            delay = time.monotonic() + 0.04 * trial
            eventually(lambda d=delay: time.monotonic() >= d, "the reload is under way")
            lab.agent.ok(*(("down", "nova") if closing else ("up", "nova")))
            returned = time.time()
            reloading.join()
            seen = len(load.results)
            eventually(lambda s=seen: len(load.results) > s + 100, "the load goes on")
        assert load.statuses(since=returned) == {503 if closing else 200}, trial


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_drain_during_a_slow_reload(make_lab, slow_reload):
    settings = {"discover": False, "services": {"nova": {}}, "nodes": {"ctl1": {}}}
    lab = make_lab(services=("nova",), extra=slow_reload, settings=settings)
    for trial in range(10):
        reloading = threading.Thread(target=lab.haproxy.reload)
        with Load(lab.port["nova"], clients=3) as load:
            reloading.start()
            delay = time.monotonic() + 0.08 * trial
            eventually(lambda d=delay: time.monotonic() >= d, "the reload is under way")
            lab.agent.ok("drain", "ctl1")
            returned = time.time()
            reloading.join()
            seen = len(load.results)
            eventually(lambda s=seen: len(load.results) > s + 100, "the load goes on")
            assert lab.requests("ctl1", returned) == [], trial
        assert load.statuses() == {200}
        lab.agent.ok("ready", "ctl1")


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 256 kB of its own."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("mounting takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("where", ["store", "state_dir"])
def test_a_full_disk_refuses_with_nothing_half_done(make_lab, small_disk, where):
    lab = make_lab(start=False, guard=False)
    if where == "store":
        lab.agent.settings["store"]["path"] = str(small_disk / "intent.json")
    else:
        lab.agent.settings["haproxy"]["state_dir"] = str(small_disk)
        lab.state = small_disk
    lab.agent.write()
    lab.agent.ok("haproxy", "adopt", str(lab.haproxy.config), "--write")
    lab.start()
    lab.agent.ok("drain", "ctl3")
    revision = lab.agent.status()["revision"]
    before = {p.name: p.read_bytes() for p in lab.state.iterdir() if p.is_file()}
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    refused = lab.agent.lbctl("down", "nova", "--reason", "x" * 400)
    assert refused.returncode == 1
    assert "nothing was changed" in refused.stderr
    assert "space" in refused.stderr
    assert ask(lab.port["nova"]).status == 200
    assert lab.agent.service("nova")["mode"] == "up"
    assert lab.agent.status()["revision"] == revision
    assert {p.name: p.read_bytes() for p in lab.state.iterdir() if p.is_file() and p.name != "filler"} == before
    filler.unlink()
    lab.agent.ok("down", "nova")
    assert ask(lab.port["nova"]).status == 503


def test_the_guard_vanishes(lab):
    """Configuration management wrote a new haproxy.cfg: a closed service stays closed, new modes are refused."""
    lab.agent.ok("down", "nova")
    guarded = lab.haproxy.config.read_text()
    lab.agent.ok("haproxy", "adopt", "--remove", "--write", "--force", str(lab.haproxy.config))
    lab.haproxy.reload()
    eventually(lambda: "guard is gone" in lab.agent.status()["trouble"], "status says so")
    eventually(lambda: lab.haproxy.server("nova/ctl2")["srv_admin_state"] == "1", "its servers are in maint")
    since = time.time()
    assert {ask(lab.port["nova"]).status for _ in range(10)} == {503}
    assert [e for n in lab.nodes for e in lab.requests(n, since, "nova")] == []
    assert b'lbagent_haproxy_guard{state="missing"} 1.0' in ask(lab.agent.metrics_port, path="/metrics").body
    refused = lab.agent.lbctl("down", "keystone")
    assert refused.returncode == 3
    assert "lbctl haproxy adopt" in refused.stderr
    assert ask(lab.port["keystone"]).status == 200
    lab.haproxy.config.write_text(guarded)
    lab.haproxy.reload()
    eventually(lambda: lab.haproxy.server("nova/ctl2")["srv_admin_state"] == "0", "the guard holds it again")
    assert ask(lab.port["nova"]).headers["x-maintenance"] == "down"
    lab.agent.ok("up", "nova")
    assert ask(lab.port["nova"]).status == 200


def test_opening_a_service_whose_guard_vanished(lab):
    lab.agent.ok("down", "nova")
    lab.agent.ok("haproxy", "adopt", "--remove", "--write", "--force", str(lab.haproxy.config))
    lab.haproxy.reload()
    eventually(lambda: lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "1", "closed by maint")
    lab.agent.ok("up", "nova")
    assert {ask(lab.port["nova"]).status for _ in range(6)} == {200}
    assert {s["admin"] for s in lab.agent.service("nova")["servers"]} == {"ready"}


def test_a_restarted_agent_resumes_its_drain_and_deadline(lab):
    """Killed while it waits: the waiting lbctl goes on with the next agent, and --kill comes at the deadline."""
    slow = [http.client.HTTPConnection("127.0.0.1", lab.port["nova"], timeout=30) for _ in range(3)]
    for connection in slow:
        connection.request("GET", "/wait/25000")
    eventually(lambda: lab.agent.service("nova")["sessions"] == 3, "three requests are open")
    lab.agent.ok("drain", "ctl1", "--deadline", "12s", "--kill", "--detach")
    lab.agent.kill()
    lab.agent.start()
    node = lab.agent.node("ctl1")
    assert node["state"] == "draining"
    assert node["deadline"]
    eventually(lambda: lab.agent.node("ctl1")["state"] == "drained", "cut at the deadline", 25)


def test_a_waiting_lbctl_outlives_a_restart(lab):
    slow = [http.client.HTTPConnection("127.0.0.1", lab.port["nova"], timeout=30) for _ in range(3)]
    for connection in slow:
        connection.request("GET", "/wait/60000")
    eventually(lambda: lab.agent.service("nova")["sessions"] == 3, "three requests are open")
    waiting = lab.agent.begin("drain", "ctl1")
    eventually(lambda: "waiting" in waiting.stderr.readline(), "it waits")
    lab.agent.kill()
    lab.agent.start()
    assert waiting.poll() is None
    lab.let_go()
    _, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, err
    assert all(e.ended for e in lab.requests("ctl1"))


def test_files_of_the_state_folder_are_put_back(lab):
    for file in lab.state.glob("*-v1.*"):
        file.unlink()
    (lab.state / "servers.state").unlink()
    eventually(lambda: len(list(lab.state.glob("*-v1.*"))) == 12, "within a tick", seconds=5)
    eventually((lab.state / "servers.state").exists, "the state file too")
    lab.haproxy.reload()
    assert ask(lab.port["nova"]).status == 200


def test_a_command_that_is_overtaken_does_not_end_well(lab):
    """`lbctl down nova && migrate` must not migrate a service that somebody opened while it waited."""
    slow = [http.client.HTTPConnection("127.0.0.1", lab.port["nova"], timeout=30) for _ in range(3)]
    for connection in slow:
        connection.request("GET", "/wait/60000")
    eventually(lambda: lab.agent.service("nova")["sessions"] == 3, "requests are open")
    closing, draining = lab.agent.begin("down", "nova"), lab.agent.begin("drain", "ctl1")
    for waiting in (closing, draining):
        eventually(lambda w=waiting: "waiting" in w.stderr.readline(), "it waits")
    lab.agent.ok("up", "nova")
    lab.agent.ok("ready", "ctl1")
    for waiting in (closing, draining):
        _, err = waiting.communicate(timeout=20)
        assert waiting.returncode == 1
        assert "meanwhile" in err
