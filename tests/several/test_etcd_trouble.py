"""Three hosts, and etcd in every kind of trouble: modes stay as they are, commands work or name etcd."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.clients import Load
from tests.lab.proxy import Proxy
from tests.lab.several_haproxies import PORTS, ControlPlane, Host, control_plane
from tests.lab.wait import eventually, within


@pytest.fixture
def three() -> Iterator[ControlPlane]:
    with control_plane() as made:
        yield made


def closed(three: ControlPlane, service: str = "nova") -> list[int]:
    return [host.ask(service).status for host in three.hosts]


@contextlib.contextmanager
def nobody_flaps(three: ControlPlane, down: str = "nova", up: str = "keystone") -> Iterator[None]:
    """Under load, what is closed answers 503 and what is open 200, on every HAProxy, all the time."""
    with contextlib.ExitStack() as stack:
        loads = [
            (expected, stack.enter_context(Load(PORTS[name], host=host.address, clients=1, pause=0.02, seconds=300)))
            for host in three.hosts
            for name, expected in ((down, 503), (up, 200))
        ]
        yield
    for expected, load in loads:
        assert load.statuses() == {expected}, (load.host, load.port)


def works_within(host: Host, seconds: float, *command: str) -> float:
    """How long it takes until ``command`` succeeds; until then it may only fail naming etcd, quickly."""
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        done = host.agent.lbctl(*command)
        if done.returncode == 0:
            return time.monotonic() - began
        assert time.monotonic() - asked < 5
        assert done.returncode == 1 and "etcd" in done.stderr, (done.returncode, done.stderr)
        assert time.monotonic() - began < seconds, done.stderr


def fails_naming_etcd(host: Host, *command: str) -> str:
    with within(5):
        done = host.agent.lbctl(*command)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "etcd" in done.stderr
    return done.stderr


def stop(three: ControlPlane, *names: str) -> None:
    for name in names:
        three.etcd[name].process.send_signal(signal.SIGSTOP)


def go_on(three: ControlPlane, *names: str) -> None:
    for name in names:
        three.etcd[name].process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_leader_lost_then_quorum_lost_then_back(three):
    one, two, _ = three.hosts
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        lost = three.leader()
        three.etcd[lost].kill()
        other = next(h for h in three.hosts if h.name != lost)
        took = works_within(other, 10, "drain", "ctl1")
        print(f"a command works {took:.1f} s after the leader was killed")
        assert three.host[lost].agent.lbctl("ready", "ctl1").returncode == 0  # beside the dead member
        second = next(n for n in three.names if n != lost)
        three.etcd[second].kill()
        for host in three.hosts:
            fails_naming_etcd(host, "up", "nova")
        two.agent.ok("drain", "ctl3", "--local", "--reason", "quorum lost")
        assert two.haproxy.server("keystone/ctl3")["srv_admin_state"] == "8"
        assert one.haproxy.server("keystone/ctl3")["srv_admin_state"] == "0"
        eventually(lambda: "alone since" in one.agent.status()["trouble"], "it says that it is alone")
        for name in (lost, second):
            three.etcd[name].start()
        eventually(three.agree, lambda: "all agree" + three.log(), 30)
        eventually(
            lambda: [h.haproxy.server("keystone/ctl3")["srv_admin_state"] for h in three.hosts] == ["8"] * 3,
            lambda: "what was drained alone is drained everywhere" + three.log(),
        )
        assert "reconcile" in two.agent.ok("history")
        one.agent.ok("ready", "ctl3")
    one.agent.ok("up", "nova")
    assert closed(three) == [200] * 3


@pytest.mark.slow
def test_a_member_that_hangs_delays_a_command_and_no_more(three):
    one, two, _ = three.hosts
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        follower = next(n for n in three.names if n != three.leader())
        stop(three, follower)
        took = [works_within(three.host[follower], 5, "drain", "ctl1")]  # its own member hangs
        took += [works_within(h, 5, "ready", "ctl1") for h in three.hosts]
        go_on(three, follower)
        eventually(three.agree, "all agree")
        leader = three.leader()
        stop(three, leader)
        took += [works_within(three.host[leader], 12, "drain", "ctl1"), works_within(two, 5, "ready", "ctl1")]
        go_on(three, leader)
        eventually(three.agree, "all agree")
        print("with a member that hangs, commands took " + ", ".join(f"{t:.1f} s" for t in took))
    assert all(h.agent.node("ctl1")["state"] == "ready" for h in three.hosts)
    one.agent.ok("up", "nova")
    assert closed(three) == [200] * 3


@pytest.mark.slow
def test_while_all_of_etcd_hangs_commands_fail_in_time_and_haproxy_is_looked_after(three):
    one, _, last = three.hosts
    one.agent.ok("drain", "ctl3")
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        stop(three, *three.names)
        fails_naming_etcd(one, "up", "nova")
        for host in three.hosts:
            fails_naming_etcd(host, "ready", "ctl3")
        fails_naming_etcd(one, "forget", "ctl3")
        waiting = [host.agent.begin("up", "nova") for host in three.hosts]
        for _ in range(5):
            with within(1):
                assert "alone since" in one.agent.status()["trouble"]
        last.haproxy.run("set server keystone/ctl3 state ready")
        eventually(lambda: last.haproxy.server("keystone/ctl3")["srv_admin_state"] == "8", "drift is repaired", 2.0)
        for process in waiting:
            _, said = process.communicate(timeout=10)
            assert (process.returncode, "etcd" in said) == (1, True), said
        with within(3):
            one.agent.ok("drain", "ctl1", "--local", "--force")
        go_on(three, *three.names)
        eventually(three.agree, lambda: "all agree" + three.log(), 30)
        assert closed(three) == [503] * 3
        one.agent.ok("ready", "ctl3")
    works_within(one, 10, "up", "nova")


@pytest.mark.slow
def test_a_slow_etcd_makes_commands_slow_and_nothing_else():
    made = ControlPlane()
    proxies = {name: Proxy(2379, address, made.net.host) for name, address in made.net.address.items()}
    for host in made.hosts:  # its own first
        order = sorted(proxies, key=lambda name, host=host: name != host.name)
        urls = [f"http://{made.net.host}:{proxies[name].port}" for name in order]
        host.agent.settings["store"]["etcd"]["endpoints"] = urls
        host.agent.write()
    try:
        one, two, last = made.start().hosts
        one.agent.ok("down", "nova")
        with nobody_flaps(made):
            for proxy in proxies.values():
                proxy.delay = 0.3
            began = time.monotonic()
            took = []
            for _ in range(3):
                took += [works_within(one, 12, "drain", "ctl1"), works_within(two, 12, "ready", "ctl1")]
            print("with answers that take 0.3 s, commands took " + ", ".join(f"{t:.1f} s" for t in took))
            assert max(took) < 12, took
            eventually(lambda: time.monotonic() - began > 15, "longer than a lease", 16)
            for host in made.hosts:
                assert host.agent.log.read_text().count("what is in force stays") <= 1, made.log()  # at the start
        for proxy in proxies.values():
            proxy.delay = 0.0
        last.agent.ok("up", "nova")
        assert closed(made) == [200] * 3
    finally:
        made.close()
        for proxy in proxies.values():
            proxy.close()


@pytest.mark.slow
def test_compacted_and_restarted_under_the_watch(three):
    one, two, last = three.hosts
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        for _ in range(3):
            head = json.loads(three.ctl("endpoint", "status", "-w", "json").splitlines()[0])
            revision = max(row["Status"]["header"]["revision"] for row in head)
            three.ctl("compact", str(revision), "--physical")
            two.agent.ok("drain", "ctl1")
            assert [h.haproxy.server("keystone/ctl1")["srv_admin_state"] for h in three.hosts] == ["8"] * 3
            last.agent.ok("ready", "ctl1")
        for name in three.names:  # rolling
            three.etcd[name].kill()
            three.etcd[name].start()
            eventually(three.etcd_answers, "etcd answers", 30)
            began = time.monotonic()
            works_within(one, 10, "drain", "ctl1")
            assert [h.haproxy.server("keystone/ctl1")["srv_admin_state"] for h in three.hosts] == ["8"] * 3
            works_within(one, 10, "ready", "ctl1")
            print(f"a drain and its end, after {name}'s etcd was restarted: {time.monotonic() - began:.1f} s")
        for name in three.names:  # all at once
            three.etcd[name].kill()
        for name in three.names:
            three.etcd[name].start()
        eventually(lambda: three.etcd_answers() and three.agree(), lambda: "all agree" + three.log(), 30)
        with within(5):
            one.agent.ok("drain", "ctl1")
        one.agent.ok("ready", "ctl1")


def restore(three: ControlPlane, snapshot: Path) -> None:
    """A new cluster out of ``snapshot``, as etcd's manual has it."""
    for member in three.etcd.values():
        member.kill()
    peers = {name: f"http://{address}:2380" for name, address in three.net.address.items()}
    for name in three.names:
        data = three.folder / f"etcd-{name}"
        shutil.rmtree(data)
        three.ctl(
            *("snapshot", "restore", str(snapshot), "--name", name, "--data-dir", str(data)),
            *("--initial-cluster", ",".join(f"{n}={u}" for n, u in peers.items())),
            *("--initial-cluster-token", "restored", "--initial-advertise-peer-urls", peers[name]),
        )
    for member in three.etcd.values():
        member.start()
    eventually(three.etcd_answers, "etcd answers", 30)


@pytest.mark.slow
def test_restored_from_an_older_snapshot_it_opens_nothing(three):
    one, two, last = three.hosts
    snapshot = three.folder / "snapshot"
    one.agent.ok("down", "keystone")
    three.ctl("snapshot", "save", str(snapshot), endpoints=[three.etcd["ctl1"].url])
    one.agent.ok("up", "keystone")
    two.agent.ok("down", "nova")
    last.agent.ok("drain", "ctl3")
    revision = one.agent.status()["revision"]
    with nobody_flaps(three):
        restore(three, snapshot)
        eventually(
            lambda: three.agree() and one.agent.status()["revision"] > revision, lambda: "put back" + three.log(), 30
        )
    assert closed(three) == [503] * 3
    for host in three.hosts:
        assert host.haproxy.server("keystone/ctl3")["srv_admin_state"] == "8"
    one.agent.ok("up", "nova", "keystone")
    two.agent.ok("ready", "ctl3")
    assert (closed(three), closed(three, "keystone")) == ([200] * 3, [200] * 3)
    eventually(lambda: not any(h.agent.status()["trouble"] for h in three.hosts), three.log)


@pytest.mark.slow
def test_an_agent_of_another_history_brings_what_it_has_closed(three):
    """It alone followed a revision that the restored etcd never held; since then there is another of that number."""
    one, two, last = three.hosts
    snapshot = three.folder / "snapshot"
    one.agent.ok("down", "nova")
    three.ctl("snapshot", "save", str(snapshot), endpoints=[three.etcd["ctl1"].url])
    one.agent.kill()
    two.agent.kill()
    assert last.agent.lbctl("down", "keystone").returncode == 7
    knows = last.agent.status()["revision"]
    last.agent.kill()
    restore(three, snapshot)
    one.agent.start(in_sync=False)
    two.agent.start(in_sync=False)
    eventually(lambda: three.agree(["ctl1", "ctl2"]), "those two agree")
    while one.agent.status()["revision"] <= knows:
        assert one.agent.lbctl("drain", "ctl1").returncode in (0, 7)
        assert one.agent.lbctl("read-only", "nova").returncode in (0, 7)
    assert [h.ask("keystone").status for h in (one, two)] == [200, 200]
    assert [h.ask().status for h in (one, two, last)] == [200, 200, 503]  # ctl3's HAProxy has not heard
    last.agent.start(in_sync=False)
    eventually(three.agree, lambda: "all agree" + three.log(), 20)
    assert (closed(three), closed(three, "keystone")) == ([503] * 3, [503] * 3)
    assert "comes from another history" in last.agent.log.read_text()
    one.agent.ok("up", "nova", "keystone")
    one.agent.ok("ready", "ctl1")
    assert (closed(three), closed(three, "keystone")) == ([200] * 3, [200] * 3)


@pytest.mark.slow
def test_a_damaged_intent_opens_nothing_and_deleting_it_mends(three):
    one, two, last = three.hosts
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        three.ctl("put", "/lbagent/intent", "{nonsense")
        eventually(lambda: "is damaged" in last.agent.status()["trouble"], "it says so")
        said = fails_naming_etcd(two, "up", "nova")
        assert "/lbagent/intent in etcd is damaged" in said
        two.agent.kill()
        two.agent.start(in_sync=False)
        fails_naming_etcd(two, "up", "nova")
        three.ctl("del", "/lbagent/intent")
        eventually(three.agree, lambda: "all agree" + three.log())
    two.agent.ok("up", "nova")
    assert closed(three) == [200] * 3


@pytest.mark.slow
def test_two_agents_that_call_themselves_the_same_are_told(three):
    one, two, _ = three.hosts
    one.agent.ok("down", "nova")
    three.host["ctl3"].agent.stop()
    three.host["ctl3"].agent.settings["node"] = "ctl2"
    three.host["ctl3"].agent.write()
    three.host["ctl3"].agent.start(in_sync=False)
    eventually(
        lambda: "another agent calls itself ctl2" in two.agent.status()["trouble"],
        lambda: two.agent.status()["trouble"],
    )
    assert "another agent" not in one.agent.status()["trouble"]
    three.host["ctl3"].agent.stop()
    eventually(lambda: not two.agent.status()["trouble"], lambda: two.agent.status()["trouble"], 30)
    assert closed(three) == [503] * 3
