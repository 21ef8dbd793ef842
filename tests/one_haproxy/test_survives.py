"""Fail static, and only a command opens: what happens to the agent and its files changes nothing for users."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from tests.lab.agent import BIN
from tests.lab.clients import Load, ask
from tests.lab.ports import free_port
from tests.lab.wait import eventually


def test_kill_the_agent_in_any_mode(lab):
    """Nothing changes for users while it is dead; started again it knows everything."""
    lab.agent.ok("drain", "ctl1", "--reason", "kernel")
    lab.agent.ok("down", "nova", "--for", "20m", "--reason", "schema")
    lab.agent.ok("read-only", "keystone")
    before = lab.agent.status()
    lab.agent.kill()
    since = time.time()
    for _ in range(20):
        assert ask(lab.port["nova"]).status == 503
        assert ask(lab.port["keystone"]).status == 200
        assert ask(lab.port["keystone"], "DELETE").status == 503
    assert lab.requests("ctl1", since) == []
    lab.agent.start()
    after = lab.agent.status()
    for kind in ("services", "nodes"):
        assert after[kind] == before[kind]
    lab.agent.ok("up", "nova", "keystone")
    lab.agent.ok("ready", "ctl1")
    assert ask(lab.port["nova"]).status == 200


def test_stopping_the_agent_is_clean(lab):
    lab.agent.ok("down", "nova")
    lab.agent.process.send_signal(signal.SIGTERM)
    assert lab.agent.process.wait(10) == 0
    assert ask(lab.port["nova"]).status == 503


DAMAGE = {
    "deleted": lambda _: None,
    "empty": lambda _: "",
    "cut": lambda text: text[: len(text) // 2],
    "altered": lambda text: text.replace('"down"', '"read-only"'),
    "other format": lambda text: text.replace('"format": 1', '"format": 99'),
    "not JSON": lambda _: "\x00\x01 garbage",
    "older": lambda text: text,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_lost_intent_opens_nothing(lab, damage):
    """The intent file deleted, damaged or put back from a backup while the agent is dead: the service stays closed."""
    path = lab.folder / "intent.json"
    lab.agent.ok("drain", "ctl2", "--reason", "kernel")
    older = path.read_text()
    lab.agent.ok("down", "nova", "--for", "20m", "--reason", "schema")
    lab.agent.kill()
    text = DAMAGE[damage](older if damage == "older" else path.read_text())
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with Load(lab.port["nova"]) as load:
        lab.agent.start()
        service = lab.agent.service("nova")
        assert service["mode"] == "down"
        assert service["reason"] == "schema"
        assert lab.agent.node("ctl2")["state"] == "drained"
        assert lab.agent.node("ctl2")["reason"] == "kernel"
    assert load.statuses() == {503}
    lab.agent.kill()
    lab.agent.start()  # it was stored again
    assert lab.agent.service("nova")["mode"] == "down"
    lab.agent.ok("up", "nova")
    lab.agent.ok("ready", "ctl2")
    assert ask(lab.port["nova"]).status == 200


def test_the_whole_state_folder_deleted(lab):
    """With intent and files gone, the running HAProxy still knows; the files are put back from it."""
    lab.agent.ok("down", "nova")
    lab.agent.kill()
    (lab.folder / "intent.json").unlink()
    for file in lab.state.iterdir():
        file.unlink()
    lab.agent.start()
    assert lab.agent.service("nova")["mode"] == "down"
    assert ask(lab.port["nova"]).status == 503
    assert "=intent/service/nova" in (lab.state / "guard-v1.map").read_text()


def test_nothing_known_touches_nothing(lab):
    """No intent, no files, no HAProxy: the agent says so, refuses commands, and learns once HAProxy is there."""
    lab.agent.ok("down", "nova")
    lab.agent.kill()
    (lab.folder / "intent.json").write_text("garbage")
    saved = (lab.state / "guard-v1.map").read_text()
    (lab.state / "guard-v1.map").unlink()
    lab.haproxy.kill()
    lab.agent.start(in_sync=False)
    eventually(lambda: "nothing is touched" in lab.agent.status()["trouble"], "it says so")
    refused = lab.agent.lbctl("up", "nova")
    assert refused.returncode == 1
    assert not (lab.state / "guard-v1.map").exists()
    (lab.state / "guard-v1.map").write_text(saved)
    lab.haproxy.start()
    eventually(lambda: lab.agent.status()["haproxy"]["in_sync"], "it learned")
    assert lab.agent.service("nova")["mode"] == "down"
    assert ask(lab.port["nova"]).status == 503


def test_a_converged_system_has_no_difference(lab):
    """Ticks on a quiet system write nothing and tell HAProxy nothing."""
    lab.agent.ok("drain", "ctl1")
    lab.agent.ok("down", "nova")
    stamps = {p.name: p.stat().st_mtime_ns for p in lab.state.iterdir()}
    intent = (lab.folder / "intent.json").stat().st_mtime_ns
    began = time.time()
    eventually(lambda: time.time() > began + 3, "three ticks")
    assert {p.name: p.stat().st_mtime_ns for p in lab.state.iterdir()} == stamps
    assert (lab.folder / "intent.json").stat().st_mtime_ns == intent
    metrics = ask(lab.agent.metrics_port, path="/metrics").body.decode()
    assert "lbagent_drift_repaired_total 0.0" in metrics
    assert "lbagent_reconcile_errors_total 0.0" in metrics


def test_sighup_rereads_and_keeps_the_old_when_bad(lab):
    lab.agent.ok("down", "nova")
    lab.agent.config.write_text("services: {nova: {backends: 3}}")
    os.kill(lab.agent.process.pid, signal.SIGHUP)
    eventually(lambda: "the old configuration stays in force" in lab.agent.log.read_text(), "it complains")
    assert "$.services.nova.backends" in lab.agent.log.read_text()
    assert lab.agent.service("nova")["mode"] == "down"
    lab.agent.settings |= {"services": {"keystone": {}}, "discover": False}
    lab.agent.write()
    os.kill(lab.agent.process.pid, signal.SIGHUP)
    eventually(lambda: lab.agent.service("nova")["orphan"], "nova is no longer configured")
    assert ask(lab.port["nova"]).status == 503
    lab.agent.ok("up", "nova")
    assert ask(lab.port["nova"]).status == 200


def second_agent(lab, **changed) -> subprocess.CompletedProcess[str]:
    """With a copy of the configuration in which some sections are others."""
    copy = lab.agent.folder / "second.yaml"
    copy.write_text(json.dumps({**lab.agent.settings, **changed}))
    return subprocess.run(
        [BIN / "lbagent", "--config", str(copy)], capture_output=True, text=True, timeout=20, check=False
    )


def test_a_second_agent_is_refused(lab):
    """With the same configuration; with the same intent file; with the same control socket."""
    other = {
        "control": {"socket": str(lab.agent.folder / "second.sock")},
        "metrics": {"listen": f"127.0.0.1:{free_port()}"},
        "store": {"path": str(lab.agent.folder / "second.json")},
    }
    lab.agent.ok("down", "nova")
    for changed, why in (
        ({}, "store.path: another lbagent uses"),
        ({k: v for k, v in other.items() if k != "store"}, "store.path: another lbagent uses"),
        ({"store": other["store"]}, "another lbagent serves"),
    ):
        refused = second_agent(lab, **changed)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert why in refused.stderr
        assert "Traceback" not in refused.stderr
    assert ask(lab.port["nova"]).status == 503
    assert lab.agent.status()["haproxy"]["in_sync"]
    lab.agent.kill()  # the lock ends with the process, however it ends
    lab.agent.start()
