"""Three hosts, one intent: a command given anywhere holds everywhere when it has returned."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.lab.clients import Load
from tests.lab.several_haproxies import PORTS, ControlPlane, control_plane
from tests.lab.wait import eventually


@pytest.fixture
def three():
    with control_plane() as made:
        yield made


def closed(three: ControlPlane, names=None) -> list[int]:
    return [three.host[name].ask().status for name in names or three.names]


@pytest.mark.slow
def test_a_command_given_anywhere_holds_everywhere(three):
    one, two, last = three.hosts
    since = time.time()
    one.agent.ok("down", "nova", "--for", "20m", "--reason", "schema")
    answers = [host.ask() for host in three.hosts]
    assert [a.status for a in answers] == [503, 503, 503]
    assert all(1 <= int(a.headers["retry-after"]) <= 1230 for a in answers)
    assert all("schema" in a.json["error"]["message"] for a in answers)
    assert [host.ask("keystone").status for host in three.hosts] == [200, 200, 200]
    assert not [e for node in three.names for e in three.requests(node, since, "nova")]
    two.agent.ok("read-only", "nova")
    assert [host.ask().status for host in three.hosts] == [200, 200, 200]
    assert [host.ask(method="POST").status for host in three.hosts] == [503, 503, 503]
    last.agent.ok("up", "nova")
    assert [host.ask(method="POST").status for host in three.hosts] == [200, 200, 200]
    status = two.agent.status()
    eventually(three.agree, "all agree")
    assert {a["node"]: a["alive"] for a in status["agents"]} == {"ctl1": True, "ctl2": True, "ctl3": True}


@pytest.mark.slow
def test_a_drain_counts_the_requests_of_every_haproxy(three):
    one, two, _ = three.hosts
    slow = subprocess.Popen(["curl", "-s", "-o", "/dev/null", f"http://{two.address}:{PORTS['nova']}/wait/60000"])
    try:
        busy = eventually(
            lambda: next((n for n in three.names if any(e.ended is None for e in three.requests(n))), None), "it waits"
        )
        since = time.time()
        late = one.agent.lbctl("drain", busy, "--deadline", "2s")
        assert late.returncode == 4
        assert f"ctl2: nova: nova/{busy}: 1 request open" in late.stderr
        assert one.agent.node(busy)["state"] == "draining"
        assert one.agent.node(busy)["sessions"] == 1
        for host in three.hosts:
            for _ in range(6):
                assert host.ask().status == 200
        assert not three.requests(busy, since + 0.001)
        slow.kill()
        one.agent.ok("drain", busy)
        assert one.agent.node(busy)["state"] == "drained"
    finally:
        slow.kill()
        slow.wait()
    one.agent.ok("ready", busy)
    eventually(
        lambda: [host.ask() for host in three.hosts] and three.requests(busy, time.time() - 1), "it serves again"
    )


@pytest.mark.slow
def test_a_node_comes_back_only_when_every_haproxy_finds_it_well(three):
    one, _, last = three.hosts
    one.agent.ok("drain", "ctl1")
    three.origins["ctl1"]["nova"].sick = True
    late = one.agent.lbctl("ready", "ctl1", "--timeout", "2s")
    assert late.returncode == 4
    assert "nova/ctl1: stays drained" in late.stderr
    eventually(lambda: all(h.agent.node("ctl1")["state"] == "drained" for h in three.hosts), "drained as a whole")
    three.origins["ctl1"]["nova"].sick = False
    last.agent.ok("ready", "ctl1")
    assert [h.agent.node("ctl1")["state"] for h in three.hosts] == ["ready"] * 3


@pytest.mark.slow
def test_two_drains_racing_with_the_third_node_sick(three):
    """Exactly one wins, the other is refused, the service never empties; fifty times."""
    for origin in three.origins["ctl3"].values():
        origin.sick = True
    eventually(
        lambda: all(
            {s["server"]: s["health"] for s in h.agent.service("nova")["servers"]}["ctl3"] == "down"
            for h in three.hosts
        ),
        "every HAProxy finds ctl3 sick",
    )
    with Load(PORTS["nova"], host=three.hosts[2].address, clients=2, seconds=300) as load:
        for round_ in range(50):
            racing = [three.hosts[0].agent.begin("drain", "ctl1"), three.hosts[1].agent.begin("drain", "ctl2")]
            ends = [(*process.communicate(timeout=60), process.returncode) for process in racing]
            assert sorted(end[2] for end in ends) == [0, 3], (round_, ends, three.log())
            winner = "ctl1" if ends[0][2] == 0 else "ctl2"
            three.hosts[round_ % 3].agent.ok("ready", winner)
    assert load.statuses() == {200}
    for host in three.hosts:
        assert json.loads(host.agent.lbctl("status", "--json").stdout)["haproxy"]["in_sync"]


@pytest.mark.slow
def test_without_etcd_modes_stay_and_commands_name_it(three):
    one, two, _ = three.hosts
    one.agent.ok("down", "nova", "--reason", "schema")
    for member in three.etcd.values():
        member.kill()
    failed = two.agent.lbctl("up", "nova")
    assert failed.returncode == 1
    assert "etcd" in failed.stderr
    assert closed(three) == [503] * 3
    eventually(lambda: "alone since" in two.agent.status()["trouble"], "it says that it is alone")
    two.agent.kill()
    two.haproxy.kill()
    two.haproxy.start()
    two.agent.start(in_sync=False)
    eventually(lambda: two.agent.status()["haproxy"]["in_sync"], "in sync without etcd")
    assert closed(three) == [503] * 3
    assert "alone since" in two.agent.status()["trouble"]
    assert two.agent.lbctl("drain", "ctl3").returncode == 1
    for member in three.etcd.values():
        member.start()
    eventually(lambda: three.etcd_answers() and three.agree(), lambda: "all agree again" + three.log(), 30)
    assert closed(three) == [503] * 3
    two.agent.ok("up", "nova")
    assert closed(three) == [200] * 3


@pytest.mark.slow
def test_an_agent_that_is_away_is_named_and_catches_up(three):
    one, two, last = three.hosts
    last.agent.kill()
    done = one.agent.lbctl("down", "nova")
    assert done.returncode == 7
    assert "ctl3 is away" in done.stderr
    assert closed(three, ["ctl1", "ctl2"]) == [503, 503]
    started = two.agent.lbctl("run", "--read-only", "keystone", "--", "touch", str(three.folder / "ran"))
    assert started.returncode == 7
    assert not (three.folder / "ran").exists()
    last.agent.start(in_sync=False)
    back = time.monotonic()
    eventually(lambda: last.ask().status == 503, "it catches up", 2.0)
    assert time.monotonic() - back < 2
    eventually(three.agree, "all agree")
    one.agent.ok("up", "nova", "keystone")
    last.agent.kill()
    eventually(lambda: not one.agent_of("ctl3")["alive"], "its lease has ended")
    assert one.agent.lbctl("forget", "ctl2").returncode == 3
    one.agent.ok("forget", "ctl3")
    one.agent.ok("down", "nova")
    assert {a["node"] for a in two.agent.status()["agents"]} == {"ctl1", "ctl2"}


@pytest.mark.slow
def test_a_host_that_was_cut_off_catches_up_within_two_seconds(three):
    one, two, last = three.hosts
    three.net.cut("ctl3")
    done = one.agent.lbctl("drain", "ctl1")
    assert done.returncode == 7, done.stderr + three.log()
    assert "ctl3" in done.stderr
    assert "etcd" in last.agent.lbctl("down", "nova").stderr
    three.net.heal("ctl3")
    healed = time.monotonic()
    eventually(lambda: last.haproxy.server("nova/ctl1")["srv_admin_state"] == "8", three.log, 10)
    assert time.monotonic() - healed < 2.0
    eventually(three.etcd_answers, "etcd has elected a leader", 15)  # the member that was cut off asks for an election
    two.agent.ok("ready", "ctl1", "--timeout", "20s")


@pytest.mark.slow
def test_what_one_member_of_etcd_holds_is_caught_up_with_though_there_is_no_leader(three):
    one, _, last = three.hosts
    three.net.cut("ctl3")
    assert one.agent.lbctl("drain", "ctl1").returncode == 7
    assert last.haproxy.server("nova/ctl1")["srv_admin_state"] == "0"
    three.etcd["ctl1"].kill()
    three.etcd["ctl3"].kill()
    three.net.heal("ctl3")
    eventually(lambda: last.haproxy.server("nova/ctl1")["srv_admin_state"] == "8", three.log, 2.0)
    assert "alone since" in last.agent.status()["trouble"]
    assert "etcd" in last.agent.lbctl("ready", "ctl1").stderr
    assert [h.haproxy.server("nova/ctl1")["srv_admin_state"] for h in three.hosts] == ["8"] * 3
    for name in ("ctl1", "ctl3"):
        three.etcd[name].start()
    eventually(lambda: three.etcd_answers() and three.agree(), lambda: "all agree again" + three.log(), 30)
    one.agent.ok("ready", "ctl1")


@pytest.mark.slow
def test_an_emptied_etcd_hides_nobody_who_is_away(three):
    """Its HAProxy goes on serving, so no command may say that all is closed, whichever agent is asked."""
    one, two, last = three.hosts
    one.agent.ok("down", "keystone")
    last.agent.kill()
    three.ctl("del", "--prefix", "/lbagent")
    for host, verb in ((one, "down"), (two, "read-only")):
        done = host.agent.lbctl(verb, "nova")
        assert (done.returncode, "ctl3 is away" in done.stderr) == (7, True), (done.stderr, three.log())
        assert last.ask().status == 200
    two.agent.kill()
    three.ctl("del", "--prefix", "/lbagent")
    two.agent.start()  # it has never seen the others' reports
    done = two.agent.lbctl("down", "nova")
    assert (done.returncode, "ctl3 is away" in done.stderr) == (7, True), (done.stderr, three.log())
    last.agent.start(in_sync=False)
    eventually(lambda: last.ask().status == 503, "it catches up", 5)
    one.agent.ok("up", "nova", "keystone")


@pytest.mark.slow
def test_an_emptied_or_older_etcd_opens_nothing(three):
    one, two, _ = three.hosts
    one.agent.ok("down", "nova")
    old = three.ctl("get", "/lbagent/intent", "--print-value-only").strip()
    two.agent.ok("down", "keystone")
    two.agent.ok("drain", "ctl1")
    revision = one.agent.status()["revision"]
    three.ctl("del", "--prefix", "/lbagent")
    eventually(lambda: three.agree() and one.agent.status()["revision"] > revision, lambda: "put back" + three.log())
    assert closed(three) == [503] * 3
    revision = one.agent.status()["revision"]
    three.ctl("put", "/lbagent/intent", old)
    eventually(lambda: three.agree() and one.agent.status()["revision"] > revision, lambda: "put back" + three.log())
    for host in three.hosts:
        assert (host.ask().status, host.ask("keystone").status) == (503, 503)
        assert host.haproxy.server("nova/ctl1")["srv_admin_state"] == "8"
    one.agent.ok("up", "nova", "keystone")
    one.agent.ok("ready", "ctl1")
    assert closed(three) == [200] * 3


@pytest.mark.slow
def test_an_emptied_etcd_forgets_nobody_who_is_away(three):
    one, two, last = three.hosts
    last.agent.kill()
    eventually(lambda: not one.agent_of("ctl3")["alive"], "its lease has ended")
    three.ctl("del", "--prefix", "/lbagent")
    eventually(lambda: three.agree(["ctl1", "ctl2"]), lambda: "put back" + three.log())
    done = one.agent.lbctl("down", "nova")
    assert done.returncode == 7, done.stdout + three.log()
    assert "ctl3 is away" in done.stderr
    assert {a["node"] for a in two.agent.status()["agents"]} == {"ctl1", "ctl2", "ctl3"}
    one.agent.ok("forget", "ctl3")
    eventually(lambda: {a["node"] for a in two.agent.status()["agents"]} == {"ctl1", "ctl2"}, "it stays forgotten")


@pytest.mark.slow
def test_local_acts_on_one_haproxy_and_is_shared_later(three):
    one, two, last = three.hosts
    one.agent.ok("down", "keystone")
    for member in three.etcd.values():
        member.kill()
    two.agent.ok("down", "nova", "--local", "--reason", "alone")
    last.agent.ok("up", "keystone", "--local")
    assert closed(three) == [200, 503, 200]
    assert [h.ask("keystone").status for h in three.hosts] == [503, 503, 200]
    assert "nova differs here by --local" in two.agent.status()["trouble"]
    for member in three.etcd.values():
        member.start()
    eventually(lambda: closed(three) == [503] * 3, lambda: "what was restricted is everywhere" + three.log(), 30)
    eventually(lambda: not two.agent.status()["trouble"], lambda: two.agent.status()["trouble"])
    assert "reconcile" in two.agent.ok("history")
    assert [h.ask("keystone").status for h in three.hosts] == [503, 503, 200]  # an exception opens nothing elsewhere
    eventually(lambda: one.agent_of("ctl3")["exceptions"] == ["keystone"], "the others know of the exception")
    one.agent.ok("down", "keystone")
    assert [h.ask("keystone").status for h in three.hosts] == [503] * 3
    one.agent.ok("up", "keystone", "nova")
    assert [h.ask("keystone").status for h in three.hosts] == [200] * 3


@pytest.mark.slow
def test_local_stays_local_while_etcd_is_there(three):
    one, two, _ = three.hosts
    two.agent.ok("down", "nova", "--local")
    assert closed(three) == [200, 503, 200]
    one.agent.ok("down", "keystone")  # another command, which all follow, leaves the exception alone
    assert [h.ask("keystone").status for h in three.hosts] == [503] * 3
    eventually(lambda: one.agent_of("ctl2")["exceptions"] == ["nova"], "the others know of the exception")
    assert closed(three) == [200, 503, 200]
    one.agent.ok("up", "nova")
    assert closed(three) == [200] * 3
