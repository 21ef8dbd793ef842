"""The text that HAProxy reads: the map, the lists, the server-state file. Python's re stands in for its engine."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbagent.guard import acl_lists, answers, cfg_lines, guard_map, intent_copy, server_state, state_files
from lbagent.guard.file_names import ALLOW, DENY, DIGESTS, NETWORKS, PROBES
from lbagent.haproxy.channel import LONGEST_LINE
from lbagent.model.intent import Drain, Held, Intent, Mode, ServiceIntent
from lbagent.model.servers import Admin, Ref
from lbagent.settings.config import Config
from lbagent.settings.load import parse
from tests.lab.model_haproxy import NOW, examples, intents, server

CONFIG = parse("services: {nova: {}, keystone: {}}")
UNTIL = NOW + 1200
DOWN = ServiceIntent(mode=Mode.DOWN, start=NOW, until=UNTIL, reason="upgrade", by="root", since=NOW, keys=("nova",))


def table(intent: Intent, config: Config = CONFIG) -> dict[str, str]:
    return dict(guard_map.entries(config, intent))


def fields(value: str) -> list[str]:
    return value.split("|")


# -------------------------------------------------------------------------------------------- entries


def test_on_an_ordinary_day_the_map_says_no_more_than_its_revision() -> None:
    """By it a restored backup of the intent is told from the newest."""
    assert guard_map.entries(CONFIG, Intent()) == ()
    assert guard_map.entries(CONFIG, Intent(revision=7)) == (("=revision", "7"),)


def test_a_closed_service_is_looked_up_by_its_backend() -> None:
    entries = table(Intent(revision=7).with_service("nova", DOWN))
    assert fields(entries["nova"]) == [
        "1",  # format
        "-",  # no narrower key
        "down",
        "0",  # at once, whatever the clock says
        str(UNTIL),
        "30",  # floor
        "3600",  # cap
        "30",  # spread
        "nova",
        "2026-11-23T03:16:51Z",
        "",
        "=json/nova",
        "=html/nova",
        "json",  # what it answers in, browsers apart
        "",  # no version document: its clients do without
    ]
    assert json.loads(entries["=json/nova"])["error"]["code"] == 503
    assert entries["=html/nova"].startswith("nova is closed for maintenance until about 2026-11-23T03")
    assert entries["=revision"] == "7"


@pytest.mark.parametrize(
    ("changes", "start", "end", "scheduled"),
    [
        ({"at_once": True}, "0", str(UNTIL), ""),
        ({"at_once": True, "until": None}, "0", "0", ""),
        ({"at_once": False}, str(NOW), str(UNTIL), "2026-11-23T02:56:51Z/2026-11-23T03:16:51Z"),
        ({"at_once": False, "until": None}, str(NOW), "0", "2026-11-23T02:56:51Z/.."),
    ],
)
def test_a_window(changes: dict[str, object], start: str, end: str, scheduled: str) -> None:
    service = msgspec.structs.replace(DOWN, **changes)
    value = fields(table(Intent().with_service("nova", service))["nova"])
    assert (value[3], value[4], value[10]) == (start, end, scheduled)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("nova", "nova"),
        ("public/nova", "public/nova@"),
        ("public@10.0.0.5/nova", "public/nova@10.0.0.5/"),
        ("public@2001:db8::5/nova", "public/nova@2001:db8::5/"),
        ("a.b:c/d.e", "a.b:c/d.e@"),
    ],
)
def test_keys_are_matched_by_their_beginning_the_longest_first(key: str, text: str) -> None:
    assert guard_map.key_text(key) == text


def test_what_the_guard_looks_for_begins_with_no_other_backends_key() -> None:
    """The guard asks for ``frontend/backend@address/``: neither a backend nor an address may match by its beginning."""
    asked = "public/nova@10.0.0.51/"
    assert asked.startswith(guard_map.key_text("public/nova"))
    assert not asked.startswith(guard_map.key_text("public@10.0.0.5/nova"))
    assert not "public/nova_api@10.0.0.5/".startswith(guard_map.key_text("public/nova"))


def test_a_service_closed_on_one_frontend_says_of_its_backend_only_that_there_is_a_narrower_key() -> None:
    service = msgspec.structs.replace(DOWN, keys=("public/nova", "internal@10.0.0.5/nova"))
    entries = table(Intent().with_service("nova", service))
    outer = fields(entries["nova"])
    assert outer[1:4] == ["s", "up", str(guard_map.FAR)], "scoped, and in force never"
    assert fields(entries["public/nova@"])[1:4] == ["s", "down", "0"]
    assert fields(entries["internal/nova@10.0.0.5/"])[2] == "down"


def test_two_services_on_one_backend_one_of_them_everywhere() -> None:
    public = msgspec.structs.replace(DOWN, mode=Mode.READ_ONLY, keys=("public/nova",))
    entries = table(Intent().with_service("everywhere", DOWN).with_service("public", public))
    assert fields(entries["nova"])[1:3] == ["s", "down"], "in force, and there is a narrower key"
    assert fields(entries["public/nova@"])[2] == "read-only"


def test_old_workers_are_told_where_late_requests_go() -> None:
    assert ("=steer/nova", "ctl2") in guard_map.entries(CONFIG, Intent(), {"nova": "ctl2"})


def test_a_service_that_is_no_longer_configured_stays_closed() -> None:
    assert fields(table(Intent().with_service("gone", DOWN), parse(""))["nova"])[8] == "gone"


# -------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "nova is closed for maintenance until about 2026-11-23T03:16:51Z: upgrade"),
        ({"until": None}, "nova is closed for maintenance: upgrade"),
        ({"until": None, "reason": ""}, "nova is closed for maintenance."),
        ({"mode": Mode.READ_ONLY, "until": None}, "nova is read-only during maintenance: upgrade"),
    ],
)
def test_the_sentence(changes: dict[str, object], text: str) -> None:
    assert answers.sentence("nova", msgspec.structs.replace(DOWN, **changes)) == text


NASTY = st.text(st.characters(exclude_categories=("Cs",)), max_size=500) | st.text(
    "|\\\"%[]{}\n\r#;<>&'@\u2028\x85é😀", max_size=60
)


@examples(100)
@given(NASTY)
def test_the_answer_carries_any_reason(reason: str) -> None:
    service = msgspec.structs.replace(DOWN, reason=reason)
    answer = answers.answer(CONFIG, "nova", service)
    assert reason in json.loads(answer)["error"]["message"]
    assert answer.isascii()
    assert "|" not in answer
    assert "\n" not in answer


@examples(100)
@given(NASTY)
def test_the_page_carries_any_reason_harmlessly(reason: str) -> None:
    page = table(Intent().with_service("nova", msgspec.structs.replace(DOWN, reason=reason)))["=html/nova"]
    assert re.fullmatch(r"(?:[A-Za-z0-9 .,:()/_-]|&#\d+;)*", page)


@examples(100)
@given(NASTY)
def test_every_entry_is_one_line_of_printable_ascii(reason: str) -> None:
    intent = Intent().with_service("nova", msgspec.structs.replace(DOWN, reason=reason))
    drain = Drain(reason=reason, servers=(Held(backend="nova", server="ctl1"),))
    for key, value in guard_map.entries(CONFIG, intent.with_drain("ctl1", "nova", drain)):
        assert re.fullmatch(r"[!-~\x7f][ -~\x7f]*", f"{key} {value}")
        assert " " not in key
        assert not value.endswith(" "), "which HAProxy would drop from the file, and not at run time"


def test_the_longest_reason_fits_into_a_line() -> None:
    service = msgspec.structs.replace(
        DOWN, reason="😀" * 500, by="a" * 64, keys=tuple(f"public/nova_{i}" for i in range(8))
    )
    drain = Drain(reason="😀" * 500, servers=tuple(Held(backend=f"nova_{i}", server="ctl1") for i in range(8)))
    text = guard_map.map_text(
        guard_map.entries(CONFIG, Intent().with_service("nova", service).with_drain("ctl1", "nova", drain))
    )
    assert max(len(line.encode()) for line in text.splitlines()) < LONGEST_LINE


# ------------------------------------------------------------------------------------- there and back


@examples(60)
@given(intents())
def test_the_map_carries_a_copy_of_the_intent(intent: Intent) -> None:
    assert intent_copy.intent_from(guard_map.entries(CONFIG, intent)) == intent


@examples(50)
@given(intents())
def test_the_map_file_reads_back(intent: Intent) -> None:
    entries = guard_map.entries(CONFIG, intent, {"nova": "ctl3"})
    text = guard_map.map_text(entries)
    assert guard_map.parse_map_text(text) == entries
    assert guard_map.parse_map_text(f"# a comment\n\n{text}\n") == entries


@pytest.mark.parametrize(
    "row", [("=intent/service/nova", "{"), ("=intent/drain/ctl1/nova", '{"phase":"gone"}'), ("=revision", "x")]
)
def test_a_damaged_copy_is_never_taken_for_an_intent(row: tuple[str, str]) -> None:
    with pytest.raises((msgspec.DecodeError, ValueError)):
        intent_copy.intent_from([row])


# ---------------------------------------------------------------------------------------------- lists

LISTS = acl_lists.lists(
    parse(r"""
    bypass: {networks: [10.0.0.0/8]}
    services:
      nova:
        read_only:
          allow: ["POST|PUT /search", 'POST /find\?all=.*']
          deny: ["GET /vnc|/console"]
        probes: ["GET /healthcheck"]
      nova.v2: {preset: default, probes: ["GET /ping"]}
    """)
)


def says(name: str, line: str) -> bool:
    return any(re.search(pattern, line) for pattern in LISTS[name])


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        (ALLOW, "nova POST /search", True),
        (ALLOW, "nova PUT /search", True),
        (ALLOW, "nova PATCH /search", False),
        (ALLOW, "nova POST /search/more", False),
        (ALLOW, "nova POST /x/search", False),
        (ALLOW, "nova XPOST /search", False),
        (ALLOW, "keystone POST /search", False),
        (ALLOW, "my nova POST /search", False),
        (ALLOW, "nova QUERY POST /find?all=1", True),
        (ALLOW, "nova POST /find?all=1", False),
        (DENY, "nova GET /vnc", True),
        (DENY, "nova HEAD /vnc", True),
        (DENY, "nova GET /console", True),
        (DENY, "nova POST /console", False),
        (DENY, "nova GET /vnc/more", False),
        (DENY, "nova GET /a//vnc", True),
        (DENY, "nova GET /a/../vnc", True),
        (DENY, "nova GET /vnc;x", True),
        (DENY, "nova GET //vnc", True),
        (DENY, "nova GET /%76nc", True),
        (DENY, "nova.v2 GET /a//b", False),
        (PROBES, "nova GET /healthcheck", True),
        (PROBES, "nova GET /healthcheck2", False),
        (PROBES, "nova.v2 GET /ping", True),
        (PROBES, "novaxv2 GET /ping", False),
    ],
)
def test_a_pattern_is_anchored_at_both_ends_and_belongs_to_one_service(name: str, line: str, expected: bool) -> None:
    assert says(name, line) is expected


def test_a_login_stays_possible_in_read_only_mode() -> None:
    patterns = acl_lists.lists(CONFIG)[ALLOW]
    assert any(re.search(p, "keystone POST /v3/auth/tokens") for p in patterns)
    assert any(re.search(p, "keystone POST /identity/v3/auth/tokens") for p in patterns)
    assert not any(re.search(p, "nova POST /v3/auth/tokens") for p in patterns)


def test_bypass_lists() -> None:
    assert LISTS[NETWORKS] == ("10.0.0.0/8",)
    assert LISTS[DIGESTS] == ()
    assert acl_lists.digest("abc") == "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
    assert acl_lists.lists(CONFIG, digest="F0")[DIGESTS] == ("F0",)
    assert acl_lists.list_text(("a", "b")) == "a\nb\n"


# -------------------------------------------------------------------------------------------- at rest


def test_every_file_that_the_guard_names_is_written_before_haproxy_starts() -> None:
    lines = "\n".join([*cfg_lines.lines("nova", "/state"), *cfg_lines.steer_lines("nova", "/state")])
    named = set(re.findall(r"/state/([\w.-]+)", lines))
    assert named
    assert named <= set(state_files.files_at_rest(CONFIG))
    assert not re.search(r"@[A-Z]+@", lines + "".join(state_files.files_at_rest(CONFIG).values()))
    assert f"acl lba_guard str() -m str {cfg_lines.marker('nova')}" in lines


# --------------------------------------------------------------------------------- server-state file


def test_with_nothing_held_the_state_file_is_its_version_only() -> None:
    assert server_state.state_text({}) == "1\n"
    assert server_state.state_rows("1\n") == server_state.state_rows("") == {}


@pytest.mark.parametrize(
    ("checked", "admin", "op", "mask"),
    [
        (True, Admin.DRAIN, "0", "8"),
        (False, Admin.DRAIN, "2", "8"),
        (True, Admin.MAINT, "0", "1"),
        (False, Admin.MAINT, "0", "1"),
    ],
)
def test_a_held_server_starts_held_and_a_checked_one_unproved(checked: bool, admin: Admin, op: str, mask: str) -> None:
    row = dict(zip(server_state.COLUMNS, server_state.state_row(server(checked=checked), admin).split(), strict=True))
    assert (row["srv_name"], row["srv_op_state"], row["srv_admin_state"]) == ("ctl1", op, mask)
    assert row["srv_addr"] == "10.0.0.1"


def test_the_state_file_changes_only_when_the_intent_does() -> None:
    """Its time, check and health columns move by themselves: they are fixed."""
    quiet, busy = list(server().line), list(server().line)
    for column in (
        "srv_time_since_last_change",
        "srv_check_status",
        "srv_check_result",
        "srv_check_health",
        "srv_op_state",
    ):
        busy[server_state.COLUMNS.index(column)] = "9"
    busy[server_state.COLUMNS.index("srv_check_state")] = str(6 | 1)  # a check in progress
    rows = [server_state.state_row(server(line=tuple(line)), Admin.DRAIN) for line in (quiet, busy)]
    assert rows[0] == rows[1]


def test_the_state_file_reads_back_and_is_in_order() -> None:
    rows = {
        Ref(b, s): server_state.state_row(server(b, s), Admin.DRAIN)
        for b in ("nova", "keystone")
        for s in ("ctl2", "ctl1")
    }
    text = server_state.state_text(rows)
    assert text.splitlines()[:2] == ["1", server_state.HEADER_V1]
    assert server_state.state_rows(text) == rows
    assert [line.split()[1] for line in text.splitlines()[2:]] == ["keystone", "keystone", "nova", "nova"]


@examples(100)
@given(st.text(max_size=60))
def test_a_damaged_state_file_is_read_as_far_as_it_goes(text: str) -> None:
    assert isinstance(server_state.state_rows(text), dict)
