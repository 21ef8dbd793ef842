"""`lbctl run`: maintenance around a command, and what it leaves when that fails or is interrupted."""

from __future__ import annotations

import signal

import pytest

from tests.lab.clients import Waiting, ask
from tests.lab.wait import eventually


def test_it_closes_runs_opens_and_says_so(lab):
    done = lab.agent.lbctl("run", "--down", "nova", "--drain", "ctl1", "--", "true")
    assert done.returncode == 0, done.stderr
    assert "nova is up, ctl1 is ready; true ended with status 0" in done.stdout
    assert ask(lab.port["nova"]).status == 200
    assert lab.agent.node("ctl1")["state"] == "ready"


def test_a_command_that_fails_leaves_everything_closed(lab):
    done = lab.agent.lbctl("run", "--down", "nova", "--drain", "ctl1", "--", "sh", "-c", "exit 9")
    assert done.returncode == 9
    assert "sh ended with status 9. Still in force: nova is down, ctl1 is drained" in done.stderr
    assert "To end it: lbctl ready ctl1; lbctl up nova" in done.stderr
    assert ask(lab.port["nova"]).status == 503
    assert lab.agent.node("ctl1")["state"] == "drained"


def test_a_failed_command_may_reopen(lab):
    done = lab.agent.lbctl("run", "--down", "nova", "--reopen-on-failure", "--", "false")
    assert done.returncode == 1
    assert ask(lab.port["nova"]).status == 200


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_reaches_the_command_and_leaves_everything_closed(lab, tmp_path, number, code):
    trace = tmp_path / "trace"
    script = f'trap "echo caught >> {trace}; exit 0" INT TERM HUP; echo begun > {trace}; while :; do sleep 0.05; done'
    running = lab.agent.begin("run", "--down", "nova", "--", "bash", "-c", script)
    eventually(lambda: trace.exists() and "begun" in trace.read_text(), "the command runs")
    running.send_signal(number)
    _, err = running.communicate(timeout=20)
    assert running.returncode == code, err
    assert trace.read_text().split() == ["begun", "caught"]
    assert "bash was interrupted. Still in force: nova is down. To end it: lbctl up nova" in err
    assert ask(lab.port["nova"]).status == 503


def test_a_signal_while_it_waits_starts_no_command(lab, tmp_path):
    marker = tmp_path / "ran"
    Waiting(lab.port["nova"], 1)
    eventually(lambda: any(lab.requests(node) for node in lab.nodes), "a request is open")
    running = lab.agent.begin("run", "--down", "nova", "--", "touch", str(marker))
    eventually(lambda: lab.agent.service("nova")["mode"] == "down", "it waits for the request")
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=20)
    lab.let_go()
    assert running.returncode == 143, err
    assert "To undo: lbctl up nova" in err
    assert not marker.exists()
