"""Rolling: given three nodes under load, when the operator drains one and brings it back, clients notice nothing."""

from __future__ import annotations

import http.client
import time

import pytest

from tests.lab.clients import Load, ask
from tests.lab.origins import Origin
from tests.lab.wait import eventually


def test_patch_a_node_under_load(lab):
    """Drain, stop the node's servers, start them, ready: every answer 200, and none on the node after drain."""
    with Load(lab.port["nova"]) as load:
        lab.agent.ok("drain", "ctl2", "--reason", "kernel")
        drained = time.time()
        for origin in lab.origins["ctl2"].values():
            origin.stop()
        seen = len(load.results)
        eventually(lambda: len(load.results) > seen + 200, "the load goes on")
        assert lab.requests("ctl2", since=drained) == []
        assert lab.agent.node("ctl2")["state"] == "drained"
        for origin in lab.origins["ctl2"].values():
            origin.start()
        lab.agent.ok("ready", "ctl2")
        ready = time.time()
        eventually(lambda: lab.requests("ctl2", since=ready), "the node serves again")
    assert load.statuses() == {200}


def test_drain_waits_for_open_requests(lab):
    """A request in flight is named, and drain returns only after it has ended."""
    slow = [http.client.HTTPConnection("127.0.0.1", lab.port["nova"], timeout=20) for _ in range(3)]
    for connection in slow:
        connection.request("GET", "/wait/60000")
    eventually(lambda: lab.agent.service("nova")["sessions"] == 3, "three requests are open")
    draining = lab.agent.begin("drain", "ctl1")
    eventually(lambda: "nova: nova/ctl1: 1 request open" in draining.stderr.readline(), "the request is named")
    assert draining.poll() is None
    lab.let_go()
    draining.communicate(timeout=20)
    returned = time.time()
    assert draining.returncode == 0
    [entry] = lab.requests("ctl1")
    assert entry.ended is not None and entry.ended <= returned
    assert {connection.getresponse().status for connection in slow} == {200}


def test_deadline_leaves_it_draining(lab):
    """Exit 4 says what is open; the node goes on draining, and ends drained by itself."""
    connections = [http.client.HTTPConnection("127.0.0.1", lab.port["nova"], timeout=20) for _ in range(3)]
    for connection in connections:
        connection.request("GET", "/wait/60000")
    eventually(lambda: lab.agent.service("nova")["sessions"] == 3, "three requests are open")
    done = lab.agent.lbctl("drain", "ctl1", "--deadline", "1s")
    assert done.returncode == 4
    assert "nova: nova/ctl1: 1 request open" in done.stderr
    assert lab.agent.node("ctl1")["state"] == "draining"
    lab.let_go()
    eventually(lambda: lab.agent.node("ctl1")["state"] == "drained", "it ends drained")


def test_kill_cuts_what_is_left(lab):
    connections = [http.client.HTTPConnection("127.0.0.1", lab.port["nova"], timeout=20) for _ in range(3)]
    for connection in connections:
        connection.request("GET", "/wait/20000")
    eventually(lambda: lab.agent.service("nova")["sessions"] == 3, "three requests are open")
    assert lab.agent.lbctl("drain", "ctl1", "--deadline", "1s", "--kill").returncode == 0
    assert lab.agent.node("ctl1")["sessions"] == 0


def test_maint_ends_in_maint(lab):
    lab.agent.ok("drain", "ctl1", "--maint")
    assert lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "1"
    lab.agent.ok("ready", "ctl1")
    assert lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "0"


@pytest.mark.parametrize("maint", [[], ["--maint"]])
def test_back_only_after_its_checks_pass(lab, maint):
    """A node whose server is sick stays drained as a whole: exit 4, no client sees it."""
    lab.agent.ok("drain", "ctl1", *maint)
    lab.origins["ctl1"]["keystone"].sick = True
    since = time.time()
    with Load(lab.port["nova"]) as load:
        done = lab.agent.lbctl("ready", "ctl1", "--timeout", "2s")
        assert done.returncode == 4, done.stderr
        assert "keystone/ctl1: stays drained" in done.stderr
    assert load.statuses() == {200}
    assert lab.requests("ctl1", since=since) == []
    assert lab.agent.node("ctl1")["state"] == "drained"
    lab.origins["ctl1"]["keystone"].sick = False
    lab.agent.ok("ready", "ctl1")
    assert lab.agent.node("ctl1")["state"] == "ready"


def test_last_ready_server_is_refused(lab):
    """Exit 3 names the services, the backends and the ways out; nothing has changed."""
    lab.agent.ok("drain", "ctl1")
    lab.agent.ok("drain", "ctl2", "--service", "keystone")
    refused = lab.agent.lbctl("drain", "ctl3")
    assert refused.returncode == 3
    for words in ("keystone", "--last down", "--force"):
        assert words in refused.stderr
    assert "nova:" not in refused.stderr
    assert lab.agent.node("ctl3")["state"] == "ready"
    assert lab.agent.lbctl("drain", "ctl3", "--force").returncode == 0


def test_last_down_closes_first(make_lab):
    """A single controller: --last down turns the drain into a polite 503."""
    lab = make_lab(nodes=1)
    assert lab.agent.lbctl("drain", "ctl1").returncode == 3
    with Load(lab.port["nova"]) as load:
        lab.agent.ok("drain", "ctl1", "--last", "down")
        drained = time.time()
        eventually(lambda: load.statuses(since=drained), "the load goes on")
    assert load.statuses() == {200, 503}
    assert load.statuses(since=drained) == {503}
    assert lab.agent.service("nova")["mode"] == "down"
    lab.agent.ok("ready", "ctl1")
    lab.agent.ok("up", "nova", "keystone")
    assert ask(lab.port["nova"]).status == 200


def test_a_backup_takes_over_where_haproxy_would_use_it(make_lab):
    spare = Origin("spare").start()
    lab = make_lab(nodes=1, backend={"nova": f"  server spare 127.0.0.1:{spare.port} check inter 200 backup\n"})
    used = {s["server"]: s["used"] for s in lab.agent.service("nova")["servers"]}
    assert used == {"ctl1": True, "spare": False}
    lab.agent.ok("drain", "ctl1", "--service", "nova")
    drained = time.time()
    assert {ask(lab.port["nova"]).status for _ in range(10)} == {200}
    assert len(spare.requests(drained)) == 10
    assert not lab.origins["ctl1"]["nova"].requests(drained)
    lab.agent.ok("ready", "ctl1")
    spare.stop()
    eventually(lambda: any(s["health"] == "down" for s in lab.agent.service("nova")["servers"]), "it is down")
    assert lab.agent.lbctl("drain", "ctl1", "--service", "nova").returncode == 3


def test_foreign_states_are_left_alone(lab):
    """A maint and a drain by somebody else: shown, not ended by ready, never counted as ours."""
    lab.haproxy.run("set server nova/ctl1 state maint; set server keystone/ctl1 state drain")
    eventually(lambda: lab.agent.service("nova")["servers"][0]["foreign"], "it is shown")
    assert "nova/ctl1 is in maint, set by somebody else" in lab.agent.ok("status")
    lab.agent.ok("drain", "ctl1")
    ready = lab.agent.lbctl("ready", "ctl1")
    assert ready.returncode == 0
    assert "nova/ctl1 stays in maint" in ready.stderr
    assert lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "1"
    assert lab.haproxy.server("keystone/ctl1")["srv_admin_state"] == "8"


def test_drift_is_repaired_and_counted(lab):
    """Somebody makes a drained server ready, or empties the map: put right within two ticks."""
    lab.agent.ok("drain", "ctl1")
    lab.agent.ok("down", "keystone")
    lab.haproxy.run("set server nova/ctl1 state ready")
    eventually(lambda: lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "8", "the drain is back")
    lab.haproxy.run(f"clear map {lab.state}/guard-v1.map")
    eventually(lambda: ask(lab.port["keystone"]).status == 503, "keystone is closed again")
    (lab.state / "guard-v1.map").unlink()
    eventually((lab.state / "guard-v1.map").exists, "the file is back")
    metrics = ask(lab.agent.metrics_port, path="/metrics").body.decode()
    assert float(next(r for r in metrics.splitlines() if r.startswith("lbagent_drift_repaired_total")).split()[1]) >= 3


@pytest.mark.parametrize(
    "sticky",
    ["  cookie SRV insert indirect\n", "  stick-table type ip size 10k expire 10m\n  stick on src\n"],
    ids=["cookie", "stick-table"],
)
def test_sticky_clients_move_too(make_lab, sticky):
    lab = make_lab(backend={"nova": sticky})
    first = ask(lab.port["nova"])
    node = first.json["origin"].split("/")[0]
    cookie = {"Cookie": first.headers["set-cookie"].split(";")[0]} if "set-cookie" in first.headers else {}
    assert {ask(lab.port["nova"], headers=cookie).json["origin"] for _ in range(4)} == {f"{node}/nova"}
    lab.agent.ok("drain", node)
    since = time.time()
    for _ in range(12):
        assert ask(lab.port["nova"], headers=cookie).status == 200
    assert lab.requests(node, since=since) == []
    back = lab.agent.lbctl("ready", node)
    assert back.returncode == 0, back.stderr
    assert lab.haproxy.server(f"nova/{node}")["srv_admin_state"] == "0"


def test_tcp_backends_are_left_alone(make_lab):
    """Their servers stay as they are unless a service lists the backend; closing them is refused, not pretended."""
    database = "backend mysql\n  mode tcp\n  server ctl1 127.0.0.1:1\n  server ctl2 127.0.0.1:2\n"
    lab = make_lab(extra=database)
    lab.agent.ok("drain", "ctl1")
    assert lab.haproxy.server("mysql/ctl1")["srv_admin_state"] == "0"
    lab.agent.ok("ready", "ctl1")
    lab.agent.settings["services"] = {"nova": {}, "db": {"backends": ["mysql"]}}
    lab.agent.stop()
    lab.agent.write()
    lab.agent.start()
    refused = lab.agent.lbctl("down", "db")
    assert refused.returncode == 3
    assert "mysql" in refused.stderr
    lab.agent.ok("drain", "ctl1")
    assert lab.haproxy.server("mysql/ctl1")["srv_admin_state"] == "8"


def test_servers_without_checks_return_at_once(make_lab):
    lab = make_lab(check="")
    lab.agent.ok("drain", "ctl1")
    lab.agent.ok("ready", "ctl1")
    assert lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "0"
    assert lab.agent.service("nova")["servers"][0]["health"] == "none"


def test_an_agent_check_cannot_cancel_a_drain(make_lab):
    """An agent-check that answers "ready" is off while its server is drained, and on again after."""
    import socketserver  # noqa: PLC0415
    import threading  # noqa: PLC0415

    class Ready(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"ready up\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        lab = make_lab(check=f"check inter 200 rise 2 agent-check agent-port {port} agent-inter 100")
        lab.agent.ok("drain", "ctl1")
        since = time.time()
        eventually(lambda: time.time() > since + 1, "ten agent checks might have run")
        assert lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "8"
        lab.agent.ok("ready", "ctl1")
        assert int(lab.haproxy.server("nova/ctl1")["srv_agent_state"]) & 4
        server.shutdown()
