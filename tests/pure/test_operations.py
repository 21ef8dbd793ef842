"""What a command waits for, in words, and how it ends."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from lbagent.errors import Exit
from lbagent.model.intent import Drain, Held, Intent, Mode, Phase, ServiceIntent
from lbagent.model.observed import Observed, Stream, Worker
from lbagent.model.servers import Admin, Ref
from lbagent.model.subject import Subject
from lbagent.rules.change import Decision
from lbagent.rules.operations import GRACE, Operation, begin, judge
from lbagent.rules.waiting import Situation
from tests.lab.model_haproxy import NOW, haproxy, with_server

CTL1 = Ref("nova", "ctl1")
CLOSED = Intent(revision=3).with_service("nova", ServiceIntent(mode=Mode.DOWN, start=NOW, keys=("nova",)))
POST = Stream(100, "7[x]", "nova", "public", 3, "ctl1", "0x1")


def drained(phase: Phase = Phase.HELD, **changes: object) -> Intent:
    held = Held(backend="nova", server="ctl1", foreign=changes.pop("foreign", None))  # type: ignore[arg-type]
    return Intent(revision=3).with_drain("ctl1", "nova", Drain(phase=phase, servers=(held,), **changes))  # type: ignore[arg-type]


def operation(**changes: object) -> Operation:
    made = Operation(id="3-1", command="down", by="root", reason="", revision=3, started=NOW, deadline=NOW + 300)
    return replace(made, **changes)


def at(intent: Intent, observed: Observed | None = None, **changes: object) -> Situation:
    situation = Situation(
        intent=intent, observed=observed or haproxy(), barriers={}, confirmed=3, failures=(), now=NOW + 1
    )
    return replace(situation, **changes)


DRAIN = operation(command="drain", drains=(Subject("ctl1", "nova"),))
READY = operation(command="ready", returns=(Subject("ctl1", "nova"),))
DOWN = operation(services=("nova",))


def test_an_operation_begins_with_what_was_decided() -> None:
    decision = Decision(
        intent=CLOSED,
        command="change",
        services=("nova",),
        drains=(Subject("ctl1", "nova"), Subject("ctl1", "keystone")),
        returns=(Subject("ctl2", "nova"),),
        notes=("a note",),
        deadline=NOW + 60,
    )
    begun = begin("3-1", decision, 3, "root", "kernel", NOW)
    assert (begun.state, begun.exit, begun.services, begun.notes) == ("running", None, ("nova",), ("a note",))
    assert (begun.nodes, begun.deadline, begun.reason) == (("ctl1", "ctl2"), NOW + 60, "kernel")


@pytest.mark.parametrize(
    ("what", "situation"),
    [
        (DOWN, at(CLOSED, barriers={"nova": {}})),
        (DOWN, at(Intent(revision=3))),  # up: nothing to wait for
        (DOWN, at(Intent().with_service("nova", ServiceIntent(mode=Mode.DOWN, start=NOW + 60, at_once=False)))),
        (DRAIN, at(drained(), with_server(haproxy(), CTL1, mask=8))),
        (READY, at(Intent(revision=3))),
    ],
)
def test_done(what: Operation, situation: Situation) -> None:
    judged = judge(what, situation)
    assert (judged.state, judged.exit, judged.open, judged.ended) == ("done", Exit.DONE, (), NOW + 1)


@pytest.mark.parametrize(
    ("what", "intent", "line"),
    [
        (DRAIN, Intent(revision=4), "nova: somebody made ctl1 ready meanwhile"),
        (DRAIN, drained(Phase.RETURNING), "nova: somebody made ctl1 ready meanwhile"),
        (
            replace(DOWN, modes={"nova": Mode.DOWN}),
            Intent(revision=4),
            "nova: somebody changed it to up meanwhile",
        ),
        (
            replace(DOWN, modes={"nova": Mode.READ_ONLY}),
            CLOSED,
            "nova: somebody changed it to down meanwhile",
        ),
        (replace(DOWN, modes={"nova": Mode.UP}), CLOSED, "nova: somebody changed it to down meanwhile"),
    ],
)
def test_what_somebody_else_has_undone_is_never_called_done(what: Operation, intent: Intent, line: str) -> None:
    judged = judge(what, at(intent, barriers={"nova": {}}))
    assert (judged.state, judged.exit, judged.open) == ("failed", Exit.FAILED, (line,))


def test_nothing_is_done_before_every_worker_was_read_back() -> None:
    waiting = judge(DOWN, at(CLOSED, barriers={"nova": {}}, confirmed=2))
    assert waiting.state == "running"
    assert waiting.open == ("not every worker of HAProxy has confirmed the change yet: a reload is under way",)
    failing = judge(DOWN, at(CLOSED, barriers={"nova": {}}, confirmed=2, failures=("disk full",)))
    assert failing.open == ("disk full",)


def test_while_haproxy_is_down_a_command_is_kept_and_said_to_be_pending() -> None:
    gone = replace(haproxy(), up=False, error="HAProxy does not answer on /x")
    judged = judge(DOWN, at(CLOSED, gone))
    assert (judged.state, judged.exit) == ("pending", Exit.NOT_YET_IN_FORCE)
    assert judged.open == ("HAProxy does not answer on /x; it will be in force the moment HAProxy starts",)
    failed = judge(DOWN, at(CLOSED, gone, unwritten=("/state/x: disk full",)))
    assert (failed.state, failed.exit, failed.open) == ("failed", Exit.FAILED, ("/state/x: disk full",))


def test_down_waits_for_the_requests_from_before_and_names_their_places() -> None:
    assert judge(DOWN, at(CLOSED)).open == ("nova: its older requests are being counted",)
    old = replace(POST, pid=99)
    queued = replace(POST, id="9", server="<NONE>")
    barrier = {(s.pid, s.id, s.method): s for s in (POST, replace(POST, id="8"), old, queued)}
    assert judge(DOWN, at(CLOSED, barriers={"nova": barrier})).open == (
        "nova: nova: 1 request from before",
        "nova: nova/ctl1: 2 requests from before",
        "nova: nova/ctl1 in old worker 99: 1 request from before",
    )


def test_drain_waits_for_open_requests_in_every_worker() -> None:
    observed = with_server(haproxy(), CTL1, mask=8, sessions=2)
    assert judge(DRAIN, at(drained(), observed)).open == ("nova: nova/ctl1: 2 requests open",)
    old = Worker(pid=99, sessions={CTL1: 1}, current_map=())
    late = replace(with_server(haproxy(), CTL1, mask=8), old_workers=(old,))
    assert judge(DRAIN, at(drained(), late)).open == ("nova: nova/ctl1: 1 request open, old worker 99",)


def test_an_old_worker_without_the_guard_has_to_end() -> None:
    old = Worker(pid=99, sessions={}, current_map=None)
    late = replace(with_server(haproxy(), CTL1, mask=8), old_workers=(old,))
    for what, situation in ((DRAIN, at(drained(), late)), (DOWN, at(CLOSED, late, barriers={"nova": {}}))):
        assert "old worker 99 of HAProxy carries no guard" in judge(what, situation).open[0]


def test_a_drain_that_ends_in_maint_waits_for_it() -> None:
    observed = with_server(haproxy(), CTL1, mask=8)
    assert judge(DRAIN, at(drained(end_in_maint=True), observed)).open == (
        "nova: HAProxy is putting its servers in maint",
    )


@pytest.mark.parametrize(
    ("phase", "facts", "line"),
    [
        (Phase.RETURNING, {"mask": 8, "op": 0}, "nova: nova/ctl1: waiting for health checks, now down"),
        (Phase.RETURNING, {"mask": 8, "checked": False}, "nova: HAProxy is being told to use it again on ctl1"),
        (Phase.RELEASED, {"mask": 8}, "nova: HAProxy is being told to use it again on ctl1"),
    ],
)
def test_ready_waits_for_health(phase: Phase, facts: dict[str, object], line: str) -> None:
    judged = judge(READY, at(drained(phase), with_server(haproxy(), CTL1, **facts)))
    assert (judged.state, judged.open) == ("running", (line,))


def test_ready_gives_up_when_the_node_did_not_get_well() -> None:
    judged = judge(READY, at(drained(Phase.HELD, given_up=True), with_server(haproxy(), CTL1, mask=8, op=0)))
    assert (judged.state, judged.exit) == ("deadline", Exit.DEADLINE)
    assert judged.open == ("nova: nova/ctl1: stays drained, its health is down",)


def test_ready_that_a_drain_has_overtaken_is_no_matter_of_health() -> None:
    again = drained(Phase.HELD, deadline=int(NOW) + 60)
    judged = judge(READY, at(again, with_server(haproxy(), CTL1, mask=8, op=0)))
    assert (judged.state, judged.exit) == ("failed", Exit.FAILED)
    assert judged.open == ("nova: somebody drained ctl1 again meanwhile",)


def test_ready_says_that_it_was_another_server() -> None:
    judged = judge(
        READY, at(drained(Phase.HELD, foreign=Admin.MAINT, given_up=True), with_server(haproxy(), CTL1, mask=1))
    )
    assert judged.open == ("nova: stays drained on ctl1: another server of the node fails its health check",)


@pytest.mark.parametrize(
    ("what", "intent", "late"),
    [
        (DRAIN, drained(), 0),
        (DRAIN, drained(kill=True), GRACE),
        (READY, drained(Phase.RETURNING), GRACE),
    ],
)
def test_a_deadline_that_passes_leaves_things_as_they_are_and_says_what_is_open(
    what: Operation, intent: Intent, late: int
) -> None:
    observed = with_server(haproxy(), CTL1, mask=8, op=0, sessions=1)
    assert judge(what, at(intent, observed, now=NOW + 299 + late)).state == "running"
    judged = judge(what, at(intent, observed, now=NOW + 300 + late))
    assert (judged.state, judged.exit, len(judged.open)) == ("deadline", Exit.DEADLINE, 1)


def test_what_is_done_at_the_deadline_is_done() -> None:
    assert judge(DOWN, at(CLOSED, barriers={"nova": {}}, now=NOW + 300)).state == "done"


def test_an_operation_that_has_ended_stays_as_it_is() -> None:
    ended = operation(state="deadline", exit=4, open=("x",), ended=NOW)
    assert judge(ended, at(Intent(), now=NOW + 9999)) is ended
