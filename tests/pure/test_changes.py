"""What an operator may ask for, what the intent is then, and what is refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lbagent.errors import CODES, LbagentError
from lbagent.guard import guard_map, intent_copy
from lbagent.model.intent import Drain, Held, Intent, Mode, Phase, ServiceIntent
from lbagent.model.observed import Observed
from lbagent.model.servers import Admin, Ref
from lbagent.model.subject import Subject
from lbagent.model.written import FrontendWritten, Written
from lbagent.rules.change import Decision
from lbagent.rules.change import parse as parse_change
from lbagent.rules.decide import decide
from lbagent.rules.request import Site
from lbagent.settings.config import Config
from lbagent.settings.load import parse
from lbagent.topology.resolve import topology
from tests.lab.model_haproxy import NOW, Loop, backend, examples, haproxy, server, with_server
from tests.lab.model_haproxy import intents as any_intent

CONFIG = parse("""
services:
  nova: {}
  keystone: {}
  mixed: {backends: [mixed, db]}
  queue: {backends: [mq]}
  public: {backends: [shared], frontends: [public]}
  lost: {backends: [lost]}
nodes: {ctl1: {}, ctl2: {}, ctl3: {}}
""")
UP = haproxy(
    backend("nova"),
    backend("keystone"),
    backend("mixed"),
    backend("db", http=False, guard=None),
    backend("mq", http=False, guard=None),
    backend("shared"),
)
DOWN = replace(UP, up=False, error="HAProxy does not answer")


WRITTEN = Written(
    frontends={"public": FrontendWritten(((":80",),), ("shared",), dynamic=False)},
    keeps=frozenset({"nova", "keystone", "mixed", "db", "queue", "shared", "mq"}),
    cuts=frozenset(),
    sticky={},
)
SCOPED = replace(UP, written=WRITTEN)


def ask(
    body: dict[str, Any],
    intent: Intent | None = None,
    observed: Observed = UP,
    config: Config = CONFIG,
    now: float = NOW,
    by: str = "root",
) -> Decision:
    where = topology(config, observed.backends)
    return decide(Site(config, where, observed), intent or Intent(), parse_change(json.dumps(body).encode()), now, by)


WITHOUT_NOVA = parse("discover: false\nservices: {keystone: {}}")


def refused(code: str, body: dict[str, Any], *arguments: Any, **named: Any) -> str:
    """The sentence of a refusal."""
    with pytest.raises(LbagentError) as error:
        ask(body, *arguments, **named)
    assert error.value.code == code, error.value.message
    return error.value.message


def mode(word: str, *services: str, **more: Any) -> dict[str, Any]:
    return {"services": {name: {"mode": word} for name in services}, **more}


def drain(*nodes: str, services: tuple[str, ...] = ("nova",), **more: Any) -> dict[str, Any]:
    return {"nodes": {node: {"state": "drained", "services": list(services)} for node in nodes}, **more}


def ready(*nodes: str, services: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {"nodes": {node: {"state": "ready", "services": list(services)} for node in nodes}, **more}


def nova(intent: Intent) -> ServiceIntent:
    return intent.services["nova"]


def nova_on(intent: Intent, node: str = "ctl1") -> Drain:
    return intent.drains[node]["nova"]


# ------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b"{", "truncated"),
        (b"\xff", "request is not a change"),
        (b"{}", "names no service and no node"),
        (b'{"services": {}}', "names no service and no node"),
        (b'{"services": {"nova": {"mode": "closed"}}}', "mode"),
        (b'{"services": {"nova": {"mode": "down", "for": "20m"}}}', "unknown field `for`"),
        (b'{"nodes": {"ctl1": {"state": "draining"}}}', "state"),
        (b'{"nodes": {"ctl1": {}}}', "state"),
        (b'{"services": {"nova": {"mode": "up"}}, "foor": "20m"}', "unknown field `foor`"),
        (b'{"services": {"nova": {"mode": "up"}}, "reason": 5}', "reason"),
        (b'{"services": {"nova": {"mode": "up"}}, "last": "up"}', "last"),
        (b'{"services": {"nova": {"mode": "up"}}, "if_revision": "5"}', "if_revision"),
    ],
)
def test_a_request_that_is_no_change_names_the_field(body: bytes, word: str) -> None:
    with pytest.raises(LbagentError) as error:
        parse_change(body)
    assert error.value.code == "bad_request"
    assert word in error.value.message


@pytest.mark.parametrize("reason", ["", "line\nline", "é😀", "x" * 500, "\u2028"])
def test_a_reason_is_any_text(reason: str) -> None:
    assert nova(ask(mode("down", "nova", reason=reason)).intent).reason == reason


@pytest.mark.parametrize("reason", ["x" * 501, "a\tb", "a\rb", "\x00", "\x1b[2J", "\x7f", "\x85"])
def test_a_reason_is_short_and_without_control_characters(reason: str) -> None:
    assert refused("bad_request", mode("down", "nova", reason=reason)).startswith("reason: ")


@examples(80)
@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=5
    ).map(lambda tree: json.dumps(tree).encode())
)
def test_any_bytes_are_a_change_or_a_refusal(body: bytes) -> None:
    try:
        parse_change(body)
    except LbagentError as error:
        assert error.code == "bad_request"


OPTIONAL = {
    "services": st.dictionaries(
        st.sampled_from(("nova", "mixed", "queue", "none")), st.sampled_from([{"mode": m.value} for m in Mode])
    ),
    "nodes": st.dictionaries(
        st.sampled_from(("ctl1", "ctl2", "none")),
        st.fixed_dictionaries(
            {"state": st.sampled_from(("ready", "drained"))}, optional={"services": st.just(["nova"])}
        ),
    ),
    **dict.fromkeys(("for", "deadline", "timeout"), st.sampled_from(("20m", "0s", "", "x", "366d"))),
    **dict.fromkeys(("at", "until"), st.sampled_from(("2026-12-01T02:00:00Z", "2020-01-01T00:00:00Z", "", "x"))),
    **dict.fromkeys(("kill", "maint", "force"), st.booleans()),
    "last": st.sampled_from(("refuse", "down")),
    "if_revision": st.integers(0, 2),
}


@examples(100)
@given(st.fixed_dictionaries({}, optional=OPTIONAL), any_intent(), st.sampled_from((UP, DOWN, Observed(up=False))))
def test_any_change_gives_an_intent_that_can_be_written_or_a_known_refusal(
    body: dict[str, Any], intent: Intent, observed: Observed
) -> None:
    try:
        decision = ask(body, intent, observed)
    except LbagentError as error:
        assert error.code in CODES
    else:
        assert intent_copy.intent_from(guard_map.entries(CONFIG, decision.intent)) == decision.intent


def test_a_change_made_for_another_revision_is_refused() -> None:
    intent = Intent(revision=7)
    assert ask(mode("down", "nova", if_revision=7), intent)
    assert "revision 7, the change was made for 6" in refused("revision", mode("down", "nova", if_revision=6), intent)


# ------------------------------------------------------------------------------------------- services


def test_down_closes_at_once_until_its_end() -> None:
    decision = ask(mode("down", "nova", **{"for": "20m", "reason": "upgrade"}))
    assert nova(decision.intent) == ServiceIntent(
        mode=Mode.DOWN,
        start=NOW,
        at_once=True,
        until=NOW + 1200,
        reason="upgrade",
        by="root",
        since=NOW,
        keys=("nova",),
        deadline=NOW + 300,
    )
    assert (decision.command, decision.services, decision.deadline) == ("down", ("nova",), NOW + 300)


def test_a_service_is_closed_on_its_frontends() -> None:
    assert ask(mode("down", "public"), observed=SCOPED).intent.services["public"].keys == ("public/shared",)


@pytest.mark.parametrize(
    ("window", "start", "at_once", "until"),
    [
        ({}, NOW, True, None),
        ({"for": "20m"}, NOW, True, NOW + 1200),
        ({"until": "2026-12-01T02:00:00Z"}, NOW, True, 1796090400),
        ({"at": "2026-12-01T02:00:00Z"}, 1796090400, False, None),
        ({"at": "2026-12-01T02:00:00Z", "for": "20m"}, 1796090400, False, 1796090400 + 1200),
        ({"at": "2026-12-01T02:00:00Z", "until": "2026-12-01T02:00:01Z"}, 1796090400, False, 1796090401),
    ],
)
def test_windows(window: dict[str, str], start: int, at_once: bool, until: int | None) -> None:
    service = nova(ask(mode("read-only", "nova", **window)).intent)
    assert (service.mode, service.start, service.at_once, service.until) == (Mode.READ_ONLY, start, at_once, until)


@pytest.mark.parametrize(
    ("window", "sentence"),
    [
        ({"for": "20m", "until": "2026-12-01T02:00:00Z"}, "for and until say the same thing twice"),
        ({"for": "20"}, "for: '20' is not a duration"),
        ({"for": ""}, "for: '' is not a duration"),
        ({"until": "later"}, "until: 'later' is not an ISO 8601 time"),
        ({"until": ""}, "until: '' is not an ISO 8601 time"),
        ({"until": "2026-11-01T02:00:00Z"}, "until: 2026-11-01T02:00:00Z is in the past"),
        ({"at": "2026-11-01T02:00:00Z"}, "at: 2026-11-01T02:00:00Z is in the past; leave it out to start now"),
        ({"at": "2026-12-01T02:00:00Z", "until": "2026-12-01T02:00:00Z"}, "is not after its start"),
        ({"deadline": "soon"}, "deadline: 'soon' is not a duration"),
        ({"timeout": "5"}, "timeout: '5' is not a duration"),
    ],
)
def test_windows_that_make_no_sense(window: dict[str, str], sentence: str) -> None:
    assert sentence in refused("bad_request", mode("down", "nova", **window))


def test_an_empty_start_does_not_close_at_once() -> None:
    assert "at: " in refused("bad_request", mode("down", "nova", at=""))


def test_an_end_beyond_all_calendars_is_refused() -> None:
    refused("bad_request", mode("down", "nova", **{"at": "9999-12-31T23:59:59Z", "for": "2d"}))


@pytest.mark.parametrize("window", [{"for": "20m"}, {"until": "2026-12-01T02:00:00Z"}, {"at": "2026-12-01T02:00:00Z"}])
@pytest.mark.parametrize("body", [mode("up", "nova"), drain("ctl1")])
def test_only_a_closed_service_has_a_window(body: dict[str, Any], window: dict[str, str]) -> None:
    assert "belong to down and read-only only" in refused("bad_request", {**body, **window})


def test_up_ends_it_also_for_a_service_that_is_no_longer_configured() -> None:
    closed = ask(mode("down", "nova")).intent
    assert ask(mode("up", "nova"), closed).intent.services == {}
    assert ask(mode("up", "nova"), closed, config=WITHOUT_NOVA).intent.services == {}
    assert ask(mode("up", "nova"), Intent()).intent == Intent(), "up of what is up changes nothing"


def test_an_orphan_stays_as_it_is_until_it_is_ended() -> None:
    closed = ask(mode("down", "nova")).intent
    sentence = refused("unknown_service", mode("read-only", "nova"), closed, config=WITHOUT_NOVA)
    assert "`lbctl up nova` ends it" in sentence


def test_unknown_names_are_refused_with_those_that_there_are() -> None:
    assert "no service 'novaa'; there are: keystone" in refused("unknown_service", mode("down", "novaa"))
    assert "no node 'ctl9'; there are: ctl1, ctl2, ctl3" in refused("unknown_node", drain("ctl9"))
    assert "no service on ctl1 'novaa'" in refused("unknown_service", drain("ctl1", services=("novaa",)))
    assert "no service on ctl1 'novaa'" in refused("unknown_service", ready("ctl1", services=("novaa",)))
    nobody = parse("services: {nova: {}}\nnodes: {ctl1: {}, ctl9: {}}")
    assert "ctl9 has no servers" in refused("unknown_node", drain("ctl9", services=()), config=nobody)


def test_a_service_with_a_tcp_backend_is_not_closed_by_pretending() -> None:
    assert "mixed has db" in refused("tcp_backend", mode("down", "mixed"))
    assert "--force to close the http part alone" in refused("tcp_backend", mode("read-only", "mixed", "nova"))
    forced = ask(mode("down", "mixed", force=True))
    assert forced.intent.services["mixed"].keys == ("mixed",)
    assert forced.notes == ("overridden: tcp_backend: stays open, mode tcp: mixed has db",)
    assert "queue has mq" in refused("tcp_backend", mode("down", "queue", force=True)), "nothing of it can be closed"


def test_without_a_guard_nothing_is_closed() -> None:
    bare = haproxy(backend("nova", guard=None), backend("keystone"))
    sentence = refused("guard_missing", mode("down", "nova", "keystone"), observed=bare)
    assert "nova (nova)" in sentence
    assert "keystone" not in sentence
    assert "`lbctl haproxy adopt --write`" in sentence
    assert ask(mode("up", "nova"), observed=bare), "opening needs no guard"


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        (replace(UP, written=None), "public: HAProxy's configuration cannot be read"),
        (replace(SCOPED, written=replace(WRITTEN, frontends={})), "has no frontend public"),
        (replace(SCOPED, frontends=frozenset({"internal"})), "runs no frontend public yet"),
        (replace(DOWN, written=replace(WRITTEN, frontends={})), "has no frontend public"),
    ],
)
def test_a_scope_that_cannot_be_kept_is_refused(observed: Observed, words: str) -> None:
    assert words in refused("scope", mode("down", "public"), observed=observed)


def test_a_service_without_any_backend_in_haproxy_is_not_closed_by_pretending() -> None:
    assert "no such backend: lost" in refused("guard_missing", mode("down", "lost"))


def test_while_haproxy_is_down_a_mode_is_taken_for_when_it_starts() -> None:
    assert nova(ask(mode("down", "nova"), observed=DOWN).intent).keys == ("nova",)


def test_a_mode_taken_before_haproxy_was_ever_seen_has_its_keys() -> None:
    assert nova(ask(mode("down", "nova"), observed=Observed(up=False)).intent).keys == ("nova",)


def test_a_window_ahead_would_open_a_service_that_is_closed_now() -> None:
    closed = ask(mode("down", "nova")).intent
    sentence = refused("window_open", mode("down", "nova", at="2026-12-01T02:00:00Z"), closed)
    assert "`lbctl up nova`" in sentence
    ahead = ask(mode("down", "nova", at="2026-12-01T02:00:00Z")).intent
    moved = ask(mode("down", "nova", at="2026-12-02T02:00:00Z"), ahead).intent
    assert nova(moved).start == nova(ahead).start + 86400, "one that lies ahead can be moved"


def test_a_window_that_has_opened_by_itself_is_kept_when_down_is_said_again() -> None:
    ahead = ask(mode("down", "nova", **{"at": "2026-12-01T02:00:00Z", "for": "1h"})).intent
    again = nova(ask(mode("down", "nova"), ahead, now=1796090400 + 60).intent)
    assert (again.start, again.until, again.at_once) == (1796090400, 1796090400 + 3600, True)


def test_saying_it_again_later_keeps_start_end_and_reason_unless_told_otherwise() -> None:
    first = ask(mode("down", "nova", **{"for": "20m", "reason": "upgrade"})).intent
    again = nova(ask(mode("down", "nova"), first, now=NOW + 60).intent)
    assert (again.start, again.until, again.reason, again.since) == (NOW, NOW + 1200, "upgrade", NOW)
    longer = nova(ask(mode("down", "nova", **{"for": "1h", "reason": "takes longer"}), first, now=NOW + 60).intent)
    assert (longer.start, longer.until, longer.reason) == (NOW, NOW + 3660, "takes longer")
    other = nova(ask(mode("read-only", "nova"), first, now=NOW + 60).intent)
    assert (other.start, other.until, other.reason) == (NOW + 60, None, "")


# ---------------------------------------------------------------------------------------------- nodes


def test_drain_takes_the_nodes_servers_of_every_service() -> None:
    decision = ask(drain("ctl1", services=(), reason="kernel", kill=True, maint=True, deadline="1m"))
    assert sorted(decision.intent.drains["ctl1"]) == ["keystone", "mixed", "nova", "public", "queue"]
    assert nova_on(decision.intent) == Drain(
        phase=Phase.HELD,
        admin=Admin.DRAIN,
        end_in_maint=True,
        kill=True,
        whole=True,
        deadline=NOW + 60,
        reason="kernel",
        by="root",
        since=NOW,
        servers=(Held(backend="nova", server="ctl1"),),
    )
    assert [h.ref for h in decision.intent.drains["ctl1"]["mixed"].servers] == [Ref("mixed", "ctl1"), Ref("db", "ctl1")]
    assert (decision.command, decision.deadline) == ("drain", NOW + 60)
    assert Subject("ctl1", "nova") in decision.drains


def test_drain_and_ready_of_some_services_only() -> None:
    drained = ask(drain("ctl1", services=("nova", "keystone"))).intent
    assert set(drained.drains["ctl1"]) == {"nova", "keystone"}
    back = ask(ready("ctl1", services=("nova",)), drained)
    assert back.returns == (Subject("ctl1", "nova"),)
    assert nova_on(back.intent).phase is Phase.RETURNING
    assert back.intent.drains["ctl1"]["keystone"].phase is Phase.HELD


def test_ready_asks_for_health_first_and_force_does_not() -> None:
    drained = ask(drain("ctl1")).intent
    waits = ask(ready("ctl1", timeout="1m"), drained)
    assert (nova_on(waits.intent).phase, nova_on(waits.intent).deadline, waits.deadline) == (
        Phase.RETURNING,
        NOW + 60,
        NOW + 60,
    )
    assert nova_on(ask(ready("ctl1", force=True), drained).intent).phase is Phase.RELEASED
    assert nova_on(ask(ready("ctl1", force=True), waits.intent).intent).phase is Phase.RELEASED


def test_ready_of_a_node_that_is_ready_changes_nothing() -> None:
    assert ask(ready("ctl1")).intent == Intent()


def test_drain_calls_a_returning_node_back() -> None:
    returning = ask(ready("ctl1"), ask(drain("ctl1")).intent).intent
    assert nova_on(ask(drain("ctl1"), returning).intent).phase is Phase.HELD


def test_maint_set_by_others_is_recorded_said_and_left() -> None:
    foreign = with_server(UP, Ref("nova", "ctl1"), mask=1, op=0)
    drained = ask(drain("ctl1"), observed=foreign)
    assert nova_on(drained.intent).servers == (Held(backend="nova", server="ctl1", foreign=Admin.MAINT),)
    assert drained.notes == ("nova/ctl1 is in maint already, set by somebody else: it stays so after `lbctl ready`",)
    back = ask(ready("ctl1"), drained.intent, foreign)
    assert back.notes == ("nova/ctl1 stays in maint: somebody else put it there",)
    bare = ask(ready("ctl1"), Intent(), foreign)
    assert bare.notes == ("nova/ctl1 stays in maint: somebody else put it there",)
    assert bare.intent == Intent()


def test_an_agent_check_is_recorded_so_that_it_is_on_again_afterwards() -> None:
    checked = with_server(UP, Ref("nova", "ctl1"), agent=True, agent_configured=True)
    assert nova_on(ask(drain("ctl1"), observed=checked).intent).servers[0].agent_check


def test_what_is_recorded_of_a_server_outlives_a_second_drain() -> None:
    held = (Held(backend="nova", server="ctl1", foreign=Admin.DRAIN, agent_check=True),)
    before = Intent().with_drain("ctl1", "nova", Drain(servers=held, since=5, reason="first"))
    after = nova_on(ask(drain("ctl1"), before, with_server(UP, Ref("nova", "ctl1"), mask=8)).intent)
    assert (after.servers, after.since, after.reason) == (held, 5, "first")


SHARED = parse(
    "services: {pub: {backends: [nova], frontends: [public]}, int: {backends: [nova], frontends: [internal]}}"
)


def test_a_server_that_lbagent_drains_for_another_service_is_not_foreign() -> None:
    first = Loop(SHARED, ask(drain("ctl1", services=("pub",)), config=SHARED).intent, UP)
    first.settle()
    second = ask(drain("ctl1", services=("int",)), first.intent, first.observed, SHARED)
    assert second.intent.drains["ctl1"]["int"].servers == (Held(backend="nova", server="ctl1"),)
    assert second.notes == ()


def test_a_held_server_that_the_configuration_lost_stays_held_when_drain_is_repeated() -> None:
    both = parse("services: {nova: {backends: [nova, keystone]}}")
    drained = ask(drain("ctl1"), config=both).intent
    fewer = parse("services: {nova: {backends: [nova]}}")
    assert Ref("keystone", "ctl1") in ask(drain("ctl1"), drained, config=fewer).intent.held()


# ------------------------------------------------------------------------------------------ last server

LAST = haproxy(backend("nova", server("nova", "ctl1"), server("nova", "ctl2")))


@pytest.mark.parametrize(
    "facts",
    [
        {"weight": 0},
        {"op": 0},
        {"op": 3},
        {"mask": 1},
        {"mask": 8},
        {"mask": 5},
        {"mask": 32},
    ],
    ids=["weight 0", "unhealthy", "stopping", "foreign maint", "foreign drain", "disabled", "unresolved"],
)
def test_the_last_ready_server_is_not_drained(facts: dict[str, object]) -> None:
    observed = with_server(LAST, Ref("nova", "ctl2"), **facts)
    sentence = refused("last_server", drain("ctl1"), observed=observed)
    assert "last ready server of nova (nova: nova would keep 0 of 1 ready)" in sentence
    for way_out in ("Bring another node back first", "--last down", "--force"):
        assert way_out in sentence


def test_a_backend_that_was_dead_before_stands_in_nobodys_way() -> None:
    dead = {f"ctl{n}": {"op": 0} for n in (1, 2)}
    observed = LAST
    for name, facts in dead.items():
        observed = with_server(observed, Ref("nova", name), **facts)
    assert ask(drain("ctl1"), observed=observed).intent.drains["ctl1"]["nova"].servers[0].was_down


def test_only_the_rule_that_is_named_is_set_aside() -> None:
    observed = with_server(LAST, Ref("nova", "ctl2"), op=0)
    assert ask(drain("ctl1") | {"override": ["last_server"]}, observed=observed).notes
    refused("last_server", drain("ctl1") | {"override": ["tcp_backend"]}, observed=observed)
    assert "is no rule" in refused("bad_request", drain("ctl1") | {"override": ["guard"]}, observed=observed)


@pytest.mark.parametrize("facts", [{"op": 1}, {"checked": False}, {"sessions": 9}, {"backup": True}])
def test_another_ready_server_is_enough(facts: dict[str, object]) -> None:
    assert ask(drain("ctl1"), observed=with_server(LAST, Ref("nova", "ctl2"), **facts))


def test_two_drains_together_never_empty_a_service() -> None:
    first = ask(drain("ctl1"), observed=LAST).intent
    refused("last_server", drain("ctl2"), first, LAST)
    refused("last_server", drain("ctl1", "ctl2"), observed=LAST)
    assert ask(drain("ctl1"), first, LAST), "saying the first one again is no second drain"
    returning = ask(ready("ctl1"), first, LAST).intent
    refused("last_server", drain("ctl2"), returning, LAST)


def test_min_ready_is_what_has_to_stay() -> None:
    two = parse("services: {nova: {min_ready: 2}}")
    assert ask(drain("ctl1"), config=two)
    assert "nova would keep 1 of 2" in refused("last_server", drain("ctl1", "ctl2"), config=two)
    none = parse("services: {nova: {min_ready: 0}}")
    assert ask(drain("ctl1", "ctl2", "ctl3"), config=none)


def test_every_backend_counts_and_every_service_is_named() -> None:
    both = haproxy(backend("nova", server("nova", "ctl1")), backend("keystone", server("keystone", "ctl1")))
    sentence = refused("last_server", drain("ctl1", services=()), observed=both)
    assert (
        "keystone, nova (keystone: keystone would keep 0 of 1; nova: nova would keep 0 of 1 ready)"
        in sentence.replace(" ready;", ";")
    )


def test_a_service_that_is_down_may_lose_its_last_server_and_one_that_is_read_only_may_not() -> None:
    one = haproxy(backend("nova", server("nova", "ctl1")))
    assert ask(drain("ctl1"), ask(mode("down", "nova"), observed=one).intent, one)
    assert ask({**mode("down", "nova"), **drain("ctl1")}, observed=one), "in one atomic change as well"
    refused("last_server", drain("ctl1"), ask(mode("read-only", "nova"), observed=one).intent, one)
    ahead = ask(mode("down", "nova", at="2026-12-01T02:00:00Z"), observed=one).intent
    refused("last_server", drain("ctl1"), ahead, one)


def test_last_down_closes_the_service_with_it() -> None:
    one = haproxy(backend("nova", server("nova", "ctl1")))
    decision = ask(drain("ctl1", last="down", reason="kernel"), observed=one)
    assert (nova(decision.intent).mode, nova(decision.intent).reason) == (Mode.DOWN, "kernel")
    assert "nova" in decision.services, "and the command waits for it to be quiesced"
    assert "`lbctl up` opens them again" in decision.notes[0]


def test_last_down_cannot_close_what_has_no_guard_or_no_http() -> None:
    bare = haproxy(backend("nova", server("nova", "ctl1"), guard=None))
    refused("guard_missing", drain("ctl1", last="down"), observed=bare)
    queue = haproxy(backend("mq", server("mq", "ctl1"), http=False))
    refused("last_server", drain("ctl1", services=("queue",)), observed=queue)
    refused("tcp_backend", drain("ctl1", services=("queue",), last="down"), observed=queue)


def test_force_drains_the_last_server_and_says_so() -> None:
    one = haproxy(backend("nova", server("nova", "ctl1")))
    decision = ask(drain("ctl1", force=True), observed=one)
    assert decision.intent.services == {}
    assert decision.notes == ("overridden: last_server: nova: nova would keep 0 of 1 ready",)


# ------------------------------------------------------------------------------------ the same again


@pytest.mark.parametrize(
    "body",
    [
        mode("down", "nova"),
        mode("down", "nova", "keystone", **{"for": "20m", "reason": "x"}),
        mode("read-only", "nova", until="2026-12-01T02:00:00Z"),
        mode("down", "nova", at="2026-12-01T02:00:00Z"),
        mode("up", "nova"),
        drain("ctl1"),
        drain("ctl1", services=(), maint=True, kill=True),
        ready("ctl1"),
        ready("ctl1", force=True),
        drain("ctl1", "ctl2", "ctl3", last="down"),
        {**mode("down", "nova"), **drain("ctl1"), "for": "20m"},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize(
    "before", [{}, mode("down", "keystone"), drain("ctl1"), mode("read-only", "mixed", force=True)], ids=json.dumps
)
def test_a_repeated_command_is_harmless(before: dict[str, Any], body: dict[str, Any]) -> None:
    start = ask(before).intent if before else Intent()
    once = ask(body, start).intent
    twice = ask(body, once)
    assert twice.intent == once
    assert twice.command == ask(body, start).command


def test_commands_are_named() -> None:
    assert ask({**mode("down", "nova"), **drain("ctl1", services=("keystone",))}).command == "change"
    assert ask(mode("read-only", "nova")).command == "read-only"
    assert ask(ready("ctl1")).command == "ready"
