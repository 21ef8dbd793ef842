"""Foreign bytes: whatever comes in, it is refused or taken for what it is; nothing raises that nobody expects.

Seven ways in: the control socket, the configuration, the intent file, HAProxy's answers on both sockets, the copy
of the intent in HAProxy's map, and HAProxy's configuration. Examples are bounded: the whole takes less than a minute.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lbagent.errors import HAProxyError
from lbagent.guard import guard_map, intent_copy, server_state
from lbagent.haproxy import master
from lbagent.haproxy.admin_socket import AdminSocket
from lbagent.haproxy.instance import HAProxy
from lbagent.haproxy_cfg import adopt, blocks, reading
from lbagent.model.intent import Drain, Held, Intent, Mode, ServiceIntent
from lbagent.model.observed import BackendSeen, Observed
from lbagent.rules.change import Change
from lbagent.settings import config, load, shipped
from lbagent.store.codec import Damaged, encode
from lbagent.store.file import FileStore
from tests.lab.clients import ask
from tests.lab.one_haproxy import Lab

SLOW = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


BRIEFLY = 0.04  # seconds for an answer where the request may be one that has no end


def examples(number: int) -> settings:
    return settings(max_examples=number, deadline=None, suppress_health_check=SLOW)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["nova", "ctl1", "down", "up", "drained", "ready", "5m", "2030-01-01", "\ud800", "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)

# What a field may hold instead of what it should: of every type, and what is large, deep, or no text.
ODD: list[Any] = [
    *(None, True, 0, -1, 2**63, 2**70, -(2**70), 10**400, 1.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "0",
        "-5m",
        "0s",
        "5m\n",
        "999999999d",
        "9" * 5000 + "h",
        "٣m",
        "0001-01-01",
        "9999-12-31T23:59:59-23:59",
    ),
    *(
        "2030-01-01T00:00:00+99:99",
        "nova",
        "../..",
        "\x00",
        "\ud800",
        "\udfff\ud800",
        "é😀",
        "=intent/service/nova",
        "a|b",
    ),
    *(
        "x" * 501,
        "x" * 70_000,
        [],
        {},
        [[]],
        [None],
        ["nova", "nova"],
        [{}],
        {"": {}},
        {"nova": None},
        {"nova": "down"},
    ),
    *({"nova": {"mode": 5}}, {"nova": {"mode": "down", "x": 1}}, {"\ud800": {"mode": "down"}}, {"ctl1": {"state": []}}),
    *({"ctl1": {"state": "drained", "services": "nova"}}, {"ctl1": {"state": "drained", "services": [None]}}),
]


# ------------------------------------------------------------------------------------------- control socket


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(services=("nova",), nodes=2)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After whatever was sent, the agent lives, answers, and has met no defect."""
    if "lab" not in request.fixturenames:
        yield
        return
    agent = request.getfixturevalue("lab").agent
    before = agent.log.stat().st_size
    yield
    assert agent.lbctl("status").returncode == 0
    log = agent.log.read_bytes()[before:].decode(errors="replace")
    assert log.count("Traceback") == 0, log[log.index("Traceback") :][:3000]


def exchange(lab: Lab, raw: bytes, patience: float = 5.0) -> bytes:
    """What the agent answers to ``raw``; after ``patience`` seconds without a word it is told that no more comes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience)
        connection.connect(str(lab.agent.socket))
        answer = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(raw)
            try:
                while chunk := connection.recv(65536):
                    answer += chunk
            except TimeoutError:  # it waits for the rest of a request
                connection.settimeout(5)
                connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(65536):
                    answer += chunk
        return answer


def request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}"
    if "ontent-" not in headers and "ransfer-" not in headers:
        head += f"Content-Length: {len(body)}\r\n"
    return head.encode("utf-8", "surrogateescape") + b"\r\n" + body


def statuses(answer: bytes) -> list[bytes]:
    """First digits of the status lines; more than one where the agent took the bytes for several requests."""
    assert not answer or answer.startswith(b"HTTP/")
    return re.findall(rb"^HTTP/\d\.\d ([1-5])\d\d ", answer, re.MULTILINE)


def refused(answer: bytes) -> None:
    """Closed without a word, or a 4xx."""
    assert set(statuses(answer)) <= {b"4"}, answer[:500]


def sane(answer: bytes) -> None:
    """Any answer but 5xx: a change may be right by chance."""
    assert b"5" not in statuses(answer), answer[:500]


@given(st.binary(max_size=300))
@examples(120)
def test_bytes_that_are_no_http(lab: Lab, raw: bytes) -> None:
    assume(not raw.startswith((b"GET ", b"HEAD ")))
    refused(exchange(lab, raw, BRIEFLY))


WHOLE = request(
    "POST", "/v1/changes", b'{"services": {"nova": {"mode": "up"}}, "dry_run": true}', "X-A: b\r\nCookie: c=d\r\n"
)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 8), st.binary(max_size=12))
@examples(200)
def test_a_request_that_is_damaged(lab: Lab, at: int, taken: int, put: bytes) -> None:
    sane(exchange(lab, WHOLE[:at] + put + WHOLE[at + taken :], BRIEFLY))


HEADERS = [
    *(
        "Content-Length: -1\r\n",
        "Content-Length: 1e3\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: \r\n",
    ),
    *("Content-Length: 2\r\nContent-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip\r\n"),
    *("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "Content-Encoding: gzip\r\nContent-Length: 2\r\n"),
    *("Content-Encoding: deflate\r\nContent-Length: 2\r\n", "Content-Encoding: br\r\nContent-Length: 2\r\n"),
    *(
        "Expect: 100-continue\r\n",
        "Expect: the-unexpected\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Host: y\r\n",
    ),
    *(
        "Content-Type: text/plain; charset=no-such\r\nContent-Length: 2\r\n",
        "X: \x00\r\n",
        "X: \udcff\r\n",
        "\udcff: x\r\n",
    ),
    *(
        "X" * 9000 + ": y\r\n",
        "X: " + "y" * 9000 + "\r\n",
        "X: y\r\n" * 2000,
        " folded\r\n",
        "NoColon\r\n",
        ": empty\r\n",
    ),
    *(
        "Range: bytes=5-1\r\n",
        "If-Modified-Since: never\r\n",
        "Cookie: \udcff=;;=\r\n",
        "X-HTTP-Method-Override: PUT\r\n",
    ),
]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_odd_headers(lab: Lab, method: str) -> None:
    path = {"GET": "/v1/status", "POST": "/v1/changes", "PUT": "/v1/services/nova/mode"}[method]
    for header in HEADERS:
        for body in (b"{}", b"5\r\n{}", gzip.compress(b"0" * 10**6)):
            sane(exchange(lab, request(method, path, body, header), BRIEFLY))


BODIES = [
    *(b"", b"\x00", b"\xff\xfe", b"{", b"[]", b"null", b"0", b'"x"', b"NaN", b"{}", b'{"a":1,"a":2}', b"{'a': 1}"),
    *(
        b"[" * 30_000,
        b'{"a":' * 12_000,
        b'{"services":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"x": "' + b"y" * 60_000 + b'"}',
    ),
    *(
        b'{"services":' + b'{"a":' * 900 + b"1" + b"}" * 901,
        b"0" * 70_000,
        b"9" * 5000,
        b'{"reason": "\\ud800"}',
        b"\xef\xbb\xbf{}",
    ),
    *(
        b'{"mode": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"mode": 1' + b"0" * 400 + b"}",
        b'{"mode": NaN}',
        b'{"mode": "\\ud800"}',
    ),
    *(b'{"state": "\\udfff", "services": ["\\ud800"]}', b'{"state": 1e999}', b'{"mode": "down", "\\ud800": 1}'),
]
CALLS = [("POST", "/v1/changes"), ("PUT", "/v1/services/nova/mode"), ("PUT", "/v1/nodes/ctl1/state")]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_bodies_that_are_no_change(lab: Lab, method: str, path: str) -> None:
    for body in BODIES:
        refused(exchange(lab, request(method, path, body)))


FIELDS = [field.encode_name for field in msgspec.structs.fields(Change)]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_change_with_every_odd_value(lab: Lab, field: str) -> None:
    """Also in the calls that name a service or a node in their path, which make a change of their body."""
    for odd in ODD:
        change = {"services": {"nova": {"mode": "down"}}, "nodes": {"ctl1": {"state": "drained"}}}
        one = {"mode": "down", "state": "drained"}
        for (method, path), base in zip(CALLS, (change, {"mode": "down"}, {"state": one["state"]}), strict=True):
            body = json.dumps(
                {**base, "dry_run": True, field: odd} if field != "dry_run" else {**base, "x": 0, field: odd}
            )
            sane(exchange(lab, request(method, path, body.encode())))


@given(st.dictionaries(st.sampled_from([*FIELDS, "mode", "state"]), JSON, max_size=4), st.sampled_from(CALLS))
@examples(150)
def test_random_changes(lab: Lab, fields: dict[str, Any], call: tuple[str, str]) -> None:
    sane(exchange(lab, request(*call, json.dumps({**fields, "dry_run": True}).encode())))


PIECES = st.sampled_from(
    [
        *(
            "/",
            "v1",
            "status",
            "services",
            "nodes",
            "operations",
            "nova",
            "mode",
            "state",
            "..",
            "%2e%2e",
            "%00",
            "%ff",
        ),
        *("%", "%ed%a0%80", "%2f", "//", "*", ";", "1", "-1", "é", "\udcff", "#", "?", "?stream=1", "http://x/"),
        *("9" * 400, "a" * 9000),
    ]
)
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND", "\udcff"]


@given(st.sampled_from(METHODS), st.lists(PIECES, max_size=6).map("/".join), st.sampled_from(["", "/", "/v1/"]))
@examples(200)
def test_odd_methods_and_paths(lab: Lab, method: str, path: str, start: str) -> None:
    assume("events" not in path)
    sane(exchange(lab, request(method, start + path, b'{"dry_run": true}'), BRIEFLY))


def test_who_says_nothing_or_hangs_up_disturbs_nobody(lab: Lab) -> None:
    idle = []
    for cut in (0, 1, len(WHOLE) // 2, len(WHOLE) - 1):
        for _ in range(10):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(lab.agent.socket))
            connection.sendall(WHOLE[:cut])
            idle.append(connection)
    assert lab.agent.lbctl("status").returncode == 0
    for connection in idle:
        connection.close()
    for _ in range(20):  # gone before its answer
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(lab.agent.socket))
            connection.sendall(WHOLE)


def test_metrics_port_likewise(lab: Lab) -> None:
    for raw in (
        b"\x16\x03\x01\x02\x00",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        request("GET", "/\udcff?\x00"),
        request("POST", "/metrics", b"x"),
    ):
        with socket.create_connection(("127.0.0.1", lab.agent.metrics_port), timeout=5) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            sane(connection.recv(65536))
    assert ask(lab.agent.metrics_port, path="/metrics").status == 200


# ------------------------------------------------------------------------------- damage to what was a text


DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(
            ["cut", "insert", "overwrite", "drop line", "repeat line", "blank lines", "long line", "field"]
        ),
        st.integers(0, 10**9),
        st.binary(max_size=8)
        | st.sampled_from([b"-1", b"99999999999999999999", b"nan", b",", b'"', b"\r", b"\xff", b"\x00"]),
    ),
    min_size=1,
    max_size=3,
)


def damaged(raw: bytes, damages: list[tuple[str, int, bytes]]) -> bytes:
    for how, where, what in damages:
        at = where % (len(raw) + 1)
        lines = raw.splitlines(keepends=True) or [b"\n"]
        line = where % len(lines)
        match how:
            case "cut":
                raw = raw[:at]
            case "insert":
                raw = raw[:at] + what + raw[at:]
            case "overwrite":
                raw = raw[:at] + what + raw[at + len(what) :]
            case "drop line":
                raw = b"".join(lines[:line] + lines[line + 1 :])
            case "repeat line":
                raw = b"".join(lines[:line] + [lines[line]] * 3 + lines[line:])
            case "blank lines":
                raw = b"".join([*lines[:line], b"\n\n", *lines[line:]])
            case "long line":
                raw = raw[:at] + (what or b"x") * (150_000 // max(1, len(what))) + raw[at:]
            case "field":
                mark = b"," if b"," in lines[line] else b" "
                fields = lines[line].split(mark)
                fields[where % len(fields)] = what
                raw = b"".join([*lines[:line], mark.join(fields), *lines[line + 1 :]])
    return raw


# ---------------------------------------------------------------------------------- the agent's own files


CONFIGURATION = (shipped.folder("haproxy") / "lbagent.yaml").read_bytes().replace(b"\n#", b"\n")


@given(st.binary(max_size=200) | DAMAGE.map(lambda damages: damaged(CONFIGURATION, damages)))
@examples(150)
def test_a_configuration_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(raw)
    with contextlib.suppress(load.ConfigError):
        assert isinstance(load.load(path), config.Config)


INTENT = (
    Intent(revision=3)
    .with_service("nova", ServiceIntent(mode=Mode.DOWN, start=1, until=60, reason="é😀\n", keys=("fe@10.0.0.1/nova",)))
    .with_drain("ctl1", "nova", Drain(servers=(Held(backend="nova", server="ctl1"),)))
)
STORED = encode(INTENT).encode()


@given(st.binary(max_size=200) | DAMAGE.map(lambda damages: damaged(STORED, damages)))
@examples(300)
def test_damaged_bytes_never_become_an_intent(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """Damage that only moves white space, or changes nothing, gives the intent that was stored, and no other."""
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(raw)
    with contextlib.suppress(Damaged):
        assert FileStore(path)._read() == INTENT


LAST_SEEN = b'[{"nova": {"name": "nova", "http": true, "sticky": false, "guard": 1, "servers": {}}}, ["public"]]'


@given(st.binary(max_size=200) | DAMAGE.map(lambda damages: damaged(LAST_SEEN, damages)))
@examples(100)
def test_what_was_last_seen_is_read_or_forgotten(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """It only makes commands possible while HAProxy is down; the agent starts with any."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "last-seen.json").write_bytes(raw)
    tree = {"haproxy": {"socket": f"{folder}/no.sock", "state_dir": str(folder)}}
    seen = HAProxy(load.parse(json.dumps(tree)).haproxy).observe()
    assert not seen.up
    assert all(isinstance(backend, BackendSeen) for backend in seen.backends.values())


KEYS = st.sampled_from(
    ["=intent/service/nova", "=intent/drain/ctl1/nova", "=intent/drain/", "=revision", "=intent/", "nova"]
)
COPIES = [value for key, value in guard_map.entries(load.parse(""), INTENT) if key.startswith("=intent")]


@given(
    st.lists(
        st.tuples(
            KEYS | st.text(max_size=30),
            st.text(max_size=60)
            | JSON.map(lambda tree: json.dumps(tree, ensure_ascii=True))
            | st.sampled_from([*COPIES, "[" * 20_000, "9" * 5000, "-1", '{"mode":"down","start":' + "9" * 400 + "}"])
            | st.builds(
                lambda text, damages: damaged(text.encode(), damages).decode("utf-8", "surrogateescape"),
                st.sampled_from(COPIES),
                DAMAGE,
            ),
        ),
        max_size=4,
    )
)
@examples(200)
def test_the_copy_in_a_map_is_an_intent_or_damaged(table: list[tuple[str, str]]) -> None:
    with contextlib.suppress(msgspec.MsgspecError, ValueError):
        assert isinstance(intent_copy.intent_from(table), Intent)


@given(st.text(max_size=200))
@examples(100)
def test_files_of_the_state_folder_are_read_whatever_they_hold(text: str) -> None:
    assert all(len(pair) == 2 for pair in guard_map.parse_map_text(text))
    assert all(ref.backend and line for ref, line in server_state.state_rows(text).items())


# ------------------------------------------------------------------------------------- HAProxy's answers


STATE = f"""1
{server_state.HEADER_V1}
3 nova 1 ctl1 127.0.0.1 2 0 1 1 2 1 0 2 0 0 0 0 - 28472 - 0 0 - - 0
3 nova 2 ctl2 127.0.0.1 0 0 1 1 2 8 2 0 6 0 0 0 - 28479 - 0 0 - - 0
"""
STAT = """# pxname,svname,qcur,qmax,scur,smax,status,weight,act,bck,tracked,type,cookie,mode,
public,FRONTEND,,,3,3,OPEN,,,,,0,,http,
nova,ctl1,1,0,2,2,no check,1,1,0,,2,,http,
nova,ctl2,0,0,0,0,DOWN,1,0,1,,2,,http,
nova,BACKEND,0,0,2,2,UP,1,1,0,,1,S,http,
"""
SESSIONS = """0x55b092560330: [23/Nov/2026:07:57:05.062319] id=2 proto=tcpv4 source=127.0.0.1:44648
  flags=0xc4a, conn_retries=0, conn_exp=<NEVER> conn_et=0x000 srv_conn=0x55b09237d7f0, pend_pos=(nil) waiting=0 epoch=0
  frontend=public (id=2 mode=http), listener=? (id=1) addr=127.0.0.1:28471
  backend=nova (id=3 mode=http) addr=127.0.0.1:57816
  server=ctl1 (id=1) addr=127.0.0.1:28472
  txn=0x55b092560890 flags=0x3000 meth=1 status=-1 req.st=MSG_DONE rsp.st=MSG_RPBEFORE req.f=0x4c rsp.f=0x00
"""
PROCESSES = """#<PID>          <type>          <reloads>       <uptime>        <version>
30              master          1               0d00h01m00s     2.6.12
# workers
77              worker          0               0d00h00m10s     2.6.12
# old workers
70              worker          1               0d00h01m00s     2.6.12
# programs

"""
ANSWERS = {
    "show info": "Name: HAProxy\nVersion: 2.6.12-1\nProcess_num: 1\nPid: 77\nUptime: 0d 0h00m02s\n",
    "show servers state": STATE,
    "show stat": STAT,
    "show map": "".join(f"0x55 {key} {value}\n" for key, value in guard_map.entries(load.parse(""), INTENT)),
    "show acl": "0x55 ^nova GET /x$\n",
    "show acl\n": "# id (file) description\n0 () acl 'str' file 'h.cfg' line 15. curr_ver=0 next_ver=0 entry_cnt=1\n",
    "show acl #": "0x55 1/nova\n",
    "show table": "# table: nova, type: ip, size:1024, used:0\n",
    "show sess": SESSIONS,
    "show proc": PROCESSES,
    "prepare": "New version created: 1\n",
}


def truly(request: bytes) -> bytes:
    """What a HAProxy answers, its master likewise."""
    line = request.decode().removeprefix("@!70\n").split("\n")[0]
    out = []
    for command in line.split("; "):
        keys = [key for key in ANSWERS if f"{command}\n".startswith(key)]
        out.append(ANSWERS[max(keys, key=len)] if keys else "")
    return "".join(f"{text}\n" for text in out).encode()


class Fake:
    """A unix socket that answers each connection with ``answer(request)``, and closes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer: Callable[[bytes], bytes] = truly
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.sendall(self.answer(connection.recv(65536)))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    patience, master.PATIENCE = master.PATIENCE, 0.0  # a master that answers nothing is asked again for so long
    made = Fake(tmp_path_factory.mktemp("f") / "s")
    yield made
    made.close()
    master.PATIENCE = patience


def balancer(fake: Fake) -> HAProxy:
    folder = str(fake.path.parent)
    tree = {
        "socket": str(fake.path),
        "master_socket": str(fake.path),
        "state_dir": folder,
        "config": [f"{folder}/no.cfg"],
    }
    return HAProxy(load.parse(json.dumps({"haproxy": tree})).haproxy)


def look(fake: Fake) -> Observed:
    """One look; and whatever else is asked of such a HAProxy says nothing worse than that HAProxy is wrong."""
    asked = balancer(fake)
    seen = asked.observe()
    assert seen.up or seen.error
    if seen.up:
        for question in (asked.settled, asked.streams):
            with contextlib.suppress(HAProxyError):
                question(seen)
    return seen


def test_the_fake_is_believed_as_long_as_it_tells_the_truth(fake: Fake) -> None:
    fake.answer = truly
    seen = look(fake)
    assert seen.up and not seen.blind, (seen.error, seen.blind)
    assert [worker.pid for worker in seen.old_workers or ()] == [70]
    assert intent_copy.intent_from(seen.table or ()) == INTENT


@given(
    st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | st.just(b"x" * 3_000_000) | st.just(b"\n" * 5000)
)
@examples(80)
def test_a_haproxy_that_answers_garbage_is_not_up(fake: Fake, garbage: bytes) -> None:
    fake.answer = lambda _: garbage
    seen = look(fake)
    assert not seen.up
    with contextlib.suppress(HAProxyError):
        AdminSocket(str(fake.path)).run("show info")


@given(st.integers(0, 11), DAMAGE)
@examples(300)
def test_one_damaged_answer_among_good_ones(fake: Fake, which: int, damages: list[tuple[str, int, bytes]]) -> None:
    number = iter(range(10_000))
    fake.answer = lambda request: damaged(truly(request), damages) if next(number) == which else truly(request)
    look(fake)


@given(
    st.sampled_from(["show info", "show stat", "show servers", "show map", "show sess", "show proc", "@!70"]), DAMAGE
)
@examples(200)
def test_answers_of_one_kind_are_damaged(fake: Fake, kind: str, damages: list[tuple[str, int, bytes]]) -> None:
    """Within a batch, too: the damage is done to one answer, the others stand where they should."""

    def answer(request: bytes) -> bytes:
        prefix, line = ("@!70\n", request[5:]) if request.startswith(b"@!70\n") else ("", request)
        commands = line.decode().split("\n")[0].split("; ")
        hit = prefix.strip() == kind
        return b"".join(
            damaged(truly(f"{c}\n".encode())[:-1], damages) + b"\n"
            if hit or c.startswith(kind)
            else truly(f"{c}\n".encode())
            for c in commands
        )

    fake.answer = answer
    look(fake)


# --------------------------------------------------------------------------------- HAProxy's configuration


HAPROXY = (shipped.folder("haproxy") / "haproxy.cfg").read_bytes()
ADOPTED = adopt.adopt([("h", HAPROXY.decode())], load.parse("")).files[0][1].encode()
WORDS = """backend a|backend|listen b|defaults|defaults from x|global| mode http| server s 1:1|.if 1|.else|.endif|'
# BEGIN lbagent guard|# END lbagent guard|  # BEGIN lbagent state| server-state-file x| acl lba_guard
 use-server s if "|\\"""
ODD_LINES = [*re.split(r"[|\n]", WORDS), "\r", "\v", "\u2028", "\udcff"]
LINES = st.builds(
    lambda lines, end: end.join(lines),
    st.lists(
        st.sampled_from([line.encode("utf-8", "surrogateescape") for line in ODD_LINES]) | st.binary(max_size=10),
        max_size=14,
    ),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
)


@given(
    st.lists(
        LINES | st.sampled_from([HAPROXY, ADOPTED]).flatmap(lambda t: DAMAGE.map(lambda d: damaged(t, d))),
        min_size=1,
        max_size=2,
    )
)
@examples(120)
def test_any_bytes_are_adopted_and_given_back_or_refused(raws: list[bytes]) -> None:
    files = [(f"f{n}", raw.decode("utf-8", "surrogateescape")) for n, raw in enumerate(raws)]
    assert isinstance(reading.read(files), reading.Reading)
    try:
        bare = adopt.remove(files)
        adopted = adopt.adopt(files, load.parse(""))
    except (adopt.CannotAdopt, blocks.BrokenBlock):
        return
    assert adopt.remove(adopted.files) == bare
    assert adopt.adopt(adopted.files, load.parse("")).files == adopted.files
    if bare == tuple(files):
        assert adopt.remove(adopted.files) == tuple(files)
    adopt.diff(files, adopted.files)
