"""What HAProxy answers, read: the texts below are a real 2.6.12's, shortened."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbagent.errors import HAProxyDown, HAProxyError
from lbagent.guard import file_names
from lbagent.haproxy.channel import LONGEST_LINE, LONGEST_ROW, Channel, NotSent, Transport, grouped, split
from lbagent.haproxy.observe import Facts, Seen
from lbagent.haproxy.observe import observe as observe_channel
from lbagent.haproxy.perform import perform as perform_channel
from lbagent.haproxy.perform import replace
from lbagent.haproxy.streams import streams as streams_channel
from lbagent.model.actions import Action, CutSessions, ProveHealth, ReplaceMap, SetAdmin, SetAgentCheck, WriteFile
from lbagent.model.observed import Stream
from lbagent.model.servers import Admin, Health, Ref
from tests.lab.model_haproxy import examples

DIR = "/var/lib/lbagent/haproxy"

INFO = """\
Name: HAProxy
Version: 2.6.12-1+deb12u4
Release_date: 2026/10/17
Nbthread: 2
Pid: 31815
Uptime: 0d 0h00m02s
Stopping: 0
Build info: 2.6.12-1+deb12u4
"""

STATE = """\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port
3 nova 1 ctl1 127.0.0.1 2 0 1 1 2 1 0 2 0 0 0 0 - 28472 - 0 0 - - 0
3 nova 2 ctl2 127.0.0.1 0 0 1 1 2 8 2 0 6 0 0 0 - 28479 - 0 0 - - 0
4 db 1 ctl1 127.0.0.1 2 0 1 1 2 1 0 2 0 0 0 0 - 28472 - 0 0 - - 0
"""  # noqa: E501 one line in HAProxy

STAT = """\
# pxname,svname,qcur,qmax,scur,smax,status,weight,act,bck,tracked,type,cookie,mode,
public,FRONTEND,,,3,3,OPEN,,,,,0,,http,
nova,ctl1,1,0,2,2,no check,1,1,0,,2,,http,
nova,ctl2,0,0,0,0,DOWN,1,0,1,,2,,http,
nova,BACKEND,0,0,2,2,UP,1,1,0,,1,S,http,
db,FRONTEND,,,1,1,OPEN,,,,,0,,tcp,
db,ctl1,0,0,1,1,no check,1,1,0,,2,,tcp,
db,BACKEND,0,0,1,1,UP,1,1,0,,1,,tcp,
"""

ACLS = """\
# id (file) description
0 () acl 'str' file 'h.cfg' line 15. curr_ver=0 next_ver=0 entry_cnt=1
1 () acl 'var' file 'httpclient' line 0. curr_ver=0 next_ver=0 entry_cnt=1
"""

TABLES = """\
# table: db, type: ip, size:1024, used:0
"""

SESSIONS = """\
0x55b0924428f0: [23/Nov/2026:07:57:05.028359] id=0 proto=tcpv4 source=127.0.0.1:54152
  flags=0x4a, conn_retries=0, conn_exp=<NEVER> conn_et=0x000 srv_conn=0x55b092381bd0, pend_pos=(nil) waiting=0 epoch=0
  frontend=db (id=4 mode=tcp), listener=? (id=1) addr=127.0.0.1:28473
  backend=db (id=4 mode=tcp) addr=127.0.0.1:57798
  server=ctl1 (id=1) addr=127.0.0.1:28472
  task=0x55b09255f8d0 (state=0x00 nice=0 calls=2 rate=0 exp=3s tmask=0x1 age=1s)
  scf=0x55b092501460 flags=0x00000000 state=EST endp=CONN,0x55b09255f7e0,0x028c0001 sub=1
      co0=0x55b09255f3f0 ctrl=tcpv4 xprt=RAW mux=PASS data=STRM target=LISTENER:0x55b092381690
      flags=0x00000300 fd=13 fd.state=21 updt=0 fd.tmask=0x1
  scb=0x55b0924a62e0 flags=0x00000001 state=EST endp=CONN,0x55b09255fc60,0x028c0001 sub=1
      co1=0x55b09255fa40 ctrl=tcpv4 xprt=RAW mux=PASS data=STRM target=SERVER:0x55b092381bd0
  req=0x55b092442910 (f=0x848000 an=0x0 pipe=0 tofwd=-1 total=2)
      an_exp=<NEVER> rex=58s wex=<NEVER>
  res=0x55b092442970 (f=0x80008000 an=0x0 pipe=0 tofwd=-1 total=0)
0x55b092560330: [23/Nov/2026:07:57:05.062319] id=2 proto=tcpv4 source=127.0.0.1:44648
  flags=0xc4a, conn_retries=0, conn_exp=<NEVER> conn_et=0x000 srv_conn=0x55b09237d7f0, pend_pos=(nil) waiting=0 epoch=0
  frontend=public (id=2 mode=http), listener=? (id=1) addr=127.0.0.1:28471
  backend=nova (id=3 mode=http) addr=127.0.0.1:57816
  server=ctl1 (id=1) addr=127.0.0.1:28472
  task=0x55b092560720 (state=0x00 nice=0 calls=2 rate=0 exp=3s tmask=0x1 age=1s)
  txn=0x55b092560890 flags=0x3000 meth=1 status=-1 req.st=MSG_DONE rsp.st=MSG_RPBEFORE req.f=0x4c rsp.f=0x00
  scf=0x55b09249c470 flags=0x00000080 state=EST endp=CONN,0x55b092560210,0x02804001 sub=1
      htx=0x55b06d00f800 flags=0x0 size=0 data=0 used=0 wrap=NO extra=0
0x55b0925610f0: [23/Nov/2026:07:57:06.134213] id=3 proto=unix_stream source=unix:1
  flags=0x8, conn_retries=0, conn_exp=<NEVER> conn_et=0x000 srv_conn=(nil), pend_pos=(nil) waiting=0 epoch=0
  frontend=GLOBAL (id=0 mode=tcp), listener=? (id=1) addr=unix:1
  backend=<NONE> (id=-1 mode=-)
  server=<NONE> (id=-1)
  task=0x55b0925614e0 (state=0x00 nice=-64 calls=1 rate=0 exp=<NEVER> tmask=0x1 age=0s)
0x7f41cc04b800: [23/Nov/2026:07:57:05.061340] id=1 proto=tcpv4 source=127.0.0.1:44642
  flags=0x84a, conn_retries=0, conn_exp=<NEVER> conn_et=0x000 srv_conn=0x55b09237d7f0, pend_pos=(nil) waiting=0 epoch=0
  frontend=public (id=2 mode=http), listener=? (id=1) addr=127.0.0.1:28471
  backend=nova (id=3 mode=http) addr=127.0.0.1:57808
  server=ctl1 (id=1) addr=127.0.0.1:28472
  txn=0x7f41cc04bd80 flags=0x0 meth=3 status=-1 req.st=MSG_DONE rsp.st=MSG_RPBEFORE req.f=0x0d rsp.f=0x00
"""


class Recorded:
    """A channel that gives recorded answers, joined as the runtime API joins those of a batch."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.answers, self.asked = dict(answers), list[str]()

    def run(self, text: str) -> list[str]:
        command = text
        self.asked.append(command)
        lines: list[str] = []
        for one in command.split("; ") if "<<" not in command else [command]:
            lines += [*self._answer(one).splitlines(), ""]
        return lines[:-1]

    def _answer(self, command: str) -> str:
        return next((text for start, text in self.answers.items() if command.startswith(start)), "")


def observe(transport: Transport, seen_dir: str, facts: Facts | None) -> tuple[Seen, Facts]:
    return observe_channel(Channel(transport), seen_dir, facts)


def streams(transport: Transport, pid: int) -> list[Stream]:
    return streams_channel(Channel(transport), pid)


def perform(transport: Transport, seen_dir: str, actions: Sequence[Action]) -> list[str]:
    return perform_channel(Channel(transport), seen_dir, actions)


NO_MAP, NO_ACL = (f"Unknown {kind} identifier. Please use #<id> or <file>." for kind in ("map", "ACL"))

PLAIN = {
    "show info": INFO,
    "show servers state": STATE,
    "show stat": STAT,
    "show map": NO_MAP,
    "show acl #0": "0x55b0 1/nova\n",
    f"show acl {DIR}": NO_ACL,
    "show acl": ACLS,
    "show table": TABLES,
}


# ------------------------------------------------------------------------------------------- batches


def test_commands_are_grouped_up_to_the_longest_line() -> None:
    commands = ["x" * 3000] * 5
    assert [len(line) for line in grouped(commands)] == [2, 2, 1]
    assert list(grouped([])) == []
    assert list(grouped(["y" * (LONGEST_LINE + 1), "z"])) == [["y" * (LONGEST_LINE + 1)], ["z"]]


@examples(100)
@given(st.lists(st.text("abc", min_size=1, max_size=9).map(lambda t: t * 700), max_size=12))
def test_no_command_is_lost_or_moved_and_no_line_too_long(commands: list[str]) -> None:
    groups = list(grouped(commands))
    assert [command for group in groups for command in group] == commands
    assert all(len("; ".join(group)) <= LONGEST_LINE for group in groups)


@pytest.mark.parametrize(
    ("lines", "answers"),
    [
        ([], [[]]),
        (["a", "b"], [["a", "b"]]),
        (["a", "", "b"], [["a"], ["b"]]),
        (["", ""], [[], [], []]),
        (["a", "", ""], [["a"], [], []]),
    ],
)
def test_an_empty_line_ends_an_answer(lines: list[str], answers: list[list[str]]) -> None:
    assert split(lines) == answers


def test_each_command_gets_its_own_answer() -> None:
    channel = Recorded({"a": "one\ntwo", "b": "", "c": "three"})
    assert Channel(channel).ask_all([("a",), ("b",), ("c",)]) == [["one", "two"], [], ["three"]]
    assert channel.asked == ["a; b; c"]
    assert Channel(channel).ask_all([("a",)]) == [["one", "two"]]
    assert Channel(channel).ask_all([]) == []


def test_an_answer_too_few_is_never_taken_for_another() -> None:
    class Short:
        def run(self, text: str) -> list[str]:  # noqa: ARG002 the protocol's
            return ["one"]

    with pytest.raises(HAProxyError, match="HAProxy answered 1 of 2 commands, beginning with 'a'"):
        Channel(Short()).ask_all([("a",), ("b",)])


CONTROLS = ["\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\u2028", "\ud800"]


@pytest.mark.parametrize("control", CONTROLS)
def test_what_could_end_a_command_is_never_sent(control: str) -> None:
    """Whatever was let in before: this is the last place where it can be stopped."""
    channel = Recorded({})
    for word in (f"nova/x{control}set server nova/ctl1 addr 10.6.6.6", control, f"a{control}"):
        for send in (
            lambda word=word: Channel(channel).ask("set", "server", word, "state", "ready"),
            lambda word=word: Channel(channel).ask_all([("show", "info"), ("set", "server", word)]),
            lambda word=word: Channel(channel).do("commit", "map", word),
            lambda word=word: Channel(channel).put(("add", "map", "@1", "/m"), ["nova 1", word]),
            lambda word=word: Channel(channel).put(("add", "map", "@1", word), ["nova 1"]),
        ):
            with pytest.raises(NotSent):
                send()
    assert channel.asked == []


@pytest.mark.parametrize("row", ["", " ", "x" * (LONGEST_ROW + 1)])
def test_a_row_that_would_end_a_payload_or_be_cut_is_never_sent(row: str) -> None:
    channel = Recorded({})
    with pytest.raises(NotSent):
        Channel(channel).put(("add", "map", "@1", "/m"), ["nova 1", row])
    assert channel.asked == []


@examples(200)
@given(st.lists(st.text("ab \\;<#'\"@", min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_word_stays_one_word_whatever_it_holds(words: list[str]) -> None:
    """HAProxy's parser (cli.c): an unescaped ; ends a command, an unescaped blank a word, ``<<`` begins a payload."""
    channel = Recorded({})
    Channel(channel).ask("show", *words)
    [text] = channel.asked
    read, current, escaped = list[str](), "", False
    for letter in text:
        if escaped:
            current, escaped = current + letter, False
        elif letter == "\\":
            escaped = True
        elif letter == " ":
            read, current = [*read, current], ""
        else:
            assert letter != ";"
            current += letter
    assert [*read, current] == ["show", *words]
    assert not any(word.startswith("<<") for word in re.split(r"(?<!\\) ", text.replace("\\\\", "x")))


def test_when_an_answer_holds_empty_lines_each_is_asked_for_by_itself() -> None:
    channel = Recorded({"a": "help\n\nmore help", "b": "two"})
    answers = Channel(channel).ask_all([("a",), ("b",)])
    assert [[line for line in answer if line] for answer in answers] == [["help", "more help"], ["two"]]
    assert channel.asked == ["a; b", "a", "b"]


# ----------------------------------------------------------------------------------------- observing


def test_a_haproxy_without_the_guard() -> None:
    seen, facts = observe(Recorded(PLAIN), DIR, None)
    assert (seen.pid, seen.version) == (31815, "2.6.12")
    assert (seen.table, seen.lists) == (None, {})
    assert seen.frontends == {"public", "db"}
    nova, db = seen.backends["nova"], seen.backends["db"]
    assert (nova.http, nova.sticky, nova.guard) == (True, True, 1)  # by its cookie
    assert (db.http, db.sticky, db.guard) == (False, True, None)  # by its stick table
    ctl1, ctl2 = nova.servers["ctl1"], nova.servers["ctl2"]
    assert (ctl1.ref, ctl1.sessions, ctl1.checked, ctl1.health, ctl1.usable) == (
        Ref("nova", "ctl1"),
        3,
        False,
        Health.NONE,
        True,
    )
    assert (ctl2.checked, ctl2.health, ctl2.backup, ctl2.usable) == (True, Health.DOWN, True, False)
    assert (ctl1.address, ctl1.port, ctl1.admin, ctl1.agent_configured) == ("127.0.0.1", 28472, Admin.READY, False)
    assert facts.pid == 31815


def test_a_haproxy_with_the_guard_and_something_in_its_map() -> None:
    answers = PLAIN | {
        "show map": '0x5f keystone 1|-|down\n0x60 =json/keystone {"a": "b c"}\n',
        f"show acl {DIR}/{file_names.ALLOW}": "0x61 ^nova (POST) (/a b)$\n",
        f"show acl {DIR}": "",
    }
    answers = {f"show acl {DIR}/{file_names.ALLOW}": answers.pop(f"show acl {DIR}/{file_names.ALLOW}"), **answers}
    seen, _ = observe(Recorded(answers), DIR, None)
    assert seen.table == (("=json/keystone", '{"a": "b c"}'), ("keystone", "1|-|down"))
    assert seen.lists == dict.fromkeys(file_names.LISTS, ()) | {file_names.ALLOW: ("^nova (POST) (/a b)$",)}


def test_an_empty_map_is_not_a_missing_one() -> None:
    seen, _ = observe(Recorded(PLAIN | {"show map": "", f"show acl {DIR}": ""}), DIR, None)
    assert seen.table == ()
    assert seen.lists == dict.fromkeys(file_names.LISTS, ())


def test_what_cannot_change_is_asked_for_once_a_worker() -> None:
    channel = Recorded(PLAIN)
    _, facts = observe(channel, DIR, None)
    first = len(channel.asked)
    observe(channel, DIR, facts)
    assert len(channel.asked) - first < first
    observe(channel, DIR, Facts(1, {}, frozenset(), {}))
    assert "show table" in channel.asked[-3:]


def test_a_disabled_server_that_was_enabled_at_run_time_is_ready() -> None:
    state = STATE.replace("ctl1 127.0.0.1 2 0 1", "ctl1 127.0.0.1 2 4 1", 1)
    seen, _ = observe(Recorded(PLAIN | {"show servers state": state}), DIR, None)
    assert seen.backends["nova"].servers["ctl1"].admin is Admin.READY


@pytest.mark.parametrize("mask", [1, 2, 5, 9, 32, 33])
def test_every_way_into_maint_is_maint(mask: int) -> None:
    state = STATE.replace("ctl1 127.0.0.1 2 0 1", f"ctl1 127.0.0.1 2 {mask} 1", 1)
    seen, _ = observe(Recorded(PLAIN | {"show servers state": state}), DIR, None)
    assert seen.backends["nova"].servers["ctl1"].admin is Admin.MAINT


@pytest.mark.parametrize(
    ("agent", "configured", "on"), [(0, False, False), (2 | 16, True, False), (2 | 4 | 16, True, True)]
)
def test_agent_checks(agent: int, configured: bool, on: bool) -> None:
    state = STATE.replace("2 1 0 2 0 0 0 0 - 28472", f"2 1 0 2 0 {agent} 0 0 - 28472", 1)
    seen, _ = observe(Recorded(PLAIN | {"show servers state": state}), DIR, None)
    ctl1 = seen.backends["nova"].servers["ctl1"]
    assert (ctl1.agent_configured, ctl1.agent) == (configured, on)


GARBAGE = st.sampled_from(
    [
        *INFO.splitlines(),
        *STATE.splitlines(),
        *STAT.splitlines(),
        *ACLS.splitlines(),
        TABLES,
        NO_MAP,
        "",
        "0x1 a b",
        "0x",
        ",",
    ]
) | st.text(max_size=12).filter(lambda text: "\n" not in text and "\r" not in text)


class Garbage:
    def __init__(self, answers: list[list[str]]) -> None:
        self._answers = answers

    def run(self, text: str) -> list[str]:
        lines: list[str] = []
        for _ in text.split("; "):
            lines += [*(self._answers.pop(0) if self._answers else []), ""]
        return lines[:-1]


@examples(150)
@given(st.lists(st.lists(GARBAGE, max_size=5), max_size=14), st.booleans())
def test_an_answer_that_makes_no_sense_fails_in_known_ways(answers: list[list[str]], sane: bool) -> None:
    """Those that HAProxy.observe turns into "not up"."""
    if sane:
        answers = [INFO.splitlines(), *answers]
    with suppress(HAProxyError, ValueError, KeyError, IndexError):
        observe(Garbage(list(answers)), DIR, None)
    with suppress(HAProxyError, ValueError, KeyError, IndexError):
        streams(Garbage(answers), 31815)


def test_a_carriage_return_in_the_statistics_fails_in_a_known_way() -> None:
    with pytest.raises((HAProxyError, ValueError, KeyError, IndexError)):
        observe(
            Garbage([INFO.splitlines(), STATE.splitlines(), [STAT.splitlines()[0], "a\rb,c"], *[[]] * 6]), DIR, None
        )


# ------------------------------------------------------------------------------------------- streams


def test_requests_are_read_with_what_tells_them_apart() -> None:
    found = streams(Recorded({"show info": INFO, "show sess all": SESSIONS}), 31815)
    assert found[1] == Stream(
        pid=31815,
        id="2[23/Nov/2026:07:57:05.062319]",
        backend="nova",
        frontend="public",
        method=1,
        server="ctl1",
        pointer="0x55b092560330",
        address="127.0.0.1",
    )
    assert [(s.backend, s.method, s.server) for s in found] == [
        ("db", -1, "ctl1"),
        ("nova", 1, "ctl1"),
        ("<NONE>", -1, "<NONE>"),
        ("nova", 3, "ctl1"),
    ]
    assert len({(s.pid, s.id) for s in found}) == 4


def test_no_requests() -> None:
    assert streams(Recorded({"show info": INFO}), 31815) == []


def test_the_requests_of_another_worker_are_not_taken_for_this_ones() -> None:
    with pytest.raises(HAProxyDown, match="another worker than 99 answers"):
        streams(Recorded({"show info": INFO, "show sess all": SESSIONS}), 99)


# ---------------------------------------------------------------------------------------- performing


@pytest.mark.parametrize(
    ("action", "commands"),
    [
        (SetAdmin(Ref("nova", "ctl1"), Admin.MAINT), ["set server nova/ctl1 state maint"]),
        (ProveHealth(Ref("nova", "ctl1")), ["set server nova/ctl1 state drain", "set server nova/ctl1 health down"]),
        (SetAgentCheck(Ref("nova", "ctl1"), True), ["enable agent nova/ctl1"]),
        (SetAgentCheck(Ref("nova", "ctl1"), False), ["disable agent nova/ctl1"]),
        (CutSessions(Ref("nova", "ctl1")), ["shutdown sessions server nova/ctl1"]),
    ],
)
def test_what_an_action_says_to_haproxy(action: object, commands: list[str]) -> None:
    channel = Recorded({})
    assert perform(channel, DIR, [action]) == []  # type: ignore[list-item]
    assert channel.asked == ["; ".join(commands)]


def test_a_command_that_fails_is_named_and_the_others_are_done() -> None:
    channel = Recorded({"set server nova/ctl1": "No such server."})
    failed = perform(channel, DIR, [SetAdmin(Ref("nova", s), Admin.DRAIN) for s in ("ctl1", "ctl2")])
    assert failed == ["`set server nova/ctl1 state drain`: No such server."]


def test_a_file_is_not_haproxys_to_write() -> None:
    with pytest.raises(TypeError, match="not an action of HAProxy's"):
        perform(Recorded({}), DIR, [WriteFile("a", "b")])


MAP = f"{DIR}/{file_names.MAP}"


def test_a_map_is_replaced_in_one_moment() -> None:
    """Prepared aside, counted, and only then put in force."""
    channel = Recorded({"prepare map": "New version created: 3", f"show map @3 {MAP}": "0x1 a 1\n0x2 b 2"})
    assert perform(channel, DIR, [ReplaceMap((("a", "1"), ("b", "2")))]) == []
    assert channel.asked == [
        f"prepare map {MAP}",
        f"add map @3 {MAP} <<\na 1\nb 2\n",
        f"show map @3 {MAP}",
        f"commit map @3 {MAP}",
    ]


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"prepare map": NO_MAP}, "Unknown map identifier"),
        ({"prepare map": "New version created: 3", "add map": "out of memory"}, "out of memory"),
        (
            {"prepare map": "New version created: 3", "show map": "0x1 a 1"},
            "HAProxy took 1 of 2 entries, nothing was changed",
        ),
        ({"prepare map": "New version created: 3", "show map": "0x1 a 1\n0x2 b 2", "commit map": "no"}, "commit map"),
    ],
)
def test_a_map_that_did_not_arrive_whole_is_not_put_in_force(answers: dict[str, str], why: str) -> None:
    channel = Recorded(answers)
    with pytest.raises(HAProxyError, match=why):
        replace(Channel(channel), "map", MAP, ["a 1", "b 2"])
    assert "commit map" in answers or not [c for c in channel.asked if c.startswith("commit")]


def test_a_list_is_added_pattern_by_pattern_with_its_blanks_escaped() -> None:
    path = f"{DIR}/{file_names.ALLOW}"
    channel = Recorded({"prepare acl": "New version created: 2", "show acl": "0x1 x"})
    replace(Channel(channel), "acl", path, [r"^nova (POST) (/a\?b;c)$"])
    assert channel.asked[1] == rf"add acl @2 {path} ^nova\ (POST)\ (/a\\?b\;c)$"
