"""``lbctl status --json``: the contract of DESIGN §6, field by field."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from lbagent import __version__
from lbagent.guard import guard_map
from lbagent.model.intent import Drain, Held, Intent, Mode, Phase, ServiceIntent
from lbagent.model.observed import Observed, Stream, Worker
from lbagent.model.servers import Admin, NodeState, Ref
from lbagent.rules.status import Report, guard_state, node_state, quiesced
from lbagent.settings.load import parse
from lbagent.topology.resolve import topology
from tests.lab.model_haproxy import NOW, backend, haproxy, server, with_server

CONFIG = parse("services: {nova: {}, keystone: {}}\nnodes: {ctl1: {}, ctl2: {}, ctl3: {}}")
CTL1 = Ref("nova", "ctl1")
DOWN = ServiceIntent(mode=Mode.DOWN, start=NOW, until=NOW + 1200, reason="upgrade", by="root", keys=("nova",))


def of(intent: Intent, observed: Observed | None = None, **more: Any) -> dict[str, Any]:
    observed = observed or haproxy()
    if observed.table == ():  # a HAProxy that holds what was asked
        table = guard_map.entries(CONFIG, intent)
        observed = replace(observed, table=table)
        if observed.old_workers:
            old = tuple(replace(worker, current_map=table) for worker in observed.old_workers)
            observed = replace(observed, old_workers=old)
    given: dict[str, Any] = {"in_sync": True, "trouble": "", "revision": intent.revision, "tick": 1.0, **more}
    barriers, view, now = given.pop("barriers", {}), given.pop("view", None), given.pop("now", NOW)
    report = Report("ctl1", topology(CONFIG, observed.backends), intent, observed, barriers, now, view)
    return msgspec.to_builtins(report.make(**given))


def service(found: dict[str, Any], name: str = "nova") -> dict[str, Any]:
    return next(s for s in found["services"] if s["name"] == name)


def node(found: dict[str, Any], name: str = "ctl1") -> dict[str, Any]:
    return next(n for n in found["nodes"] if n["name"] == name)


def drained(phase: Phase = Phase.HELD, foreign: Admin | None = None, **changes: Any) -> Intent:
    drain = Drain(phase=phase, servers=(Held(backend="nova", server="ctl1", foreign=foreign),), **changes)
    return Intent(revision=3).with_drain("ctl1", "nova", drain)


def test_the_contract() -> None:
    observed = replace(
        with_server(haproxy(), CTL1, mask=8, sessions=2),
        old_workers=(Worker(pid=9, sessions={CTL1: 1}, current_map=()),),
    )
    intent = drained(since=NOW - 60, deadline=NOW + 300, reason="kernel", by="ops").with_service("nova", DOWN)
    found = json.loads(json.dumps(of(intent, observed)))
    assert {k: found[k] for k in ("node", "version", "revision")} == {
        "node": "ctl1",
        "version": __version__,
        "revision": 3,
    }
    assert found["haproxy"] == {
        "up": True,
        "version": "2.6.12",
        "pid": 100,
        "old_workers": 1,
        "masterless": "",
        "socket_used_up": False,
        "in_sync": True,
        "guard": "present",
        "clients": 0,
        "error": "",
        "tick": 1.0,
    }
    nova = service(found)
    assert {k: nova[k] for k in ("mode", "start", "until", "reason", "by", "sessions", "quiesced")} == {
        "mode": "down",
        "start": NOW,
        "until": NOW + 1200,
        "reason": "upgrade",
        "by": "root",
        "sessions": 3,
        "quiesced": False,
    }
    assert nova["servers"][0] == {
        "backend": "nova",
        "server": "ctl1",
        "node": "ctl1",
        "admin": "drain",
        "health": "up",
        "sessions": 3,
        "foreign": False,
        "used": False,
    }
    ctl1 = node(found)
    assert {k: ctl1[k] for k in ("state", "since", "deadline", "sessions", "reason", "by")} == {
        "state": "draining",
        "since": NOW - 60,
        "deadline": NOW + 300,
        "sessions": 3,
        "reason": "kernel",
        "by": "ops",
    }


def test_an_ordinary_day() -> None:
    found = of(Intent())
    assert [(s["name"], s["mode"], s["reason"]) for s in found["services"]] == [
        ("nova", "up", ""),
        ("keystone", "up", ""),
    ]
    assert [(n["name"], n["state"], n["since"]) for n in found["nodes"]] == [
        (f"ctl{i}", "ready", None) for i in (1, 2, 3)
    ]


def test_without_a_master_socket_old_workers_are_unknown() -> None:
    assert of(Intent(), replace(haproxy(), old_workers=None))["haproxy"]["old_workers"] is None


@pytest.mark.parametrize(
    ("guards", "loaded", "expected"),
    [((1, 1), True, "present"), ((1, None), True, "missing"), ((1, 0), True, "old"), ((1, 1), False, "missing")],
)
def test_the_guard(guards: tuple[int | None, int | None], loaded: bool, expected: str) -> None:
    observed = haproxy(
        backend("nova", guard=guards[0]), backend("keystone", guard=guards[1]), table=() if loaded else None
    )
    assert guard_state(topology(CONFIG, observed.backends), observed) == expected


@pytest.mark.parametrize(
    ("phase", "facts", "expected"),
    [
        (Phase.HELD, {"mask": 8, "sessions": 1}, NodeState.DRAINING),
        (Phase.HELD, {"mask": 0}, NodeState.DRAINING),
        (Phase.HELD, {"mask": 8}, NodeState.DRAINED),
        (Phase.HELD, {"mask": 1}, NodeState.DRAINED),
        (Phase.RETURNING, {"mask": 8}, NodeState.DRAINED),
        (Phase.RELEASED, {"mask": 8}, NodeState.READY),
    ],
)
def test_the_state_of_a_node(phase: Phase, facts: dict[str, Any], expected: NodeState) -> None:
    assert node_state("ctl1", drained(phase), with_server(haproxy(), CTL1, **facts)) is expected


def test_a_request_in_an_old_worker_keeps_a_node_draining() -> None:
    observed = with_server(haproxy(), CTL1, mask=8)
    late = replace(observed, old_workers=(Worker(pid=9, sessions={CTL1: 1}, current_map=()),))
    assert node_state("ctl1", drained(), late) is NodeState.DRAINING


def test_a_deadline_is_shown_while_it_matters() -> None:
    assert node(of(drained(deadline=NOW + 5), with_server(haproxy(), CTL1, mask=8)))["deadline"] is None


@pytest.mark.parametrize(
    ("intent", "facts", "foreign"),
    [
        (Intent(), {"mask": 0}, False),
        (Intent(), {"mask": 1}, True),
        (Intent(), {"mask": 5}, True),
        (Intent(), {"mask": 4}, False),
        (drained(), {"mask": 8}, False),
        (drained(foreign=Admin.MAINT), {"mask": 1}, True),
        (drained(foreign=Admin.MAINT), {"mask": 0}, False),
    ],
)
def test_what_others_set_is_shown(intent: Intent, facts: dict[str, Any], foreign: bool) -> None:
    assert service(of(intent, with_server(haproxy(), CTL1, **facts)))["servers"][0]["foreign"] is foreign


def test_quiesced_means_counted_and_none_left() -> None:
    intent = Intent().with_service("nova", DOWN)
    stream = Stream(1, "1", "nova", "public", 3, "ctl1", "0x1")
    assert not quiesced("nova", intent, {}, NOW)
    assert not quiesced("nova", intent, {"nova": None}, NOW)
    assert not quiesced("nova", intent, {"nova": {(1, "1", 3): stream}}, NOW)
    assert quiesced("nova", intent, {"nova": {}}, NOW)
    assert not quiesced("nova", Intent(), {"nova": {}}, NOW)


def test_a_window_ahead_is_scheduled_and_the_service_is_up() -> None:
    ahead = replace(DOWN, start=NOW + 60, at_once=False)
    before, after = (service(of(Intent().with_service("nova", ahead), now=NOW + n)) for n in (59, 60))
    assert (before["mode"], before["scheduled"], before["start"]) == ("up", "down", NOW + 60)
    assert (after["mode"], after["scheduled"]) == ("down", None)


def test_orphans_are_shown() -> None:
    found = of(
        Intent().with_service("gone", DOWN).with_drain("ctl9", "nova", Drain(servers=(Held(backend="x", server="y"),)))
    )
    assert (service(found, "gone")["mode"], service(found, "gone")["orphan"]) == ("down", True)
    assert node(found, "ctl9")["orphans"] == ["x/y"]
    assert not service(found)["orphan"]


def test_a_backend_that_haproxy_does_not_have_is_named() -> None:
    found = service(of(Intent(), haproxy(backend("keystone"))))
    assert (found["missing"], found["servers"]) == (["nova"], [])


def test_tcp_backends_are_named() -> None:
    observed = haproxy(backend("nova", server(), http=False), backend("keystone"))
    assert service(of(Intent(), observed))["tcp"] == ["nova"]
