"""Fail static, and only a command opens: what happens to the agent and its files changes nothing for users."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.lab.plant import Load, ask, eventually


def test_kill_the_agent_in_any_mode(plant):
    """Nothing changes for users while it is dead; started again it knows everything."""
    plant.agent.ok("drain", "ctl1", "--reason", "kernel")
    plant.agent.ok("down", "nova", "--for", "20m", "--reason", "schema")
    plant.agent.ok("read-only", "keystone")
    before = plant.agent.status()
    plant.agent.kill()
    since = time.time()
    for _ in range(20):
        assert ask(plant.port["nova"]).status == 503
        assert ask(plant.port["keystone"]).status == 200
        assert ask(plant.port["keystone"], "DELETE").status == 503
    assert plant.requests("ctl1", since) == []
    plant.agent.start()
    after = plant.agent.status()
    for kind in ("services", "nodes"):
        assert after[kind] == before[kind]
    plant.agent.ok("up", "nova", "keystone")
    plant.agent.ok("ready", "ctl1")
    assert ask(plant.port["nova"]).status == 200


def test_stopping_the_agent_is_clean(plant):
    plant.agent.ok("down", "nova")
    plant.agent.process.send_signal(signal.SIGTERM)
    assert plant.agent.process.wait(10) == 0
    assert ask(plant.port["nova"]).status == 503


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
def test_a_lost_intent_opens_nothing(plant, damage):
    """The intent file deleted, damaged or put back from a backup while the agent is dead: the service stays closed."""
    path = plant.folder / "intent.json"
    plant.agent.ok("drain", "ctl2", "--reason", "kernel")
    older = path.read_text()
    plant.agent.ok("down", "nova", "--for", "20m", "--reason", "schema")
    plant.agent.kill()
    text = DAMAGE[damage](older if damage == "older" else path.read_text())
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with Load(plant.port["nova"]) as load:
        plant.agent.start()
        service = plant.agent.service("nova")
        assert service["mode"] == "down"
        assert service["reason"] == "schema"
        assert plant.agent.node("ctl2")["state"] == "drained"
        assert plant.agent.node("ctl2")["reason"] == "kernel"
    assert load.statuses() == {503}
    plant.agent.kill()
    plant.agent.start()  # it was stored again
    assert plant.agent.service("nova")["mode"] == "down"
    plant.agent.ok("up", "nova")
    plant.agent.ok("ready", "ctl2")
    assert ask(plant.port["nova"]).status == 200


def test_the_whole_state_folder_deleted(plant):
    """With intent and files gone, the running HAProxy still knows; the files are put back from it."""
    plant.agent.ok("down", "nova")
    plant.agent.kill()
    (plant.folder / "intent.json").unlink()
    for file in plant.state.iterdir():
        file.unlink()
    plant.agent.start()
    assert plant.agent.service("nova")["mode"] == "down"
    assert ask(plant.port["nova"]).status == 503
    assert "=intent/service/nova" in (plant.state / "guard-v1.map").read_text()


def test_nothing_known_touches_nothing(plant):
    """No intent, no files, no HAProxy: the agent says so, refuses commands, and learns once HAProxy is there."""
    plant.agent.ok("down", "nova")
    plant.agent.kill()
    (plant.folder / "intent.json").write_text("garbage")
    saved = (plant.state / "guard-v1.map").read_text()
    (plant.state / "guard-v1.map").unlink()
    plant.haproxy.kill()
    plant.agent.start(in_sync=False)
    eventually(lambda: "nothing is touched" in plant.agent.status()["trouble"], "it says so")
    refused = plant.agent.lbctl("up", "nova")
    assert refused.returncode == 1
    assert not (plant.state / "guard-v1.map").exists()
    (plant.state / "guard-v1.map").write_text(saved)
    plant.haproxy.start()
    eventually(lambda: plant.agent.status()["haproxy"]["in_sync"], "it learned")
    assert plant.agent.service("nova")["mode"] == "down"
    assert ask(plant.port["nova"]).status == 503


def test_a_converged_system_has_no_difference(plant):
    """Ticks on a quiet system write nothing and tell HAProxy nothing."""
    plant.agent.ok("drain", "ctl1")
    plant.agent.ok("down", "nova")
    stamps = {p.name: p.stat().st_mtime_ns for p in plant.state.iterdir()}
    intent = (plant.folder / "intent.json").stat().st_mtime_ns
    began = time.time()
    eventually(lambda: time.time() > began + 3, "three ticks")
    assert {p.name: p.stat().st_mtime_ns for p in plant.state.iterdir()} == stamps
    assert (plant.folder / "intent.json").stat().st_mtime_ns == intent
    metrics = ask(plant.agent.metrics_port, path="/metrics").body.decode()
    assert "lbagent_drift_repaired_total 0.0" in metrics
    assert "lbagent_reconcile_errors_total 0.0" in metrics


def test_sighup_rereads_and_keeps_the_old_when_bad(plant):
    plant.agent.ok("down", "nova")
    plant.agent.config.write_text("services: {nova: {backends: 3}}")
    os.kill(plant.agent.process.pid, signal.SIGHUP)
    eventually(lambda: "the old configuration stays in force" in plant.agent.log.read_text(), "it complains")
    assert "$.services.nova.backends" in plant.agent.log.read_text()
    assert plant.agent.service("nova")["mode"] == "down"
    plant.agent.settings["services"] = {"keystone": {}}
    plant.agent.write()
    os.kill(plant.agent.process.pid, signal.SIGHUP)
    eventually(lambda: plant.agent.service("nova")["orphan"], "nova is no longer configured")
    assert ask(plant.port["nova"]).status == 503
    plant.agent.ok("up", "nova")
    assert ask(plant.port["nova"]).status == 200


def test_a_second_agent_is_refused(plant):
    import subprocess  # noqa: PLC0415

    from tests.lab.plant import BIN  # noqa: PLC0415

    second = subprocess.run(
        [BIN / "lbagent", "--config", str(plant.agent.config)], capture_output=True, text=True, timeout=20, check=False
    )
    assert second.returncode == 1
    assert "another lbagent serves" in second.stderr
