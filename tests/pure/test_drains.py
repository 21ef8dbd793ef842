"""The life of a drain: its table of steps, and what time and HAProxy's answers make of it."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from lbagent.model.actions import ProveHealth, SetAdmin
from lbagent.model.intent import Drain, Held, Intent, Mode, Phase, ServiceIntent
from lbagent.model.observed import Observed
from lbagent.model.servers import Admin, Ref
from lbagent.rules.drains import advance
from lbagent.settings.load import parse
from tests.lab.model_haproxy import NOW, Loop, backend, haproxy, with_server

H, RG, RD = Phase.HELD, Phase.RETURNING, Phase.RELEASED
CONFIG = parse("services: {nova: {}, keystone: {}}")
NOVA, KEYSTONE = Ref("nova", "ctl1"), Ref("keystone", "ctl1")


def drained(phase: Phase = H, nova: dict[str, object] | None = None, **changes: object) -> Intent:
    """ctl1 drained of nova and keystone; ``nova`` is what is recorded of its server of nova."""
    intent = Intent(revision=1)
    for name, facts in (("nova", nova or {}), ("keystone", {})):
        drain = Drain(phase=phase, servers=(Held(backend=name, server="ctl1", **facts),))
        intent = intent.with_drain("ctl1", name, replace(drain, **changes))
    return intent


def seen(nova: dict[str, object], keystone: dict[str, object]) -> Observed:
    return with_server(with_server(haproxy(), NOVA, **nova), KEYSTONE, **keystone)


def after(
    intent: Intent,
    observed: Observed,
    proved: tuple[Ref, ...] = (NOVA, KEYSTONE),
    now: float = NOW,
    settled: bool = True,
) -> Intent:
    return advance(intent, observed, set(proved), now, settled)


def phases(intent: Intent, node: str = "ctl1") -> list[Phase]:
    return [d.phase for d in intent.drains.get(node, {}).values()]


# ------------------------------------------------------------------------------------------ the table

LEGAL = {(H, H), (H, RG), (RG, RG), (RG, H), (RG, RD), (RD, RD), (RD, H)}


@pytest.mark.parametrize(("before", "then"), sorted(LEGAL))
def test_a_legal_step(before: Phase, then: Phase) -> None:
    stepped = Drain(phase=before, reason="kernel", deadline=5).step(then, 7)
    assert stepped == Drain(phase=then, reason="kernel", deadline=7)


@pytest.mark.parametrize(("before", "then"), sorted(set(itertools.product(Phase, Phase)) - LEGAL))
def test_an_illegal_step_raises_and_changes_nothing(before: Phase, then: Phase) -> None:
    drain = Drain(phase=before)
    with pytest.raises(ValueError, match=f"a drain cannot go from {before} to {then}"):
        drain.step(then)
    assert drain == Drain(phase=before)


# ------------------------------------------------------------------------------------------ returning

OUT, WELL, UNWELL = {"mask": 8}, {"mask": 8, "op": 2}, {"mask": 8, "op": 0}


def test_a_node_comes_back_once_all_its_servers_are_well() -> None:
    assert phases(after(drained(RG), seen(WELL, WELL))) == [RD, RD]


@pytest.mark.parametrize(("nova", "keystone"), [(WELL, UNWELL), (UNWELL, WELL), (UNWELL, UNWELL)])
def test_a_node_comes_back_as_a_whole_or_not_at_all(nova: dict[str, object], keystone: dict[str, object]) -> None:
    intent = drained(RG)
    assert after(intent, seen(nova, keystone)) is intent


def test_health_from_before_the_work_counts_for_nothing() -> None:
    intent = drained(RG)
    assert after(intent, seen(WELL, WELL), proved=(NOVA,)) is intent


def test_what_has_no_check_or_is_gone_keeps_nobody_waiting() -> None:
    assert phases(after(drained(RG), seen(WELL | {"checked": False}, WELL), proved=(KEYSTONE,))) == [RD, RD]
    assert phases(after(drained(RG), haproxy(backend("keystone")), proved=())) == [RG, RG]
    gone = with_server(haproxy(backend("keystone")), KEYSTONE, **WELL)
    assert phases(after(drained(RG), gone)) == [RD, RD]


def test_a_server_in_anothers_maint_keeps_nobody_waiting() -> None:
    intent = drained(RG, nova={"foreign": Admin.MAINT})
    assert phases(after(intent, seen({"mask": 1, "op": 0}, WELL))) == [RD, RD]


def test_one_node_does_not_wait_for_another() -> None:
    intent = drained(RG).with_drain("ctl2", "nova", Drain(phase=RG, servers=(Held(backend="nova", server="ctl2"),)))
    moved = after(intent, seen(WELL, WELL))
    assert phases(moved) == [RD, RD]
    assert phases(moved, "ctl2") == [RG]


@pytest.mark.parametrize(("deadline", "expected"), [(NOW - 1, H), (NOW, H), (NOW + 1, RG), (None, RG)])
def test_a_node_that_does_not_get_well_in_time_stays_drained_as_a_whole(deadline: int | None, expected: Phase) -> None:
    moved = after(drained(RG, deadline=deadline), seen(WELL, UNWELL))
    assert phases(moved) == [expected] * 2


def test_one_that_gets_well_at_the_last_moment_comes_back() -> None:
    assert phases(after(drained(RG, deadline=NOW), seen(WELL, WELL))) == [RD, RD]


# ------------------------------------------------------------------------------------------- released


def test_a_released_drain_is_forgotten_once_its_server_is_seen_ready() -> None:
    assert after(drained(RD), seen({"mask": 0}, {"mask": 0})).drains == {}
    assert list(after(drained(RD), seen({"mask": 0}, OUT)).drains["ctl1"]) == ["keystone"]
    assert after(drained(RD), haproxy(backend("glance"))).drains == {}, "nothing is left of what is gone"


def test_it_is_not_forgotten_while_a_worker_may_start_from_the_older_file() -> None:
    intent = drained(RD)
    assert after(intent, seen({"mask": 0}, {"mask": 0}), settled=False) is intent


@pytest.mark.parametrize(
    ("recorded", "looks", "gone"),
    [
        ({"foreign": Admin.MAINT}, {"mask": 1}, True),
        ({"foreign": Admin.DRAIN}, {"mask": 8}, True),
        (
            {"foreign": Admin.DRAIN},
            {"mask": 1},
            False,
        ),  # was put in maint, as its backend is sticky: drain is given back
        ({"agent_check": True}, {"agent_configured": True, "agent": False}, False),
        ({"agent_check": True}, {"agent_configured": True, "agent": True}, True),
        ({"agent_check": True}, {"agent_configured": False}, True),
        ({}, {"mask": 1}, False),
        ({}, {"mask": 2}, True),  # maint inherited from the server it tracks: not ours to end
    ],
)
def test_what_was_there_before_is_given_back(recorded: dict[str, object], looks: dict[str, object], gone: bool) -> None:
    moved = after(drained(RD, nova=recorded), seen(looks, {"mask": 0}))
    assert ("nova" not in moved.drains.get("ctl1", {})) is gone


# ----------------------------------------------------------------------------------------------- held


def test_a_held_drain_stays_as_it_is_for_ever() -> None:
    intent = drained(deadline=NOW - 10**6)
    assert after(intent, seen(OUT, OUT)) is intent


def test_while_haproxy_is_down_nothing_moves() -> None:
    for phase in Phase:
        intent = drained(phase, deadline=NOW - 1)
        assert after(intent, replace(seen({"mask": 0}, {"mask": 0}), up=False)) is intent


def test_what_others_give_back_during_a_drain_is_ours_from_then_on() -> None:
    moved = after(drained(nova={"foreign": Admin.MAINT}), seen({"mask": 0}, OUT))
    assert moved.held()[NOVA].server.foreign is None


def test_an_agent_check_that_is_on_is_remembered() -> None:
    moved = after(drained(), seen(OUT | {"agent": True, "agent_configured": True}, OUT))
    assert moved.held()[NOVA].server.agent_check
    assert not moved.held()[KEYSTONE].server.agent_check


def test_a_drain_that_ends_in_maint_does_so_when_the_last_request_is_done() -> None:
    busy = after(drained(end_in_maint=True), seen(OUT | {"sessions": 1}, OUT | {"sessions": 1}))
    assert {d.admin for d in busy.drains["ctl1"].values()} == {Admin.DRAIN}
    idle = after(drained(end_in_maint=True), seen(OUT, OUT))
    assert {(d.admin, d.end_in_maint) for d in idle.drains["ctl1"].values()} == {(Admin.MAINT, False)}


def test_it_does_not_skip_the_drain() -> None:
    moved = after(drained(end_in_maint=True), seen({"mask": 0}, {"mask": 0}))
    assert {d.admin for d in moved.drains["ctl1"].values()} == {Admin.DRAIN}


# -------------------------------------------------------------------------------------------- a round trip


def test_from_drain_to_ready_in_order() -> None:
    """Held, proved, released, forgotten; and never ready before its checks have passed."""
    loop = Loop(CONFIG, drained(), haproxy()).settle()
    assert {loop.observed.server(r).admin for r in (NOVA, KEYSTONE)} == {Admin.DRAIN}  # type: ignore[union-attr]
    for name in ("nova", "keystone"):
        loop.intent = loop.intent.with_drain("ctl1", name, loop.intent.drains["ctl1"][name].step(RG, NOW + 120))
    loop.done.clear()
    loop.settle()
    assert [a for a in loop.done if isinstance(a, ProveHealth | SetAdmin)] == [ProveHealth(KEYSTONE), ProveHealth(NOVA)]
    loop.observed = with_server(loop.observed, NOVA, op=2)
    assert phases(loop.settle().intent) == [RG, RG], "one of two is well"
    loop.observed = with_server(loop.observed, KEYSTONE, op=2)
    assert loop.settle().intent.drains == {}
    assert all(loop.observed.server(r).usable for r in (NOVA, KEYSTONE))  # type: ignore[union-attr]


# --------------------------------------------------------------------------------- the guard vanishes

CLOSED = Intent(revision=1).with_service("nova", ServiceIntent(mode=Mode.DOWN, start=NOW, keys=("nova",)))
BARE = haproxy(backend("nova", guard=None), backend("keystone"))


def test_a_service_that_is_down_is_kept_closed_by_maint_until_its_guard_is_back() -> None:
    loop = Loop(CONFIG, CLOSED, BARE).settle()
    assert {s.admin for s in loop.observed.backends["nova"].servers.values()} == {Admin.MAINT}
    guarded = {**loop.observed.backends, "nova": replace(loop.observed.backends["nova"], guard=1)}
    loop.observed = replace(loop.observed, backends=guarded)
    loop.settle()
    for node in ("ctl1", "ctl2", "ctl3"):
        loop.observed = with_server(loop.observed, Ref("nova", node), op=2)
    loop.settle()
    assert loop.intent.drains == {}
    assert all(s.usable for s in loop.observed.backends["nova"].servers.values())


@pytest.mark.parametrize(
    "intent",
    [
        Intent(),
        Intent().with_service("nova", ServiceIntent(mode=Mode.READ_ONLY, start=NOW, keys=("nova",))),
        Intent().with_service("nova", ServiceIntent(mode=Mode.DOWN, start=NOW + 1, at_once=False, keys=("nova",))),
    ],
    ids=["up", "read-only", "down later"],
)
def test_only_what_is_down_now_is(intent: Intent) -> None:
    assert after(intent, BARE) is intent


def test_a_guard_that_vanishes_again_while_its_servers_come_back_closes_them_again() -> None:
    closed = after(CLOSED, BARE)
    back = after(closed, haproxy())
    assert back.guardless["nova"].phase is RG
    again = after(back, BARE)
    assert again.guardless["nova"].phase is H
    assert set(again.held()) == set(closed.held())
