"""Rolling: given three nodes under load, when the operator drains one and brings it back, clients notice nothing."""

from __future__ import annotations

import http.client
import time

import pytest

from tests.lab.plant import Load, ask, eventually


def test_patch_a_node_under_load(plant):
    """Drain, stop the node's servers, start them, ready: every answer 200, and none on the node after drain."""
    with Load(plant.port["nova"]) as load:
        plant.agent.ok("drain", "ctl2", "--reason", "kernel")
        drained = time.time()
        for origin in plant.origins["ctl2"].values():
            origin.stop()
        seen = len(load.results)
        eventually(lambda: len(load.results) > seen + 200, "the load goes on")
        assert plant.requests("ctl2", since=drained) == []
        assert plant.agent.node("ctl2")["state"] == "drained"
        for origin in plant.origins["ctl2"].values():
            origin.start()
        plant.agent.ok("ready", "ctl2")
        ready = time.time()
        eventually(lambda: plant.requests("ctl2", since=ready), "the node serves again")
    assert load.statuses() == {200}


def test_drain_waits_for_open_requests(plant):
    """A request in flight is named, and drain returns only after it has ended."""
    slow = [http.client.HTTPConnection("127.0.0.1", plant.port["nova"], timeout=20) for _ in range(3)]
    for connection in slow:
        connection.request("GET", "/wait/60000")
    eventually(lambda: plant.agent.service("nova")["sessions"] == 3, "three requests are open")
    draining = plant.agent.begin("drain", "ctl1")
    eventually(lambda: "nova: nova/ctl1: 1 request open" in draining.stderr.readline(), "the request is named")
    assert draining.poll() is None
    plant.let_go()
    draining.communicate(timeout=20)
    returned = time.time()
    assert draining.returncode == 0
    [entry] = plant.requests("ctl1")
    assert entry.ended is not None and entry.ended <= returned
    assert {connection.getresponse().status for connection in slow} == {200}


def test_deadline_leaves_it_draining(plant):
    """Exit 4 says what is open; the node goes on draining, and ends drained by itself."""
    connections = [http.client.HTTPConnection("127.0.0.1", plant.port["nova"], timeout=20) for _ in range(3)]
    for connection in connections:
        connection.request("GET", "/wait/60000")
    eventually(lambda: plant.agent.service("nova")["sessions"] == 3, "three requests are open")
    done = plant.agent.lbctl("drain", "ctl1", "--deadline", "1s")
    assert done.returncode == 4
    assert "nova: nova/ctl1: 1 request open" in done.stderr
    assert plant.agent.node("ctl1")["state"] == "draining"
    plant.let_go()
    eventually(lambda: plant.agent.node("ctl1")["state"] == "drained", "it ends drained")


def test_kill_cuts_what_is_left(plant):
    connections = [http.client.HTTPConnection("127.0.0.1", plant.port["nova"], timeout=20) for _ in range(3)]
    for connection in connections:
        connection.request("GET", "/wait/20000")
    eventually(lambda: plant.agent.service("nova")["sessions"] == 3, "three requests are open")
    assert plant.agent.lbctl("drain", "ctl1", "--deadline", "1s", "--kill").returncode == 0
    assert plant.agent.node("ctl1")["sessions"] == 0


def test_maint_ends_in_maint(plant):
    plant.agent.ok("drain", "ctl1", "--maint")
    assert plant.haproxy.server("nova/ctl1")["srv_admin_state"] == "1"
    plant.agent.ok("ready", "ctl1")
    assert plant.haproxy.server("nova/ctl1")["srv_admin_state"] == "0"


@pytest.mark.parametrize("maint", [[], ["--maint"]])
def test_back_only_after_its_checks_pass(plant, maint):
    """A node whose server is sick stays drained as a whole: exit 4, no client sees it."""
    plant.agent.ok("drain", "ctl1", *maint)
    plant.origins["ctl1"]["keystone"].sick = True
    since = time.time()
    with Load(plant.port["nova"]) as load:
        done = plant.agent.lbctl("ready", "ctl1", "--timeout", "2s")
        assert done.returncode == 4, done.stderr
        assert "keystone/ctl1: stays drained" in done.stderr
    assert load.statuses() == {200}
    assert plant.requests("ctl1", since=since) == []
    assert plant.agent.node("ctl1")["state"] == "drained"
    plant.origins["ctl1"]["keystone"].sick = False
    plant.agent.ok("ready", "ctl1")
    assert plant.agent.node("ctl1")["state"] == "ready"


def test_last_ready_server_is_refused(plant):
    """Exit 3 names the services, the backends and the ways out; nothing has changed."""
    plant.agent.ok("drain", "ctl1")
    plant.agent.ok("drain", "ctl2", "--service", "keystone")
    refused = plant.agent.lbctl("drain", "ctl3")
    assert refused.returncode == 3
    for words in ("keystone", "--last down", "--force"):
        assert words in refused.stderr
    assert "nova:" not in refused.stderr
    assert plant.agent.node("ctl3")["state"] == "ready"
    assert plant.agent.lbctl("drain", "ctl3", "--force").returncode == 0


def test_last_down_closes_first(make_plant):
    """A single controller: --last down turns the drain into a polite 503."""
    plant = make_plant(nodes=1)
    assert plant.agent.lbctl("drain", "ctl1").returncode == 3
    with Load(plant.port["nova"]) as load:
        plant.agent.ok("drain", "ctl1", "--last", "down")
        drained = time.time()
        eventually(lambda: load.statuses(since=drained), "the load goes on")
    assert load.statuses() == {200, 503}
    assert load.statuses(since=drained) == {503}
    assert plant.agent.service("nova")["mode"] == "down"
    plant.agent.ok("ready", "ctl1")
    plant.agent.ok("up", "nova", "keystone")
    assert ask(plant.port["nova"]).status == 200


def test_backup_servers_do_not_count(make_plant):
    plant = make_plant(nodes=1, check="check inter 200", backend={"nova": "  server spare 127.0.0.1:1 backup\n"})
    refused = plant.agent.lbctl("drain", "ctl1", "--service", "nova")
    assert refused.returncode == 3, refused.stderr


def test_foreign_states_are_left_alone(plant):
    """A maint and a drain by somebody else: shown, not ended by ready, never counted as ours."""
    plant.haproxy.run("set server nova/ctl1 state maint; set server keystone/ctl1 state drain")
    eventually(lambda: plant.agent.service("nova")["servers"][0]["foreign"], "it is shown")
    assert "nova/ctl1 is in maint, set by somebody else" in plant.agent.ok("status")
    plant.agent.ok("drain", "ctl1")
    ready = plant.agent.lbctl("ready", "ctl1")
    assert ready.returncode == 0
    assert "nova/ctl1 stays in maint" in ready.stderr
    assert plant.haproxy.server("nova/ctl1")["srv_admin_state"] == "1"
    assert plant.haproxy.server("keystone/ctl1")["srv_admin_state"] == "8"


def test_drift_is_repaired_and_counted(plant):
    """Somebody makes a drained server ready, or empties the map: put right within two ticks."""
    plant.agent.ok("drain", "ctl1")
    plant.agent.ok("down", "keystone")
    plant.haproxy.run("set server nova/ctl1 state ready")
    eventually(lambda: plant.haproxy.server("nova/ctl1")["srv_admin_state"] == "8", "the drain is back")
    plant.haproxy.run(f"clear map {plant.state}/guard-v1.map")
    eventually(lambda: ask(plant.port["keystone"]).status == 503, "keystone is closed again")
    (plant.state / "guard-v1.map").unlink()
    eventually((plant.state / "guard-v1.map").exists, "the file is back")
    metrics = ask(plant.agent.metrics_port, path="/metrics").body.decode()
    assert float(next(r for r in metrics.splitlines() if r.startswith("lbagent_drift_repaired_total")).split()[1]) >= 3


@pytest.mark.parametrize(
    "sticky",
    ["  cookie SRV insert indirect\n", "  stick-table type ip size 10k expire 10m\n  stick on src\n"],
    ids=["cookie", "stick-table"],
)
def test_sticky_clients_move_too(make_plant, sticky):
    plant = make_plant(backend={"nova": sticky})
    first = ask(plant.port["nova"])
    node = first.json["origin"].split("/")[0]
    cookie = {"Cookie": first.headers["set-cookie"].split(";")[0]} if "set-cookie" in first.headers else {}
    assert {ask(plant.port["nova"], headers=cookie).json["origin"] for _ in range(4)} == {f"{node}/nova"}
    plant.agent.ok("drain", node)
    since = time.time()
    for _ in range(12):
        assert ask(plant.port["nova"], headers=cookie).status == 200
    assert plant.requests(node, since=since) == []
    back = plant.agent.lbctl("ready", node)
    assert back.returncode == 0, back.stderr
    assert plant.haproxy.server(f"nova/{node}")["srv_admin_state"] == "0"


def test_tcp_backends_are_left_alone(make_plant):
    """Their servers stay as they are unless a service lists the backend; closing them is refused, not pretended."""
    database = "backend mysql\n  mode tcp\n  server ctl1 127.0.0.1:1\n  server ctl2 127.0.0.1:2\n"
    plant = make_plant(extra=database)
    plant.agent.ok("drain", "ctl1")
    assert plant.haproxy.server("mysql/ctl1")["srv_admin_state"] == "0"
    plant.agent.ok("ready", "ctl1")
    plant.agent.settings["services"] = {"nova": {}, "db": {"backends": ["mysql"]}}
    plant.agent.stop()
    plant.agent.write()
    plant.agent.start()
    refused = plant.agent.lbctl("down", "db")
    assert refused.returncode == 3
    assert "mysql" in refused.stderr
    plant.agent.ok("drain", "ctl1")
    assert plant.haproxy.server("mysql/ctl1")["srv_admin_state"] == "8"


def test_servers_without_checks_return_at_once(make_plant):
    plant = make_plant(check="")
    plant.agent.ok("drain", "ctl1")
    plant.agent.ok("ready", "ctl1")
    assert plant.haproxy.server("nova/ctl1")["srv_admin_state"] == "0"
    assert plant.agent.service("nova")["servers"][0]["health"] == "none"


def test_an_agent_check_cannot_cancel_a_drain(make_plant):
    """An agent-check that answers "ready" is off while its server is drained, and on again after."""
    import socketserver  # noqa: PLC0415
    import threading  # noqa: PLC0415

    class Ready(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"ready up\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        plant = make_plant(check=f"check inter 200 rise 2 agent-check agent-port {port} agent-inter 100")
        plant.agent.ok("drain", "ctl1")
        since = time.time()
        eventually(lambda: time.time() > since + 1, "ten agent checks might have run")
        assert plant.haproxy.server("nova/ctl1")["srv_admin_state"] == "8"
        plant.agent.ok("ready", "ctl1")
        assert int(plant.haproxy.server("nova/ctl1")["srv_agent_state"]) & 4
        server.shutdown()
