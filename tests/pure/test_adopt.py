"""adopt, without HAProxy: what goes where, and that it comes out again byte for byte."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbagent.guard import VERSION, cfg_lines
from lbagent.haproxy_cfg import adopt, blocks, pages, parse, reading
from lbagent.settings import load

DIR = "/srv/lba"
EMPTY = load.parse(f"haproxy: {{state_dir: {DIR}}}")
NOVA = load.parse(f"haproxy: {{state_dir: {DIR}}}\nservices: {{nova: {{backends: [nova]}}}}")
HTTP = "defaults\n  mode http\n"


def adopted(text, lbagent=EMPTY):
    return adopt.adopt([("a.cfg", text)], lbagent)


def outline(text):
    """The text with each block as one word: what stands where."""
    out, kind = [], None
    for line in text.splitlines():
        mark = blocks.MARK.match(line)
        if mark and mark[1] == "BEGIN":
            kind = mark[2]
            out.append(f"<{kind}>")
        elif mark:
            kind = None
        elif kind is None:
            out.append(line.strip())
    return out


# ------------------------------------------------------------------------------------------ which backends


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("defaults\n mode http\nbackend a\n server s 127.0.0.1:1\n", ["a"]),
        ("defaults\n mode http\nlisten a\n bind :1\n server-template s 3 x:1\n", ["a"]),
        ("defaults\n mode http\nbackend a\nlisten b\n bind :1\n", []),
        ("defaults\n mode http\nfrontend a\n bind :1\n", []),
        ("backend a\n server s 127.0.0.1:1\n", []),
        ("backend a\n server s 127.0.0.1:1\n mode http\n", ["a"]),
        ("defaults\n mode tcp\nlisten a\n bind :1\n mode http\n server s 127.0.0.1:1\n", ["a"]),
        ("defaults\n mode http\nlisten a\n bind :1\n mode tcp\n server s 127.0.0.1:1\n", []),
        ("defaults\n mode http\ndefaults\nbackend a\n server s 127.0.0.1:1\n", []),
        ("defaults h\n mode http\ndefaults\nbackend a from h\n server s 127.0.0.1:1\n", ["a"]),
        ("defaults h\n mode http\ndefaults t from h\n retries 3\nbackend a from t\n server s 127.0.0.1:1\n", ["a"]),
        ("defaults h\n mode http\ndefaults t\n mode tcp\nbackend a\n server s 127.0.0.1:1\n", []),
        ('\t"backend" "a" # x\n\t\tmode http\n\tserver s 127.0.0.1:1\n', ["a"]),
        ("defaults\n mode http\nbackend a\n # server s 127.0.0.1:1\n", []),
        (
            "defaults\n mode http\n.if defined(X)\nbackend a\n.else\nbackend b\n.endif\n server s 127.0.0.1:1\n",
            ["a", "b"],
        ),
        ("defaults\n mode http\npeers p\n server s 127.0.0.1:1\n", []),
    ],
)
def test_every_http_backend_that_has_servers_is_guarded(text, guarded):
    assert list(adopted(text).guarded) == guarded


def test_defaults_hold_in_the_files_that_follow():
    files = [("haproxy.cfg", HTTP), ("services.d/nova.cfg", "backend nova\n  server s 127.0.0.1:1\n")]
    assert adopt.adopt(files, EMPTY).guarded == ("nova",)


def test_a_configured_backend_is_guarded_without_servers_and_hides_no_other():
    text = HTTP + "backend nova\nbackend other\n  server s 127.0.0.1:1\nbackend empty\n"
    assert adopted(text, NOVA).guarded == ("nova", "other")


def test_without_discovery_only_configured_backends_are_guarded():
    text = HTTP + "backend nova\nbackend other\n  server s 127.0.0.1:1\n"
    only = load.parse(f"discover: false\nhaproxy: {{state_dir: {DIR}}}\nservices: {{nova: {{backends: [nova]}}}}")
    assert adopted(text, only).guarded == ("nova",)


def test_a_backend_that_a_service_leaves_out_is_named():
    text = HTTP + "backend nova_api\n  server s 127.0.0.1:1\nbackend nova_metadata\n  server s 127.0.0.1:2\n"
    partly = load.parse(f"haproxy: {{state_dir: {DIR}}}\nservices: {{nova: {{backends: [nova_api]}}}}")
    result = adopted(text, partly)
    assert result.guarded == ("nova_api",)
    assert "nova_metadata belongs to no service" in result.notes[0]


def test_a_configured_backend_that_is_not_there_is_a_problem():
    (problem,) = adopted(HTTP + "frontend nova\n  bind :1\n", NOVA).problems
    assert "service nova" in problem
    assert "it is a frontend" in problem


@pytest.mark.parametrize("settings", [EMPTY, NOVA])
def test_a_tcp_backend_gets_what_keeps_its_drains_and_no_guard(settings):
    text = "backend nova\n  balance first\n  server s 127.0.0.1:1\n"
    result = adopted(text, settings)
    assert outline(result.files[0][1]) == [
        "<state>",
        "backend nova",
        "<drain>",
        "balance first",
        "server s 127.0.0.1:1",
    ]
    assert "\n  load-server-state-from-file global\n" in result.files[0][1]
    assert result.guarded == ()
    assert "nova is in mode tcp" in result.notes[0]
    assert adopt.remove(result.files)[0][1] == text


def test_a_tcp_backend_beside_guarded_ones_keeps_its_drains_too():
    text = (
        HTTP + "backend nova\n  server s 127.0.0.1:1\nlisten galera\n  bind :3306\n  mode tcp\n  server s 127.0.0.1:2\n"
    )
    found = reading.read(adopted(text).files)
    assert found.keeps(f"{DIR}/servers.state") == {"nova", "galera"}
    assert found.keeps("/elsewhere/servers.state") == frozenset()


def test_without_discovery_a_tcp_backend_that_nobody_lists_is_left_alone():
    only = load.parse(f"discover: false\nhaproxy: {{state_dir: {DIR}}}\nservices: {{}}")
    text = "backend galera\n  server s 127.0.0.1:1\n"
    assert adopted(text, only).files == (("a.cfg", text),)


def test_a_tcp_backend_with_another_state_setting():
    """Refused where a service lists it: its drain would be lost. Else it is only told."""
    text = HTTP + "listen galera\n  mode tcp\n  load-server-state-from-file none\n  server s :1\n"
    result = adopted(text)
    assert result.files == (("a.cfg", text),)
    assert "a drain of it ends with a reload" in "; ".join(result.notes)
    listed = load.parse("services: {db: {backends: [galera]}}")
    with pytest.raises(adopt.CannotAdopt, match="galera has load-server-state-from-file none"):
        adopted(text, listed)


def test_a_tcp_backend_whose_defaults_load_the_state_needs_nothing():
    keeping = f"global\n  server-state-file {DIR}/servers.state\ndefaults\n  load-server-state-from-file global\n"
    text = keeping + "backend db\n  server s :1\n"
    assert adopted(text).files == (("a.cfg", text),)


@pytest.mark.parametrize(
    "parked",
    [
        "backend parked\n  disabled\n  server s :1\n",
        "listen parked\n  bind :1\n  server s :1\n  disabled\n",
        "defaults\n  mode http\n  disabled\nbackend parked\n  server s :1\ndefaults\n  mode http\n",
        "backend parked\n  .if defined(PARKED)\n  disabled\n  .endif\n  server s :1\n",
        "backend parked\n  mode tcp\n  disabled\n  server s :1\n",
    ],
)
def test_a_disabled_section_is_left_alone_with_a_note(parked):
    text = HTTP + parked + "backend nova\n  server s :1\n"
    result = adopted(text)
    assert result.guarded == ("nova",)
    assert any(note.startswith("parked is disabled") for note in result.notes)
    assert adopted("global\n" + HTTP + parked).files[0][1] == "global\n" + HTTP + parked
    assert set(reading.read(result.files).backends) == {"nova"}


def test_a_section_that_is_enabled_again_is_guarded():
    text = HTTP + "  disabled\nbackend nova\n  enabled\n  server s :1\n"
    assert adopted(text).guarded == ("nova",)


def test_a_guard_put_in_by_hand_is_left_alone():
    lines = "\n".join([*cfg_lines.lines("nova", DIR), *cfg_lines.steer_lines("nova", DIR)])
    text = f"global\n  server-state-file {DIR}/servers.state\n{HTTP}backend nova\n{lines}\n  server s 127.0.0.1:1\n"
    result = adopted(text)
    assert result.files == (("a.cfg", text),)
    assert "not put in" in result.notes[0]
    assert reading.guards(result.files) == {"nova": VERSION}


# -------------------------------------------------------------------------------------------------- places

GUARDED = "<guard>"
STEER = "<steer>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (["server s :1"], [GUARDED, "server s :1", STEER]),
        ([], [GUARDED, STEER]),
        (
            ["bind :1", "tcp-request content accept", "http-request deny if x", "server s :1"],
            ["bind :1", "tcp-request content accept", GUARDED, "http-request deny if x", "server s :1", STEER],
        ),
        (["monitor fail if x", "server s :1"], ["monitor fail if x", GUARDED, "server s :1", STEER]),
        # neither of these two has a place of its own, and the guard must not slip below a redirect
        (
            ["redirect prefix /x", "tcp-response content accept", "tcp-request inspect-delay 1s"],
            [GUARDED, "redirect prefix /x", "tcp-response content accept", "tcp-request inspect-delay 1s", STEER],
        ),
        (
            ["redirect prefix /x", "use-server s if x", "server s :1", "use-server s if y"],
            [GUARDED, "redirect prefix /x", STEER, "use-server s if x", "server s :1", "use-server s if y"],
        ),
        (["server s :1", "", "# the next one"], [GUARDED, "server s :1", STEER, "", "# the next one"]),
        (
            [".if defined(X)", "tcp-request content accept", ".endif", "server s :1"],
            [".if defined(X)", "tcp-request content accept", ".endif", GUARDED, "server s :1", STEER],
        ),
        (
            ["server s :1", ".if defined(X)", ".else", "use-server s if x", ".endif"],
            [GUARDED, "server s :1", STEER, ".if defined(X)", ".else", "use-server s if x", ".endif"],
        ),
        (
            ["server s :1", ".if defined(X)", "option y", ".endif"],
            [GUARDED, "server s :1", ".if defined(X)", "option y", ".endif", STEER],
        ),
    ],
)
def test_where_the_blocks_go(body, expected):
    result = adopted("\n".join([*HTTP.split("\n"), "backend nova", *body, ""]), NOVA)
    after = outline(result.files[0][1])
    assert after[after.index("backend nova") + 1 :] == expected


def test_a_section_inside_a_conditional_keeps_its_guard_inside():
    text = HTTP + ".if defined(X)\nbackend a\nserver s :1\n.elif true\nbackend b\nserver s :1\n\n.endif\n# end\n"
    assert outline(adopted(text).files[0][1])[3:] == [
        *(".if defined(X)", "backend a", GUARDED, "server s :1", STEER),
        *(".elif true", "backend b", GUARDED, "server s :1", STEER, "", ".endif", "# end"),
    ]


def test_a_section_ends_above_a_conditional_that_begins_another():
    text = HTTP + "backend a\nserver s :1\n.if x\nbackend b\nserver s :1\n.endif\n"
    assert outline(adopted(text).files[0][1])[3:] == [
        *("backend a", GUARDED, "server s :1", STEER),
        *(".if x", "backend b", GUARDED, "server s :1", STEER, ".endif"),
    ]


def test_the_state_file_goes_into_global_or_a_global_is_made():
    text = "# ours\nglobal\n  maxconn 5\n" + HTTP + "backend a\n  server s :1\n"
    assert outline(adopted(text).files[0][1])[:4] == ["# ours", "global", "<state>", "maxconn 5"]
    without = adopted(HTTP + "backend a\n  server s :1\n").files[0][1]
    assert outline(without)[:2] == ["<state>", "defaults"]
    assert without.splitlines()[1:3] == ["global", f"  server-state-file {DIR}/servers.state"]


def test_an_operators_own_state_file_of_the_same_path_serves():
    text = f"global\n  server-state-file {DIR}/servers.state\n" + HTTP + "backend a\n  server s :1\n"
    assert "<state>" not in outline(adopted(text).files[0][1])


# ------------------------------------------------------------------------------------- the operator's lines


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("errorfile 503 /x", False),
        ("errorfile 500 /x", True),
        ("errorloc302 503 /x", False),
        ("errorfiles x", False),
        ("errorfiles x 500", True),
        ("errorfiles x 500 503", False),
        ("http-error status 503 errorfile /x", False),
        ("http-error status 500 errorfile /x", True),
    ],
)
def test_a_503_of_the_sections_own_is_respected(line, kept):
    text = adopted(HTTP + f"backend a\n  {line}\n  server s :1\n").files[0][1]
    assert (f"errorfile 503 {DIR}/503-v1.http" in text) is kept


FRONT = "frontend f\n  bind :1\n  default_backend a\n"
MAPPED = "frontend f\n  bind :1\n  use_backend %[path,map(/m)]\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (HTTP + "  errorfile 503 /x\nbackend a\n  server s :1\n", False),
        (HTTP + "  errorfile 503 /x\ndefaults\n  mode http\nbackend a\n  server s :1\n", True),
        (HTTP + FRONT + "  errorfile 503 sorry.http\nbackend a\n  server s :1\n", False),
        (HTTP + MAPPED + "  errorfile 503 sorry.http\nbackend a\n  server s :1\n", False),
        (HTTP + FRONT.replace(" a", " b") + "  errorfile 503 /x\nbackend a\n  server s :1\n", True),
        (HTTP + FRONT + "  mode tcp\n  errorfile 503 /x\nbackend a\n  server s :1\n", True),
        (HTTP + "  default_backend a\n  errorfile 503 /x\nfrontend f\n  bind :1\nbackend a\n  server s :1\n", False),
        (HTTP + "http-errors x\n  errorfile 404 /x\nbackend a\n  errorfiles x\n  server s :1\n", True),
        (HTTP + "http-errors x\n  errorfile 503 /x\nbackend a\n  errorfiles x\n  server s :1\n", False),
        (HTTP + "backend a\n  http-request deny deny_status 503\n  server s :1\n", False),
        (HTTP + "backend a\n  http-request deny status 503 if { path /x }\n  server s :1\n", False),
        (HTTP + "backend a\n  http-request return status 503 default-errorfiles\n  server s :1\n", False),
        (
            HTTP + 'backend a\n  http-request return status 503 content-type text/plain string "x"\n  server s :1\n',
            True,
        ),
        (HTTP + "backend a\n  http-request deny deny_status 403\n  server s :1\n", True),
        (HTTP + "  errorfile 503 /etc/haproxy/errors/503.http\nbackend a\n  server s :1\n", True),
    ],
)
def test_a_503_of_the_sites_own_is_left_in_place_and_told(text, kept):
    result = adopt.adopt([("a.cfg", text)], EMPTY, lambda path: path == "/etc/haproxy/errors/503.http")
    assert (f"errorfile 503 {DIR}/503-v1.http" in result.files[0][1]) is kept
    assert any("the site's own 503 (a.cfg:" in note for note in result.notes) is not kept


def test_a_page_that_says_what_haproxy_says_is_nobodys_own():
    head = b"HTTP/1.0 503 Service Unavailable\r\nCache-Control: no-cache\r\n\r\n"
    said = b"<h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n"
    body = b"<html><body>" + said + b"</body></html>\n"
    assert pages.is_stock(head + body)
    assert pages.is_stock((head + body).replace(b"\r\n", b"\n"))
    assert not pages.is_stock(head + b"<p>We are sorry.</p>\n")
    assert not pages.is_stock(b"")


def test_an_existing_global_state_setting_is_not_doubled():
    text = adopted(HTTP + "backend a\n  load-server-state-from-file global\n  server s :1\n").files[0][1]
    assert text.count("load-server-state-from-file global") == 1


@pytest.mark.parametrize("where", ["local", "none"])
def test_another_state_setting_is_refused(where):
    text = HTTP + f"backend a\n  load-server-state-from-file {where}\n  server s :1\n"
    with pytest.raises(adopt.CannotAdopt, match=rf"^a\.cfg:4: a has load-server-state-from-file {where}"):
        adopted(text)


def test_every_refusal_is_told_at_once():
    text = "global\n server-state-file /x\n" + HTTP + " load-server-state-from-file local\nbackend a\n server s :1\n"
    with pytest.raises(adopt.CannotAdopt) as caught:
        adopted(text)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == ["a.cfg:6", "a.cfg:2"]


# ------------------------------------------------------------------------------------------------- markers

ONE = "global\n" + HTTP + "backend a\n  server s :1\n"


def test_an_older_guard_is_replaced():
    text = adopted(ONE).files[0][1]
    older = text.replace(" 1: put here", " 0: put here").replace("http-request", "http-reqest")
    assert older != text
    assert adopted(older).files[0][1] == text


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("# BEGIN lbagent guard", '"# END lbagent guard" without its BEGIN'),
        ("# BEGIN lbagent steer", '"# END lbagent steer" without its BEGIN'),
        ("# END lbagent guard", '"# BEGIN lbagent guard" has no'),
        ("# END lbagent steer", '"# BEGIN lbagent steer" has no'),
        ("# END lbagent state", '"# BEGIN lbagent state" has no'),
    ],
)
def test_damaged_markers_name_file_and_line(gone, said):
    lines = adopted(ONE).files[0][1].splitlines(keepends=True)
    text = "".join(line for line in lines if gone not in line)
    with pytest.raises(blocks.BrokenBlock) as caught:
        adopt.remove([("a.cfg", text)])
    place, _, sentence = str(caught.value).partition(": ")
    assert sentence.startswith(said)
    file, _, number = place.partition(":")
    assert file == "a.cfg"
    assert said.split('"')[1] in text.splitlines()[int(number) - 1]
    reading.read([("a.cfg", text)])  # the doctor can still look


def test_a_block_with_a_section_in_it_is_damaged():
    text = adopted(ONE).files[0][1].replace("  # END lbagent guard", "backend b\n  # END lbagent guard")
    with pytest.raises(blocks.BrokenBlock):
        adopt.remove([("a.cfg", text)])


@pytest.mark.parametrize(
    "text",
    [
        ONE,
        ONE.removesuffix("\n"),
        ONE.replace("\n", "\r\n"),
        ONE.replace("\n", "\r\n").removesuffix("\n"),
        ONE.replace("\n", "\r\n").removesuffix("\r\n"),
        HTTP + "listen a",
        "",
        "# only a comment",
        HTTP + "backend a \\\n  server s :1 \\\n",
        HTTP + "backend a\n  server s :1\n\n  ",
        HTTP + 'backend a\n  http-request deny if { path "#\' BEGIN" } # BEGIN lbagent\n  server s :1\n',
        HTTP + "backend a\n  # caf\udce9 \x0b \x85 \u2028\n  server s :1\n",
    ],
)
def test_what_goes_in_comes_out(text):
    files = [("a.cfg", text)]
    once = adopt.adopt(files, EMPTY).files
    assert adopt.remove(once) == tuple(files)
    assert adopt.adopt(once, EMPTY).files == once


LINES = st.sampled_from(
    [
        *("global", "defaults", "defaults d", "defaults e from d", "frontend f", "backend a", "backend b from d"),
        *("listen c", "peers p", "mode http", "mode tcp", "server s :1", "server-template s 1 :1", "use-server s if x"),
        *("tcp-request content accept", "redirect prefix /", ".if x", ".elif y", ".else", ".endif", "", "# comment"),
        *("errorfile 503 /x", "http-request deny if { path '#' }", "cookie SRV insert", "monitor fail if x", "\\", '"'),
    ]
)
INDENTS = st.sampled_from(["", "  ", "\t", " \t "])
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n"])
TEXTS = st.builds(
    lambda lines, last: "".join("".join(line) for line in lines) + last,
    st.lists(st.tuples(INDENTS, LINES, ENDS), max_size=25),
    st.sampled_from(["", "", "server s :1", "backend z", "\r", "  # x", "\\"]),
)
CONFIGURATIONS = st.lists(TEXTS, min_size=1, max_size=3).map(lambda t: [(f"{i}.cfg", x) for i, x in enumerate(t)])


@settings(deadline=None)  # a busy machine is no failure
@given(CONFIGURATIONS, st.sampled_from([EMPTY, load.parse("services: {a: {}, b: {}, z: {backends: [z, c]}}")]))
def test_any_configuration_comes_back_byte_for_byte(files, settings):
    once = adopt.adopt(files, settings)
    assert adopt.remove(once.files) == tuple(files)
    assert adopt.adopt(once.files, settings).files == once.files
    assert set(reading.guards(once.files)) == set(once.guarded)


@settings(deadline=None)  # a busy machine is no failure
@given(CONFIGURATIONS)
def test_the_diff_of_any_configuration_leads_from_one_to_the_other(files):
    once = adopt.adopt(files, EMPTY).files
    for before, after in ((files, once), (once, files), (files, files)):
        text = adopt.diff(before, after)
        assert bool(text) is (tuple(before) != tuple(after))
        for (_, old), (_, new) in zip(before, after, strict=True):
            assert patched(old, blocks.diff("x", old, new)) == new


def patched(text, diff):
    """``text`` with a unified diff applied, as patch(1) would."""
    lines, out, at = parse.split(text), [], 0
    body = diff.replace("\n\\ No newline at end of file\n", "\0").split("\n")[2:]
    rows = [row + "\n" for row in "\n".join(body).replace("\0", "\0\n").split("\n") if row]
    for row in rows:
        row = row.replace("\0\n", "")  # noqa: PLW2901
        if row.startswith("@@ "):
            start, count = (int(number) for number in row.split()[1][1:].split(","))
            start -= 1 if count else 0
            out += lines[at:start]
            at = start
        elif row[0] == "+":
            out.append(row[1:])
        else:
            assert lines[at] == row[1:]
            out += [row[1:]] * (row[0] == " ")
            at += 1
    return "".join(out + lines[at:])


# ------------------------------------------------------------------------------------------------- reading


def test_what_the_doctor_reads():
    text = (
        "global\n  hard-stop-after 10m\n  stats socket /run/a level admin mode 660\n  stats socket /run/b\n"
        + HTTP
        + "backend plain\n  server s :1\n  stick-table type ip size 1k\n"
        + "backend cookie\n  cookie SRV insert\n  server s :1 cookie a\n"
        + "backend stick\n  stick on src\n  stick-table type ip size 1k\n  server s :1\n"
        + "backend tcp\n  mode tcp\n  server s :1\n"
    )
    found = reading.read(adopted(text).files)
    assert found.guards == dict.fromkeys(("plain", "cookie", "stick"), VERSION)
    assert found.dirs == {DIR}
    assert found.state_file == f"{DIR}/servers.state"
    assert found.hard_stop_after == "10m"
    assert [(s.address, s.level) for s in found.sockets] == [("/run/a", "admin"), ("/run/b", "operator")]
    assert found.backends == {"plain": False, "cookie": True, "stick": True, "tcp": False}
    assert found.keeps(f"{DIR}/servers.state") == {"plain", "cookie", "stick", "tcp"}
    assert found.tcp == {"tcp"}
    before = reading.read([("a.cfg", text)])
    assert (before.guards, before.dirs, before.state_file) == ({}, frozenset(), None)
    assert [s.where for s in before.sockets] == ["a.cfg:3", "a.cfg:4"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a  b\t c\r\n", ("a", "b", "c")),
        ('a "b c" d#e', ("a", "b c", "d")),
        (r"a\ b 'c\' x", ("a b", "c\\", "x")),
        ('  "" x\n', ("", "x")),
        ("a \\\n", ("a", "\\")),
        (r"\# x", ("#", "x")),
        ("# x", ()),
        ("", ()),
    ],
)
def test_words(line, expected):
    assert parse.words(line) == expected
