"""From intent to actions: which steps come out, that they lead there, and whom they never touch."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from msgspec.structs import replace

from lbagent.guard import file_names, server_state, state_files
from lbagent.model.actions import (
    Action,
    CutSessions,
    ProveHealth,
    ReplaceList,
    ReplaceMap,
    SetAdmin,
    SetAgentCheck,
    WriteFile,
)
from lbagent.model.intent import Drain, Held, Intent, Mode, Phase, ServiceIntent
from lbagent.model.observed import Observed, ServerSeen, Worker
from lbagent.model.servers import Admin, Ref
from lbagent.rules.plan import address, desired, may_return, plan
from lbagent.settings.load import parse
from lbagent.topology.resolve import topology
from tests.lab.model_haproxy import (
    NODES,
    NOW,
    Loop,
    backend,
    examples,
    haproxies,
    haproxy,
    intents,
    perform,
    server,
    with_server,
)

CONFIG = parse("services: {nova: {}, keystone: {}}")
CTL1 = Ref("nova", "ctl1")
HELD = Drain(servers=(Held(backend="nova", server="ctl1"),))


def drained(**changes: object) -> Intent:
    return Intent(revision=1).with_drain("ctl1", "nova", replace(HELD, **changes))


def recorded(**facts: object) -> tuple[Held, ...]:
    return (Held(backend="nova", server="ctl1", **facts),)


def looks(**facts: object) -> Observed:
    return with_server(haproxy(), CTL1, **facts)


def of_servers(actions: list[Action]) -> list[Action]:
    return [a for a in actions if hasattr(a, "ref")]


def steps(intent: Intent, observed: Observed, proved: frozenset[Ref] = frozenset(), now: float = NOW) -> list[Action]:
    """The actions that concern servers."""
    want = desired(CONFIG, intent, topology(CONFIG, observed.backends), observed)
    return of_servers(plan(want, intent, observed, proved, now))


# -------------------------------------------------------------------------------------------- servers


@pytest.mark.parametrize(
    ("drain", "seen", "expected"),
    [
        ({}, {}, [SetAdmin(CTL1, Admin.DRAIN)]),
        ({}, {"mask": 8}, []),
        ({}, {"mask": 1}, []),
        ({"admin": Admin.MAINT}, {}, [SetAdmin(CTL1, Admin.MAINT)]),
        ({"admin": Admin.MAINT}, {"mask": 8}, [SetAdmin(CTL1, Admin.MAINT)]),
        ({"admin": Admin.MAINT}, {"mask": 1}, []),
        (
            {},
            {"agent": True, "agent_configured": True},
            [SetAgentCheck(CTL1, False), SetAdmin(CTL1, Admin.DRAIN)],
        ),
        ({"kill": True, "deadline": NOW}, {"mask": 8, "sessions": 2}, [CutSessions(CTL1)]),
        ({"kill": True, "deadline": NOW + 1}, {"mask": 8, "sessions": 2}, []),
        ({"kill": True, "deadline": NOW}, {"mask": 8}, []),
        ({"kill": False, "deadline": NOW}, {"mask": 8, "sessions": 2}, []),
        ({"servers": recorded(foreign=Admin.MAINT)}, {"mask": 1}, []),
        ({"servers": recorded(foreign=Admin.DRAIN)}, {"mask": 8}, []),
    ],
)
def test_a_held_server_is_kept_out(drain: dict[str, object], seen: dict[str, object], expected: list[Action]) -> None:
    assert steps(drained(**drain), looks(**seen)) == expected


def test_where_clients_stick_only_maint_moves_them() -> None:
    sticky = haproxy(backend("nova", sticky=True), backend("keystone"))
    assert steps(drained(), sticky) == [SetAdmin(CTL1, Admin.MAINT)]
    assert steps(drained(), with_server(sticky, CTL1, mask=8)) == [SetAdmin(CTL1, Admin.MAINT)]


@pytest.mark.parametrize(
    ("seen", "proved", "held", "expected"),
    [
        ({"mask": 8}, False, {}, [ProveHealth(CTL1)]),
        ({"mask": 8, "op": 0}, True, {}, []),  # waits for its checks
        ({"mask": 8, "op": 2}, True, {}, []),  # well: the next phase will release it
        ({"mask": 1, "op": 0}, False, {}, [ProveHealth(CTL1)]),
        ({"mask": 1, "op": 0}, True, {}, [ProveHealth(CTL1)]),
        ({"mask": 8, "checked": False}, False, {}, []),
        ({"mask": 1, "checked": False}, False, {}, [SetAdmin(CTL1, Admin.DRAIN)]),
        ({"mask": 1}, False, {"foreign": Admin.MAINT}, []),
        ({"mask": 8}, False, {"foreign": Admin.DRAIN}, []),
    ],
)
def test_a_returning_server_proves_its_health_first(
    seen: dict[str, object], proved: bool, held: dict[str, object], expected: list[Action]
) -> None:
    intent = drained(phase=Phase.RETURNING, servers=recorded(**held))
    assert steps(intent, looks(**seen), frozenset({CTL1} if proved else ())) == expected


@pytest.mark.parametrize(
    ("seen", "held", "expected"),
    [
        ({"mask": 8}, {}, [SetAdmin(CTL1, Admin.READY)]),
        ({"mask": 1}, {}, [SetAdmin(CTL1, Admin.READY)]),
        ({"mask": 0}, {}, []),
        ({"mask": 2}, {}, []),  # inherited from the server it tracks: not ours
        ({"mask": 4}, {}, []),  # disabled by the configuration
        ({"mask": 1}, {"foreign": Admin.MAINT}, []),
        ({"mask": 8}, {"foreign": Admin.DRAIN}, []),
        ({"mask": 1}, {"foreign": Admin.DRAIN}, [SetAdmin(CTL1, Admin.DRAIN)]),
        (
            {"mask": 8, "agent_configured": True},
            {"agent_check": True},
            [SetAdmin(CTL1, Admin.READY), SetAgentCheck(CTL1, True)],
        ),
        ({"agent_configured": True, "agent": True}, {"agent_check": True}, []),
        ({"agent_configured": False}, {"agent_check": True}, []),
        ({"agent_configured": True}, {"agent_check": False}, []),
    ],
)
def test_a_released_server_gets_back_what_it_had(
    seen: dict[str, object], held: dict[str, object], expected: list[Action]
) -> None:
    assert steps(drained(phase=Phase.RELEASED, servers=recorded(**held)), looks(**seen)) == expected


@pytest.mark.parametrize(
    ("seen", "proved", "held", "expected"),
    [
        (None, False, {}, True),  # gone from HAProxy: keeps nobody waiting
        ({"mask": 8, "op": 2}, False, {}, False),  # the health of before the work counts for nothing
        ({"mask": 8, "op": 2}, True, {}, True),
        ({"mask": 8, "op": 1}, True, {}, True),
        ({"mask": 8, "op": 0}, True, {}, False),
        ({"mask": 1, "op": 2}, True, {}, False),
        ({"mask": 0, "op": 2}, True, {}, False),
        ({"mask": 8, "checked": False}, False, {}, True),
        ({"mask": 1, "op": 0}, False, {"foreign": Admin.MAINT}, True),
    ],
)
def test_when_a_server_is_well(
    seen: dict[str, object] | None, proved: bool, held: dict[str, object], expected: bool
) -> None:
    found = server(**seen) if seen is not None else None
    assert may_return(found, recorded(**held)[0], {CTL1} if proved else set()) is expected


def test_a_server_that_haproxy_does_not_have_is_left_out() -> None:
    assert steps(drained(), haproxy(backend("keystone"))) == []


def test_kill_cuts_what_only_an_old_worker_still_holds() -> None:
    observed = replace(looks(mask=8), old_workers=(Worker(pid=99, sessions={CTL1: 1}, current_map=None),))
    assert steps(drained(kill=True, deadline=NOW), observed) == [CutSessions(CTL1)]


@pytest.mark.parametrize("mask", [8 | 2, 8 | 4, 8 | 32])
def test_a_maint_that_drain_cannot_lift_is_not_fought_in_every_tick(mask: int) -> None:
    assert steps(drained(phase=Phase.RETURNING), looks(mask=mask, op=0), frozenset({CTL1})) == []


# ------------------------------------------------------------------------------------- map and files


def test_files_come_first_so_that_a_worker_that_starts_meanwhile_starts_right() -> None:
    intent = drained().with_service("nova", ServiceIntent(mode=Mode.DOWN, start=NOW, keys=("nova",)))
    old = Worker(pid=99, sessions={}, current_map=())
    stale = replace(haproxy(), old_workers=(old,), lists={file_names.ALLOW: ("stale",)})
    kinds = [type(a) for a in Loop(CONFIG, intent, stale).actions()]
    files = kinds.count(WriteFile)
    assert files == len(state_files.files_at_rest(CONFIG))
    assert kinds[files:] == [ReplaceMap, ReplaceMap, ReplaceList, SetAdmin]


def test_while_haproxy_is_down_only_files_are_written() -> None:
    actions = Loop(CONFIG, drained(), replace(haproxy(), up=False)).actions()
    assert {type(a) for a in actions} == {WriteFile}


def test_a_worker_without_the_guard_is_told_nothing_of_it() -> None:
    bare = replace(haproxy(), table=None, lists={}, old_workers=(Worker(pid=99, sessions={}, current_map=None),))
    intent = Intent(revision=1).with_service("nova", ServiceIntent(mode=Mode.DOWN, start=NOW, keys=("nova",)))
    assert {type(a) for a in Loop(CONFIG, intent, bare).actions()} == {WriteFile}


def test_late_requests_of_old_workers_are_steered_to_a_server_that_is_ready() -> None:
    unwell = with_server(haproxy(), Ref("nova", "ctl2"), op=0)
    want = desired(CONFIG, drained(), topology(CONFIG, unwell.backends), unwell)
    assert ("=steer/nova", "ctl3") in want.table
    only = haproxy(backend("nova", server()), backend("keystone"))
    want = desired(CONFIG, drained(), topology(CONFIG, only.backends), only)
    assert not [key for key, _ in want.table if key.startswith("=steer/")]
    released = desired(CONFIG, drained(phase=Phase.RELEASED), topology(CONFIG, unwell.backends), unwell)
    assert "=steer/nova" not in dict(released.table)


def test_the_state_file_holds_what_is_held() -> None:
    def rows(intent: Intent, observed: Observed) -> dict[Ref, str]:
        want = desired(CONFIG, intent, topology(CONFIG, observed.backends), observed)
        return server_state.state_rows(want.files[file_names.STATE])

    assert set(rows(drained(), haproxy())) == {CTL1}
    assert set(rows(drained(phase=Phase.RETURNING), haproxy())) == {CTL1}
    assert rows(drained(phase=Phase.RELEASED), haproxy()) == {}
    before = haproxy(files={file_names.STATE: server_state.state_text(rows(drained(), haproxy()))})
    away = replace(before, backends={"keystone": before.backends["keystone"]})
    assert rows(drained(), away) == rows(drained(), haproxy()), "kept while HAProxy does not show it"


def test_a_drained_server_is_in_the_state_file_whoever_took_it_out_first() -> None:
    intent = drained(servers=recorded(foreign=Admin.MAINT))
    observed = looks(mask=1, op=0)
    want = desired(CONFIG, intent, topology(CONFIG, observed.backends), observed)
    assert CTL1 in server_state.state_rows(want.files[file_names.STATE])


# ----------------------------------------------------------------------------------------- properties


@examples(40)
@given(intents(), haproxies())
def test_any_intent_comes_into_force_on_any_haproxy_within_one_tick(intent: Intent, observed: Observed) -> None:
    """The agent takes four rounds a tick. A server that waits for its checks needs no action: it is no exception."""
    loop = Loop(CONFIG, intent, observed).tick()
    want = desired(CONFIG, loop.intent, topology(CONFIG, observed.backends), loop.observed)
    assert loop.observed.table in (None, want.table)
    assert loop.observed.files == want.files
    for ref, hold in loop.intent.held().items():
        if hold.drain.phase is not Phase.RELEASED:
            assert not _seen(loop.observed, ref).usable


@examples(40)
@given(intents(), haproxies())
def test_once_performed_nothing_is_left(intent: Intent, observed: Observed) -> None:
    """Even one round is enough, where the round moves no server's state.

    Where it does, a second follows: requests are cut once the drain is set, the steering names a server that is
    ready, the state file leaves out one that somebody else holds.
    """
    loop = Loop(CONFIG, intent, observed)
    actions = loop.actions()
    assume(not any(isinstance(a, SetAdmin | ProveHealth | CutSessions) for a in actions))
    loop.observed = perform(observed, actions)
    assert loop.actions() == []


@examples(40)
@given(intents(), haproxies())
def test_a_server_that_is_not_in_the_intent_is_never_touched(intent: Intent, observed: Observed) -> None:
    loop = Loop(CONFIG, intent, observed).settle()
    assert {a.ref for a in of_servers(loop.done)} <= loop.ever_held  # type: ignore[attr-defined]
    for name in observed.backends:
        for ref in {Ref(name, node) for node in NODES} - loop.ever_held:
            assert _seen(loop.observed, ref) == _seen(observed, ref)


@examples(40)
@given(intents(), haproxies())
def test_maint_that_somebody_else_set_is_never_lifted(intent: Intent, observed: Observed) -> None:
    foreign = {
        ref
        for ref, hold in intent.held().items()
        if hold.server.foreign is Admin.MAINT and _seen(observed, ref).admin is Admin.MAINT
    }
    loop = Loop(CONFIG, intent, observed).settle()
    assert not {a.ref for a in loop.done if isinstance(a, SetAdmin | ProveHealth)} & foreign
    assert all(_seen(loop.observed, ref).admin is Admin.MAINT for ref in foreign)


@examples(40)
@given(intents(), haproxies())
def test_with_the_whole_intent_ended_haproxy_is_as_on_an_ordinary_day(intent: Intent, observed: Observed) -> None:
    """Every drain released, every mode ended: the map says nothing, and nothing of ours is left on a server."""
    ended = Intent(revision=2)
    for node, drains in intent.drains.items():
        for name, drain in drains.items():
            ended = ended.with_drain(node, name, replace(drain, phase=Phase.RELEASED))
    loop = Loop(CONFIG, ended, observed).settle()
    assert loop.intent == Intent(revision=2)
    assert loop.observed.table in (None, (("=revision", "2"),))
    assert loop.observed.files[file_names.STATE] == "1\n"
    for ref, hold in ended.held().items():
        if hold.server.foreign is None:
            assert _seen(loop.observed, ref).admin is Admin.READY


def _seen(observed: Observed, ref: Ref) -> ServerSeen:
    return observed.backends[ref.backend].servers[ref.server]


@pytest.mark.parametrize(
    ("drain", "node", "written", "in_force", "told"),
    [
        ({"whole": True}, "ctl1", "0\n", False, ["1\n"]),  # it goes at once
        ({"whole": True}, "ctl1", None, False, ["1\n"]),
        ({"whole": True}, "ctl1", "1\n", True, []),
        ({"whole": True, "phase": Phase.RETURNING}, "ctl1", "1\n", True, []),  # its health is not proved yet
        ({"whole": True, "phase": Phase.RELEASED}, "ctl1", "1\n", False, []),  # it comes when all is in force
        ({"whole": True, "phase": Phase.RELEASED}, "ctl1", "1\n", True, ["0\n"]),
        ({}, "ctl1", "0\n", True, []),  # `--service`
        ({}, "ctl1", "1\n", True, ["0\n"]),
        ({"whole": True}, "ctl2", "0\n", True, []),  # another node
        ({"whole": True}, "ctl2", None, False, []),
    ],
)
def test_the_address_goes_at_once_and_comes_when_all_is_in_force(drain, node, written, in_force, told) -> None:
    config = parse(f"{{node: {node}, haproxy: {{vip_track_file: /vip}}}}")
    observed = Observed(up=True, files={} if written is None else {"/vip": written})
    assert [a.text for a in address(config, drained(**drain), observed, in_force)] == told
