"""lbctl: clear lines and the right exit code for everything that can be typed wrong, and what people look at."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time

import pytest

from tests.lab.agent import BIN
from tests.lab.clients import ask
from tests.lab.one_haproxy import Lab
from tests.lab.wait import eventually


@pytest.fixture(scope="module")
def shared():
    made = Lab(services=("nova", "keystone"))
    yield made.start()
    made.close()


WRONG = [
    # (arguments, exit code, words of the one line)
    (["drain", "ctl9"], 2, ["ctl9", "ctl1, ctl2, ctl3"]),
    (["ready", "ctl9"], 2, ["ctl9"]),
    (["drain", "ctl1", "--service", "glance"], 2, ["glance", "keystone, nova"]),
    (["drain", "ctl1", "--deadline", "soon"], 2, ["deadline", "soon", "20m"]),
    (["drain", "ctl1", "--deadline", "-5m"], 2, ["deadline"]),
    (["ready", "ctl1", "--timeout", "0s"], 2, ["timeout"]),
    (["drain", "ctl1", "--last", "maybe"], 2, ["--last"]),
    (["down", "glance"], 2, ["glance", "keystone, nova"]),
    (["down", "nova", "glance", "swift"], 2, ["glance", "swift"]),
    (["down", "nova", "--for", "20 minutes"], 2, ["for", "20 minutes"]),
    (["down", "nova", "--for", "1e9h"], 2, ["for"]),
    (["down", "nova", "--for", "9999d"], 2, ["for"]),
    (["down", "nova", "--until", "2020-01-01T00:00:00Z"], 2, ["until", "past"]),
    (["down", "nova", "--until", "tomorrow"], 2, ["until", "is not a time such as"]),
    (["down", "nova", "--at", "2020-01-01T00:00:00Z"], 2, ["at", "past"]),
    (["down", "nova", "--at", "2098-01-01T00:00:00Z", "--until", "2097-01-01T00:00:00Z"], 2, ["until"]),
    (["down", "nova", "--for", "5m", "--until", "2097-01-01T00:00:00Z"], 2, ["for and until"]),
    (["read-only", "nova; show info"], 2, ["nova; show info"]),
    (["down", "no\nva"], 2, ["no\\nva"]),
    (["up", "../nova"], 2, ["../nova"]),
    (["down"], 2, ["SERVICE"]),
    (["drain"], 2, ["NODE"]),
    (["frobnicate"], 2, ["frobnicate"]),
    (["status", "--nope"], 2, ["--nope"]),
    (["run", "--", "true"], 2, ["--drain, --down or --read-only"]),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_what_is_typed_wrong(shared, arguments, code, words):
    before = shared.agent.status()["revision"]
    done = shared.agent.lbctl(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert len([r for r in done.stderr.splitlines() if r and not r.startswith(("Usage:", "Try "))]) == 1
    assert shared.agent.status()["revision"] == before


def test_no_agent(shared, tmp_path):
    """Exit 5: no socket, a socket nobody listens on, and one whose agent is stopped, each within five seconds or so."""
    deaf = tmp_path / "deaf"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(deaf))
    for path in (tmp_path / "none", deaf):
        done = shared.agent.lbctl("--socket", str(path), "status")
        assert done.returncode == 5
        assert "systemctl status lbagent" in done.stderr
    shared.agent.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert shared.agent.lbctl("down", "nova").returncode == 5
        assert time.monotonic() - began < 8
    finally:
        shared.agent.process.send_signal(signal.SIGCONT)
    eventually(lambda: shared.agent.service("nova")["mode"] in ("up", "down"), "it goes on")
    shared.agent.ok("up", "nova")


def _as(user: str, shared: Lab, *arguments: str, groups: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    entry = pwd.getpwnam(user)
    return subprocess.run(
        [BIN / "lbctl", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=shared.agent.env(),
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=groups or [],
    )


@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="only root can become somebody else")
def test_who_may(make_lab):
    """Permission comes from the kernel's word: admins change, viewers look, others neither; exit 6."""
    lab = make_lab(start=False)
    lab.agent.settings["control"] |= {"admins": ["root", "@adm"], "viewers": ["daemon"]}
    lab.agent.write()
    lab.start()
    member = _as("nobody", lab, "status", groups=["adm"])
    assert member.returncode == 0, member.stderr
    assert _as("daemon", lab, "status").returncode == 0
    refused = _as("daemon", lab, "down", "nova")
    assert refused.returncode == 6
    assert "daemon may not change anything" in refused.stderr
    assert _as("nobody", lab, "status").returncode == 6
    lab.agent.socket.chmod(0o600)
    closed = _as("nobody", lab, "status")
    assert closed.returncode == 6
    assert "Traceback" not in closed.stderr
    assert ask(lab.port["nova"]).status == 200


def test_status_for_people(shared):
    shared.agent.ok("drain", "ctl1", "--reason", "kernel 6.1")
    shared.agent.ok("down", "nova", "--for", "20m", "--reason", "schema")
    text = shared.agent.ok("status")
    for words in ("in sync", "guard present", "drained", "kernel 6.1", "down", "schema", "root", "2/3 ready"):
        assert words in text
    shared.agent.ok("up", "nova")
    shared.agent.ok("ready", "ctl1")


def test_status_json_has_the_contracts_fields(shared):
    status = shared.agent.status()
    assert {"node", "version", "haproxy", "services", "nodes"} <= set(status)
    assert {"up", "version", "pid", "old_workers", "in_sync", "guard"} <= set(status["haproxy"])
    assert status["haproxy"]["guard"] == "present"
    assert status["haproxy"]["old_workers"] == 0
    [nova] = [s for s in status["services"] if s["name"] == "nova"]
    assert {"mode", "start", "until", "reason", "by", "sessions", "quiesced", "servers"} <= set(nova)
    named = {"backend", "server", "node", "admin", "health", "sessions", "foreign"}
    assert named <= set(nova["servers"][0])
    assert {"name", "state", "since", "deadline", "sessions", "reason", "by"} <= set(status["nodes"][0])


def test_status_watch_goes_on(shared):
    watching = shared.agent.begin("status", "--watch", "--json")
    try:
        assert json.loads(watching.stdout.readline())["node"] == "ctl1"
        shared.agent.ok("down", "nova")
        eventually(lambda: '"mode":"down"' in watching.stdout.readline().replace(": ", ":"), "it sees the change")
    finally:
        watching.kill()
        watching.communicate()
        shared.agent.ok("up", "nova")


def test_json_of_an_operation(shared):
    end = json.loads(shared.agent.ok("drain", "ctl1", "--json"))
    assert (end["state"], end["exit"], end["nodes"], end["by"]) == ("done", 0, ["ctl1"], "root")
    shared.agent.ok("ready", "ctl1")


def test_detach_and_ctrl_c_leave_it_going(shared):
    slow = [http.client.HTTPConnection("127.0.0.1", shared.port["nova"], timeout=20) for _ in range(3)]
    for connection in slow:
        connection.request("GET", "/wait/60000")
    eventually(lambda: shared.agent.service("nova")["sessions"] == 3, "three requests are open")
    assert "accepted" in shared.agent.ok("drain", "ctl1", "--detach")
    waiting = shared.agent.begin("drain", "ctl1")
    eventually(lambda: "waiting" in waiting.stderr.readline(), "it waits")
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=10)
    assert waiting.returncode == 130
    assert "lbctl ready ctl1" in err
    assert "Traceback" not in err
    assert shared.agent.node("ctl1")["state"] == "draining"
    shared.let_go()
    eventually(lambda: shared.agent.node("ctl1")["state"] == "drained", "the drain went on")
    shared.agent.ok("ready", "ctl1")


def test_run_around_a_command(shared):
    """In maintenance while the command runs, out of it after; its exit status is ours."""
    seen = shared.folder / "seen"
    command = f"curl -s -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{shared.port['nova']}/ > {seen}; exit 7"
    done = shared.agent.lbctl(
        "run", "--drain", "ctl1", "--down", "nova", "--for", "5m", "--reopen-on-failure", "--", "sh", "-c", command
    )
    assert done.returncode == 7, done.stderr
    assert seen.read_text() == "503"
    assert shared.agent.service("nova")["mode"] == "up"
    assert shared.agent.node("ctl1")["state"] == "ready"


def test_history(shared):
    shared.agent.ok("down", "keystone", "--reason", "for the history")
    shared.agent.ok("up", "keystone")
    last = json.loads(shared.agent.ok("history", "--json"))[-2:]
    assert [(e["command"], e["by"], e["state"]) for e in last] == [("down", "root", "done"), ("up", "root", "done")]
    assert last[0]["reason"] == "for the history"
    assert "for the history" in shared.agent.ok("history")


def test_the_socket_speaks_http(shared):
    """curl is a client: the short forms, errors as JSON, what is too large."""

    def curl(*arguments: str) -> tuple[int, dict]:
        done = subprocess.run(
            ["curl", "-sS", "--unix-socket", str(shared.agent.socket), "-w", "\n%{http_code}", *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        body, _, code = done.stdout.rpartition("\n")
        return int(code), json.loads(body)

    at = "http://localhost/v1"
    code, operation = curl("-X", "PUT", f"{at}/services/nova/mode", "-d", '{"mode": "down", "for": "20m"}')
    assert code == 202
    assert curl(f"{at}/operations/{operation['id']}")[1]["command"] == "down"
    assert curl("-X", "PUT", f"{at}/services/nova/mode", "-d", '{"mode": "up"}')[0] == 202
    assert curl("-X", "PUT", f"{at}/nodes/ctl1/state", "-d", '{"state": "drained", "services": ["nova"]}')[0] == 202
    assert curl("-X", "PUT", f"{at}/nodes/ctl1/state", "-d", '{"state": "ready"}')[0] == 202
    for arguments, status, error in (
        (["-X", "PUT", f"{at}/services/nova/mode", "-d", '{"mode": "sideways"}'], 400, "bad_request"),
        (["-X", "PUT", f"{at}/services/nova/mode", "-d", "{"], 400, "bad_request"),
        (["-X", "PUT", f"{at}/services/glance/mode", "-d", '{"mode": "down"}'], 404, "unknown_service"),
        ([f"{at}/nothing"], 404, "not_found"),
        ([f"{at}/operations/1"], 404, "not_found"),
        (["-X", "DELETE", f"{at}/status"], 405, "method_not_allowed"),
        (["-d", "x" * 70000, f"{at}/changes"], 413, "too_large"),
        (["-d", '{"services": {"nova": {"mode": "down"}}, "if_revision": 1}', f"{at}/changes"], 409, "revision"),
        (["-d", '{"services": {"nova": {"mode": "down"}}, "typo": 1}', f"{at}/changes"], 400, "bad_request"),
    ):
        code, body = curl(*arguments)
        assert (code, body["error"]["code"]) == (status, error), arguments
        assert body["error"]["message"]
    assert "/v1/changes" in curl(f"{at}/openapi.json")[1]["paths"]
    assert curl(f"{at}/history")[0] == 200
    eventually(lambda: shared.agent.node("ctl1")["state"] == "ready", "the node is back")


def test_completion_knows_names(shared):
    env = {**shared.agent.env(), "_LBCTL_COMPLETE": "bash_complete", "COMP_WORDS": "lbctl drain c", "COMP_CWORD": "2"}
    done = subprocess.run([BIN / "lbctl"], capture_output=True, text=True, env=env, timeout=20, check=False)
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == {"ctl1", "ctl2", "ctl3"}


METRICS = [
    "build_info",
    "haproxy_up",
    "haproxy_in_sync",
    "haproxy_guard",
    "haproxy_old_workers",
    "haproxy_reloads_total",
    "service_mode",
    "service_window_start_timestamp_seconds",
    "service_window_end_timestamp_seconds",
    "service_sessions",
    "service_quiesced",
    "node_state",
    "node_drain_started_timestamp_seconds",
    "node_drain_deadline_timestamp_seconds",
    "server_sessions",
    "server_admin_state",
    "reconcile_duration_seconds_bucket",
    "reconcile_errors_total",
    "drift_repaired_total",
    "commands_total",
]


def test_every_metric_is_served_and_promtool_is_content(shared):
    shared.agent.ok("down", "nova", "--for", "20m")
    slow = [http.client.HTTPConnection("127.0.0.1", shared.port["keystone"], timeout=20) for _ in range(3)]
    for connection in slow:
        connection.request("GET", "/wait/60000")
    eventually(lambda: shared.agent.service("keystone")["sessions"] == 3, "requests are open")
    shared.agent.ok("drain", "ctl1", "--detach")
    text = ask(shared.agent.metrics_port, path="/metrics").body.decode()
    names = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert {f"lbagent_{name}" for name in METRICS} <= names
    assert 'lbagent_service_mode{mode="down",service="nova"} 1.0' in text
    assert 'lbagent_node_state{node="ctl1",state="draining"} 1.0' in text
    assert 'lbagent_server_sessions{backend="keystone",node="ctl1",server="ctl1"} 1.0' in text
    assert shutil.which("promtool"), "promtool is in Debian's prometheus package"
    lint = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")
    shared.let_go()
    eventually(lambda: shared.agent.node("ctl1")["state"] == "drained", "the drain ends")
    shared.agent.ok("ready", "ctl1")
    shared.agent.ok("up", "nova")


def test_bad_configurations(tmp_path):
    """lbagent --check: one line a problem, each with its path, exit 2, no traceback."""
    config = tmp_path / "lbagent.yaml"
    config.write_text("services: {nova: {backends: [a b], min_ready: -1}, x/y: {}}\nretry_after: {floor: x}\nodd: 1\n")
    done = subprocess.run(
        [BIN / "lbagent", "--check", "--config", config], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    for path in (
        "$.services.nova.backends[0]",
        "$.services.nova.min_ready",
        "$.services:",
        "$.retry_after.floor",
        "$:",
    ):
        assert path in done.stderr
    assert "Traceback" not in done.stderr
    config.write_text("")
    assert subprocess.run([BIN / "lbagent", "--check", "--config", config], timeout=20, check=False).returncode == 0
    config.unlink()
    missing = subprocess.run(
        [BIN / "lbagent", "--config", config], capture_output=True, text=True, timeout=20, check=False
    )
    assert missing.returncode == 2
    assert "no such file" in missing.stderr


def test_doctor(make_lab):
    """Content with a sound lab; names the mend for what is not sound."""
    lab = make_lab()
    sound = lab.agent.lbctl("doctor")
    assert sound.returncode == 0, sound.stdout
    for words in ("level admin", "guard: in every backend", "the map and 8 lists", "server-state file", "in sync"):
        assert words in sound.stdout
    text = lab.haproxy.config.read_text()
    (lab.state / "allow-v1.acl").chmod(0o600)
    lab.agent.kill()
    lab.agent.ok("haproxy", "adopt", "--remove", "--write", str(lab.haproxy.config))
    lab.haproxy.config.write_text(lab.haproxy.config.read_text().replace("  hard-stop-after 60s\n", ""))
    sick = lab.agent.lbctl("doctor")
    assert sick.returncode == 1
    for words in ("chmod", "hard-stop-after", "no agent answers", "without it a reload of HAProxy ends every drain"):
        assert words in sick.stdout
    lab.haproxy.reload()
    assert "lbctl haproxy adopt" in lab.agent.lbctl("doctor").stdout
    lab.haproxy.config.write_text(text.replace("level admin", "level operator"))
    assert "reload HAProxy" in lab.agent.lbctl("doctor").stdout
    lab.haproxy.reload()
    assert "write `level admin`" in lab.agent.lbctl("doctor").stdout
    lab.haproxy.kill()
    dead = lab.agent.lbctl("doctor", "--json")
    assert dead.returncode == 1
    assert any(f["about"] == "runtime socket" and f["verdict"] == "wrong" for f in json.loads(dead.stdout))


def test_guard_missing_is_refused_with_the_remedy(make_lab):
    lab = make_lab(guard=False, start=False)
    lab.haproxy.start()
    lab.agent.start()
    assert lab.agent.status()["haproxy"]["guard"] == "missing"
    refused = lab.agent.lbctl("down", "nova")
    assert refused.returncode == 3
    assert "lbctl haproxy adopt" in refused.stderr
    assert "nova" in refused.stderr
    refused = lab.agent.lbctl("drain", "ctl1")
    assert refused.returncode == 3
    assert "would forget this drain at its next reload" in refused.stderr
    lab.agent.ok("drain", "ctl1", "--until-reload")
    assert lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "8"
