"""Fifty agents on one etcd: a command holds everywhere when it has returned, and idle agents ask for next to nothing.

What they ask of etcd is counted by etcd; how long a command takes is measured by ``make scale``, on a quiet machine.
"""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from lbagent.agent.pace import SHORTEST as TICK
from lbagent.agent.shared import AT_REST, FIGURES, SharedIntent
from lbagent.cluster.members import Member, View
from lbagent.errors import Conflict
from lbagent.model.intent import Drain, Intent
from lbagent.settings.load import parse
from lbagent.store.etcd.lease import RENEW
from lbagent.store.etcd.store import EtcdStore
from tests.lab.ports import free_port
from tests.lab.wait import eventually
from tests.measure.bench import serves
from tests.measure.scale import etcd_command, measure, put_and_event, show, world

AGENTS = 50
SLACK = 1.15  # a window cuts what comes once a second at both ends
WRITES = {"down": 1.0, "up": 1.0, "drain": 1.0, "ready": 6.0}  # reports that one agent makes of a command


@pytest.mark.slow
@pytest.mark.timeout(600)  # fifty times Python, on a machine that may be busy
def test_fifty_agents_share_one_etcd():
    with world(AGENTS, prefix=("nice", "-n", "5")) as made:  # the tests beside it come first
        put = put_and_event(made, 50)
        made.grow(AGENTS)
        found = measure(made, put, rounds=1, window=4.0)
    show(found)
    # Idle: one read a tick and a sign of life, and nothing is written.
    assert set(found.idle) <= {"Range", "LeaseKeepAlive", "LeaseGrant", "Txn", "Watch", "Status"}
    assert found.idle["Range"] <= SLACK / TICK
    assert found.idle["LeaseKeepAlive"] <= SLACK / RENEW
    assert found.idle.get("Txn", 0.0) <= 0.05
    assert sum(found.idle.values()) <= SLACK * (1 / TICK + 1 / RENEW) + 0.1
    # HAProxies with clients: their figures cost a write now and then.
    assert found.busy["Txn"] <= 2 / AT_REST
    # A command: each agent says once that it has done its part; so do the one that was asked, and a renewed lease.
    for verb, most in WRITES.items():
        for took in found.commands[verb]:
            assert took.requests["Txn"] <= most + 0.5, (verb, took)


class Figures:
    """A store that counts reports."""

    rival = False

    def __init__(self, intent: Intent) -> None:
        self.view = View(intent=intent, members={"ctl1": Member(node="ctl1")}, alive=frozenset({"ctl1"}))
        self.reports: list[Member] = []

    async def look(self) -> View:
        return self.view

    async def renew(self) -> None:
        pass

    async def report(self, member: Member, _sick: tuple[str, ...]) -> None:
        self.reports.append(member)


@pytest.mark.parametrize(("closed", "pause"), [(True, FIGURES), (False, AT_REST)])
async def test_figures_are_reported_often_only_while_something_is_restricted(monkeypatch, closed, pause):
    now = [1000.0]
    monkeypatch.setattr("lbagent.agent.shared.time", SimpleNamespace(monotonic=lambda: now[0]))
    store = Figures(Intent(drains={"ctl1": {"nova": Drain()}}) if closed else Intent())
    sharing = SharedIntent(store, "ctl1", clock=lambda: 0.0)
    await sharing.look()
    for sessions in range(1, 5):
        await sharing.keep(Member(node="ctl1", clients=9, sessions={"nova/ctl1": sessions}), ())
        now[0] += pause / 2
    assert [m.sessions["nova/ctl1"] for m in store.reports] == [1, 3]
    await sharing.keep(Member(node="ctl1", clients=9, open={"nova": ("1 request",)}), ())
    assert len(store.reports) == 3  # what a command waits for is said at once


@pytest.fixture
def etcd(tmp_path):
    port = free_port()
    process = subprocess.Popen(etcd_command(tmp_path, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: serves(port), "etcd answers", 30)
        yield parse(f'{{"store": {{"etcd": {{"endpoints": ["http://127.0.0.1:{port}"]}}}}}}').store.etcd
    finally:
        process.kill()
        process.wait(10)


async def test_a_drain_is_decided_among_more_haproxies_than_a_transaction_compares(etcd):
    """etcd takes 128 comparisons in a transaction."""
    store, other = EtcdStore(etcd, "ctl1"), EtcdStore(etcd, "ctl2")
    try:
        for number in range(140):
            await other.report(Member(node=f"ctl{number}"), ())
        await store.look()
        assert (await store.swap(0, Intent(), healthy=True)).revision == 1
        await store.look()
        await other.report(Member(node="ctl7"), ("nova/ctl7",))
        with pytest.raises(Conflict):
            await store.swap(1, Intent(), healthy=True)
        await store.look()
        await other.report(Member(node="new"), ("nova/ctl7",))
        with pytest.raises(Conflict):
            await store.swap(1, Intent(), healthy=True)
        await store.look()
        await other.report(Member(node="ctl7"), ("nova/ctl7",))  # nothing new
        assert (await store.swap(1, Intent(), healthy=True)).revision == 2
    finally:
        store.close()
        other.close()
