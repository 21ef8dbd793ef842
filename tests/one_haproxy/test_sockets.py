"""HAProxy's sockets when they cannot be used: what is said is true, and nothing waits for what never opens."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time

import pytest

from tests.lab.clients import ask
from tests.lab.wait import eventually

IDLE = 10  # HAProxy's default for `stats maxconn`
PATIENT = "stats timeout 5m"  # the default is 10 s, after which idle connections are closed


@contextlib.contextmanager
def crowded(path, count=IDLE):
    """Idle connections hold the runtime socket."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(path))
        yield


def haproxy(lab):
    return lab.agent.status()["haproxy"]


# --------------------------------------------------------------------------------- the runtime socket used up


@pytest.mark.parametrize("master", [True, False])
def test_a_runtime_socket_that_is_used_up_is_not_an_haproxy_that_is_down(make_lab, master):
    lab = make_lab(global_lines=PATIENT, master=master)
    with crowded(lab.haproxy.socket):
        seen = eventually(lambda: (h := haproxy(lab))["socket_used_up"] and h, "it is noticed")
        assert (seen["up"], seen["guard"], seen["in_sync"]) == (True, "present", False)
        assert "used up: all of its 10 connections are open" in lab.agent.status()["trouble"]
        metrics = ask(lab.agent.metrics_port, path="/metrics").body.decode()
        assert "\nlbagent_haproxy_up 1" in metrics
        assert "\nlbagent_runtime_socket_exhausted 1" in metrics
        assert "HAProxy is down" not in lab.agent.ok("status")
        done = lab.agent.lbctl("down", "nova")
        assert done.returncode == 7, done.stderr
        assert "used up" in done.stderr
        assert "HAProxy starts" not in done.stderr
        assert ask(lab.port["nova"]).status == 200
    eventually(lambda: ask(lab.port["nova"]).status == 503, "it is in force as soon as there is a connection")
    eventually(lambda: haproxy(lab)["in_sync"] and not haproxy(lab)["socket_used_up"], "all is well again")


def test_an_agent_that_starts_while_it_is_used_up(make_lab):
    """Its view of the guard is that of the agent before."""
    lab = make_lab(global_lines=PATIENT)
    lab.agent.kill()
    with crowded(lab.haproxy.socket):
        lab.agent.start(in_sync=False)
        seen = eventually(lambda: (h := haproxy(lab))["socket_used_up"] and h, "it is noticed")
        assert (seen["up"], seen["guard"]) == (True, "present")


def test_a_runtime_socket_that_is_gone_while_haproxy_serves(lab):
    lab.haproxy.socket.rename(lab.folder / "moved.sock")
    seen = eventually(lambda: (h := haproxy(lab))["error"] and h, "it is noticed")
    assert (seen["up"], seen["socket_used_up"]) == (True, False)
    assert "HAProxy serves, but its runtime socket cannot be used" in seen["error"]


def test_a_larger_limit_is_read_from_haproxys_configuration(make_lab):
    lab = make_lab(master=False, global_lines=f"stats maxconn 12\n{PATIENT}")
    with crowded(lab.haproxy.socket, 12):
        eventually(lambda: haproxy(lab)["socket_used_up"], "it is noticed")


def test_doctor_names_it(make_lab):
    lab = make_lab(master=False, global_lines=PATIENT)
    with crowded(lab.haproxy.socket):
        said = lab.agent.lbctl("doctor").stdout
    assert "is used up" in said


# --------------------------------------------------------------------------------------- the master socket


def test_the_master_socket_is_found_by_itself(make_lab):
    lab = make_lab(settings={"haproxy": {"master_socket": None}}, start=False)
    lab.agent.settings["haproxy"].pop("master_socket")
    lab.agent.write()
    lab.start()
    assert haproxy(lab)["old_workers"] == 0
    assert haproxy(lab)["masterless"] == ""
    slow = lab.haproxy.pid()
    lab.haproxy.reload()
    assert lab.haproxy.pid() != slow
    eventually(lambda: haproxy(lab)["in_sync"] and haproxy(lab)["old_workers"] is not None, "and after a reload")


def quick(lab, words):
    """A drain that succeeds without waiting for any socket; what it printed."""
    begun = time.monotonic()
    done = lab.agent.lbctl("drain", "ctl1", "--deadline", "2m")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 8
    seen = haproxy(lab)
    assert seen["old_workers"] is None
    assert words in seen["masterless"]
    assert "cannot be seen: " in done.stderr
    assert words in done.stderr
    said = lab.agent.lbctl("doctor").stdout
    assert all(part in said for part in words.split(": ")), said
    lab.agent.ok("ready", "ctl1")


def other_master(make_lab, path, **settings):
    lab = make_lab(start=False, **settings)
    lab.agent.settings["haproxy"]["master_socket"] = str(path(lab) if callable(path) else path)
    lab.agent.write()
    return lab.start()


def test_a_master_socket_that_is_not_there(make_lab):
    quick(other_master(make_lab, "/run/no-such-master.sock"), "there is no /run/no-such-master.sock")


def test_a_master_socket_that_nobody_listens_on(make_lab):
    def left_over(lab):
        path = lab.folder / "old-master.sock"
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(path))
        return path

    quick(other_master(make_lab, left_over), "master has not answered")


def test_a_socket_that_is_no_masters(make_lab):
    quick(other_master(make_lab, lambda lab: lab.haproxy.socket), "is not HAProxy's master socket")


@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="another user is needed; CI has root")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "is open to root only: restart HAProxy"),
        (",mode,660,group,daemon", "is not open to this user (uid 65534): let it be in the group daemon"),
    ],
)
def test_a_master_socket_that_is_closed_to_the_agent(make_lab, options, words):
    """Debian's own is open to root only until HAProxy is restarted with the drop-in."""
    lab = make_lab(start=False)
    lab.haproxy.master = options or ",mode,600"
    if not options:
        lab.haproxy.master = ""
    for path in (lab.folder, lab.state, *lab.state.iterdir()):
        shutil.chown(path, 65534, 65534)
    lab.agent.settings["control"]["admins"] = ["root", "nobody"]
    lab.agent.write()
    lab.agent.prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    lab.haproxy.start()
    lab.haproxy.socket.chmod(0o666)
    lab.agent.start()
    eventually(lab._healthy, "every server is up")
    quick(lab, words)
