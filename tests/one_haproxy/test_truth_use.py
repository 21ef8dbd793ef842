"""What HAProxy would use decides: backups, weights, trackers, dead and parked backends, stickiness; one judgement.

A drain is refused for what it makes worse, and `ready` says 0 for what takes traffic, in the same eyes.
"""

from __future__ import annotations

import time

import pytest

from tests.chaos.claims import Hit, StatusLog
from tests.lab.clients import Load, ask
from tests.lab.configuration import head
from tests.lab.one_haproxy import Lab
from tests.lab.ports import free_port
from tests.lab.wait import eventually

TICK = 4.0  # seconds within which the agent has seen what HAProxy does now, on a busy machine


def answers(lab: Lab, service: str, count: int = 20) -> tuple[set[int], set[str]]:
    """What so many clients get, and which nodes worked for them."""
    since = time.time()
    statuses = {ask(lab.port[service]).status for _ in range(count)}
    return statuses, {node for node in lab.nodes if lab.requests(node, since, service)}


def started(lab: Lab, healthy: str) -> Lab:
    """A lab that is not wholly healthy; ``healthy`` is."""
    lab.install()
    lab.haproxy.start()
    lab.agent.start()
    eventually(lambda: all(s["health"] == "up" for s in lab.agent.service(healthy)["servers"]), f"{healthy} is up")
    return lab


# ----------------------------------------------------------------------------------------------------- backups


def test_a_drain_of_the_active_server_leaves_the_work_to_a_backup(make_lab):
    """Kolla's prometheus and alertmanager: one active server, two backups."""
    lab = make_lab(("nova", "prometheus"), start=False)
    for name in ("ctl2", "ctl3"):
        lab.configuration.backends["prometheus"].server(name).words += " backup"
    lab.install()
    lab.start()
    done = lab.agent.lbctl("drain", "ctl1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert answers(lab, "prometheus") == ({200}, {"ctl2"})
    lab.agent.ok("ready", "ctl1")
    assert answers(lab, "prometheus") == ({200}, {"ctl1"})


@pytest.mark.parametrize("node", ["ctl1", "ctl2", "ctl3"])
def test_a_drain_where_all_servers_are_backups(make_lab, node):
    """Galera behind three backups, in `mode tcp`: the first healthy one serves."""
    lab = make_lab(("nova",), tcp=("db",), start=False, settings={"services": {"db": {"backends": ["db"]}}})
    for server in lab.configuration.backends["db"].servers:
        server.words += " backup"
    lab.install()
    lab.start()
    done = lab.agent.lbctl("drain", node)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses, served = answers(lab, "db", 6)
    assert statuses == {200} and node not in served


def test_the_last_that_haproxy_would_use_is_still_protected(make_lab):
    """The backup took over, and it is dead: now the drain would leave nobody."""
    lab = make_lab(("nova",), nodes=2, start=False)
    lab.configuration.backends["nova"].server("ctl2").words += " backup"
    lab.install()
    lab.start()
    lab.origins["ctl2"]["nova"].sick = True
    eventually(lambda: lab.haproxy.server("nova/ctl2")["srv_op_state"] == "0", "the backup is down")
    eventually(lambda: [s["health"] for s in lab.agent.service("nova")["servers"]] == ["up", "down"], "status knows")
    done = lab.agent.lbctl("drain", "ctl1")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "nova" in done.stderr
    assert answers(lab, "nova", 4)[0] == {200}


# ---------------------------------------------------------------------------------- dead and parked before the drain


def dead(lab: Lab) -> None:
    for server in lab.configuration.backends["glance"].servers:
        server.port = free_port()


def parked(lab: Lab) -> None:
    for server in lab.configuration.backends["glance"].servers:
        server.words += " disabled"


def in_foreign_maint(lab: Lab) -> None:
    """By whoever parked it at run time, once HAProxy runs."""


@pytest.mark.parametrize("how", [dead, parked, in_foreign_maint], ids=lambda how: how.__name__)
def test_a_service_that_was_out_before_stands_in_nobodys_way(make_lab, how):
    """Only what gets worse counts: drain and ready go through, and name what they could not wait for."""
    lab = make_lab(("nova", "glance"), start=False)
    how(lab)
    started(lab, "nova")
    if how is in_foreign_maint:
        for node in lab.nodes:
            lab.haproxy.run(f"disable server glance/{node}")
        eventually(lambda: all(s["foreign"] for s in lab.agent.service("glance")["servers"]), "status knows", TICK)
    else:
        eventually(lambda: ask(lab.port["glance"]).status == 503, "glance is out")
    done = lab.agent.lbctl("drain", "ctl1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert answers(lab, "nova", 9) == ({200}, {"ctl2", "ctl3"})
    done = lab.agent.lbctl("ready", "ctl1", "--timeout", "15s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "glance" in done.stdout + done.stderr
    assert answers(lab, "nova", 9) == ({200}, {"ctl1", "ctl2", "ctl3"})


# ----------------------------------------------------------------------------------------------------- weights


def test_a_server_of_weight_nothing_is_not_counted_ready(make_lab):
    """Status, the last-server rule and `ready` judge alike: HAProxy gives it no request."""
    lab = make_lab(("nova",), start=False)
    lab.configuration.backends["nova"].server("ctl1").words += " weight 0"
    lab.install()
    lab.start()
    assert [server["used"] for server in lab.agent.service("nova")["servers"]] == [False, True, True]
    assert "2/3" in lab.agent.ok("status")
    lab.agent.ok("drain", "ctl2")
    done = lab.agent.lbctl("drain", "ctl3")
    assert done.returncode == 3, done.stdout + done.stderr
    assert answers(lab, "nova", 6) == ({200}, {"ctl3"})
    lab.agent.ok("ready", "ctl2")
    lab.agent.ok("drain", "ctl1")
    done = lab.agent.lbctl("ready", "ctl1", "--timeout", "3s")
    said = done.stdout + done.stderr
    assert done.returncode == 4 or "weight" in said, said
    assert answers(lab, "nova", 9) == ({200}, {"ctl2", "ctl3"})


def test_a_weight_that_is_set_to_nothing_at_run_time_is_seen(lab):
    lab.haproxy.run("set weight nova/ctl1 0")
    eventually(lambda: not lab.agent.service("nova")["servers"][0]["used"], "status knows", TICK)
    lab.haproxy.run("set weight nova/ctl1 100%")
    eventually(lambda: lab.agent.service("nova")["servers"][0]["used"], "status knows", TICK)


# ---------------------------------------------------------------------------------------------------- trackers


@pytest.fixture
def tracking(make_lab) -> Lab:
    """nova has no checks of its own: each of its servers tracks keystone's on the same node."""
    lab = make_lab(("keystone", "nova"), start=False)
    for node in lab.nodes:
        lab.configuration.backends["nova"].server(node).words = f"track keystone/{node}"
    lab.install()
    return lab.start()


def test_ready_waits_for_what_a_server_tracks(tracking):
    lab = tracking
    lab.agent.ok("drain", "ctl1", "--service", "nova")
    lab.origins["ctl1"]["keystone"].sick = True
    eventually(lambda: lab.haproxy.server("keystone/ctl1")["srv_op_state"] == "0", "what it tracks is down")
    done = lab.agent.lbctl("ready", "ctl1", "--timeout", "3s")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "nova/ctl1" in done.stderr
    lab.origins["ctl1"]["keystone"].sick = False
    lab.agent.ok("ready", "ctl1", "--timeout", "20s")
    assert answers(lab, "nova", 9) == ({200}, {"ctl1", "ctl2", "ctl3"})


def test_a_tracker_of_what_is_down_does_not_count_as_left(tracking):
    lab = tracking
    for node in ("ctl2", "ctl3"):
        lab.origins[node]["keystone"].sick = True
        eventually(lambda n=node: lab.haproxy.server(f"keystone/{n}")["srv_op_state"] == "0", f"{node} is down")
    expected = [True, False, False]
    eventually(lambda: [s["used"] for s in lab.agent.service("nova")["servers"]] == expected, "status knows")
    done = lab.agent.lbctl("drain", "ctl1", "--service", "nova")
    assert done.returncode == 3, done.stdout + done.stderr
    assert answers(lab, "nova", 4)[0] == {200}


# -------------------------------------------------------------------------------------------------- stickiness


TABLE = "stick-table type ip size 10k expire 1h\n"
ELSEWHERE = {
    "another backend": ("stick on src table sticky\n", f"backend sticky\n  {TABLE}"),
    "peers": (
        "stick on src table mates/sticky\n",
        f"peers mates\n  bind 127.0.0.1:PORT\n  server here\n  table sticky {TABLE.removeprefix('stick-table ')}",
    ),
}


def sticky_elsewhere(make_lab, where: str) -> Lab:
    lines, extra = ELSEWHERE[where]
    extra = extra.replace("PORT", str(free_port()))
    return make_lab(("nova",), start=False, backend={"nova": lines}, extra=extra, global_lines="localpeer here")


def stuck_to(lab: Lab) -> str:
    """The node to which clients of this address stick."""
    ask(lab.port["nova"])
    [node] = answers(lab, "nova", 5)[1]
    return node


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_drain_moves_clients_whose_table_lies_elsewhere(make_lab, where):
    lab = sticky_elsewhere(make_lab, where).start()
    node = stuck_to(lab)
    lab.agent.ok("drain", node)
    statuses, served = answers(lab, "nova", 12)
    assert statuses == {200} and node not in served


@pytest.mark.parametrize("where", ELSEWHERE)
def test_where_stickiness_cannot_be_judged_it_is_said_and_nothing_is_claimed(make_lab, where):
    """The agent's `haproxy.config` names another file, so nothing but the requests shows that clients stick."""
    lab = sticky_elsewhere(make_lab, where)
    (lab.folder / "other.cfg").write_text(head() + "backend other\n")
    lab.agent.settings["haproxy"]["config"] = [str(lab.folder / "other.cfg")]
    lab.agent.write()
    lab.start()
    node = stuck_to(lab)
    assert "stick" in lab.agent.lbctl("doctor").stdout
    with StatusLog(str(lab.agent.socket)) as log, Load(lab.port["nova"], pause=0.02, clients=2):
        done = lab.agent.lbctl("drain", node, "--until-reload", "--deadline", "3s")
        assert "stick" in done.stdout + done.stderr
        ended = time.time()
        eventually(lambda: time.time() > ended + 6, "clients go on asking")
        late = lab.requests(node, ended + 2)
        state = lab.agent.node(node)["state"]
    assert not late or state != "drained", f"{len(late)} requests, and status says drained"
    hits = [Hit(n, "nova", entry.started) for n in lab.nodes for entry in lab.requests(n)]
    assert log.contradictions(lambda: hits) == []


# ------------------------------------------------------------------------------------------- what is overridden


def test_force_names_what_it_overrides(make_lab):
    lab = make_lab(("nova",), nodes=1)
    refused = lab.agent.lbctl("drain", "ctl1")
    assert refused.returncode == 3
    done = lab.agent.lbctl("drain", "ctl1", "--force")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "last_server" in done.stdout + done.stderr
    assert "nova" in done.stdout + done.stderr


def test_override_overrides_one_rule(make_lab):
    """Of two that stand in the way, the other one still does."""
    lab = make_lab(("nova",), nodes=1, guard=False)
    done = lab.agent.lbctl("drain", "ctl1", "--override", "last_server")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "adopt" in done.stderr
    done = lab.agent.lbctl("drain", "ctl1", "--until-reload")
    assert done.returncode == 3, done.stdout + done.stderr
    lab.agent.ok("drain", "ctl1", "--override", "last_server", "--until-reload")


def test_override_of_what_is_no_rule_is_a_mistake(lab):
    done = lab.agent.lbctl("drain", "ctl1", "--override", "gravity")
    assert done.returncode == 2
    assert "gravity" in done.stderr and "last_server" in done.stderr
