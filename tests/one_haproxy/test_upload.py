"""Uploads to a closed service: whatever their size, they end in the guard's readable answer, and within bounds."""

from __future__ import annotations

import http.client
import json
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbagent.guard import cfg_lines, file_names
from tests.lab.clients import Load, ask
from tests.lab.haproxy import HAPROXY
from tests.lab.one_haproxy import Lab, running_lab
from tests.lab.wait import eventually

KB, MB = 1000, 1000 * 1000
SECONDS, BYTES = 2, 60 * MB
BLOCK = b"x" * 65536

VERSION = tuple(int(n) for n in subprocess.check_output([HAPROXY, "-v"], text=True).split()[2].split(".")[:2])
BY_LUA = VERSION < (3, 0)  # newer ones read the rest by themselves, with bounds of their own
needs_lua = pytest.mark.skipif(not BY_LUA, reason="HAProxy 3.0 and newer read what is left by themselves")

BOUNDS = f"  setenv LBAGENT_UPLOAD_SECONDS {SECONDS}\n  setenv LBAGENT_UPLOAD_BYTES {BYTES}\n"


@pytest.fixture(scope="module")
def shared():
    with running_lab(("glance", "nova"), 1, global_lines=BOUNDS) as made:
        yield made


@pytest.fixture(params=["down", "read-only"])
def closed(shared, request):
    shared.agent.ok(request.param, "glance", "--for", "20m", "--reason", "schema upgrade")
    yield shared
    shared.agent.ok("up", "glance")


def blocks(size: int) -> Iterator[bytes]:
    for at in range(0, size, len(BLOCK)):
        yield BLOCK[: size - at]


def upload(port: int, size: int, chunked: bool, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """PUT by a client that writes everything before it reads anything."""
    headers |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("PUT", "/v2/images/1/file", blocks(size), headers, encode_chunked=chunked)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def assert_told(lab: Lab, response: http.client.HTTPResponse, body: bytes) -> None:
    """As an ordinary request is told: the same status, body and headers, but for the spread in Retry-After."""
    other = ask(lab.port["glance"], "PUT", "/v2/images/1/file", headers={"Content-Length": "0"})
    headers = {name.lower(): value for name, value in response.getheaders() if name.lower() != "connection"}
    retry_after = int(headers.pop("retry-after"))
    assert 1100 <= retry_after <= 1230
    other.headers.pop("retry-after")
    assert (response.status, headers, body) == (503, other.headers, other.body)
    assert b"schema upgrade" in body


# HAProxy 2.6.12 itself loses its way in about one chunked upload of 3 GB (one of 30 of 100 MB, with any service of its
# own): so none of 50 MB in chunks here.
@pytest.mark.parametrize(
    ("size", "chunked"),
    [(size, chunked) for size in (1 * KB, 100 * KB, 1 * MB, 5 * MB) for chunked in (False, True)] + [(50 * MB, False)],
)
def test_an_upload_is_told_to_come_back(closed, size, chunked):
    since = time.time()
    assert_told(closed, *upload(closed.port["glance"], size, chunked))
    assert closed.requests("ctl1", since, "glance") == []


def test_a_browser_gets_its_page(closed):
    response, body = upload(closed.port["glance"], 5 * MB, chunked=False, Accept="text/html,*/*")
    assert response.status == 503
    assert response.headers["Content-Type"].startswith("text/html")
    assert int(response.headers["Retry-After"]) > 0
    assert b"schema upgrade" in body


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [1 * KB, 100 * KB, 1 * MB, 5 * MB, 50 * MB])
def test_curl(closed, tmp_path, size, chunked):
    (tmp_path / "image").write_bytes(bytes(size))
    url = f"http://127.0.0.1:{closed.port['glance']}/v2/images/1/file"
    more = ["-H", "Transfer-Encoding: chunked"] if chunked else []
    began = time.monotonic()
    done = subprocess.run(
        ["curl", "-sS", "-m", "20", "-i", "-T", tmp_path / "image", *more, url], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"\r\nretry-after: " in head.lower()
    assert "schema upgrade" in body.decode()
    assert time.monotonic() - began < 10


def test_one_that_asks_first_need_not_send(closed):
    with socket.create_connection(("127.0.0.1", closed.port["glance"]), timeout=10) as client:
        client.sendall(b"PUT /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 503")


def test_trailers_and_an_empty_body(closed):
    for body in (b"0\r\n\r\n", b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", closed.port["glance"]), timeout=2) as client:
            client.sendall(b"PUT /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
            assert client.recv(65536).startswith(b"HTTP/1.1 503")


def test_many_at_once_leave_other_traffic_alone(closed):
    answers: list[int] = []
    port = closed.port["glance"]

    def client() -> None:
        for _ in range(5):
            answers.append(upload(port, 20 * MB, chunked=False)[0].status)

    with Load(closed.port["nova"], clients=2) as load:
        threads = [threading.Thread(target=client) for _ in range(6)]
        began = time.time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert answers == [503] * 30
    during = [status for at, status in load.results if at >= began]
    assert len(during) > 50
    assert set(during) == {200}


def test_other_changes_do_not_wait_for_what_is_thrown_away(closed):
    with drip(closed, 5 * MB) as client:
        eventually(lambda: "lbagent_upload" in closed.haproxy.run("show sess all") or not BY_LUA, "it is read")
        closed.agent.ok("down", "glance", "--reason", "schema upgrade, still", "--deadline", "1s")
        client.close()


# ------------------------------------------------------------------------------------------------- bounds


def drip(lab: Lab, first: int) -> socket.socket:
    """An upload without an end, ``first`` bytes of it sent."""
    client = socket.create_connection(("127.0.0.1", lab.port["glance"]), timeout=10)
    client.sendall(b"PUT /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000000\r\n\r\n" + bytes(first))
    return client


@needs_lua
@pytest.mark.parametrize("first", [0, 50 * KB, 5 * MB])
@pytest.mark.parametrize("pause", [0.5, 0.01])
def test_one_that_drips_is_cut_in_time(closed, first, pause):
    with drip(closed, first) as client:
        began = time.monotonic()
        while not select.select([client], [], [], pause)[0] and time.monotonic() < began + 4 * SECONDS:
            client.sendall(b"x")
        took = time.monotonic() - began
        assert client.recv(65536).startswith(b"HTTP/1.1 503")
    assert SECONDS - 0.2 <= took <= SECONDS + 1


@needs_lua
def test_one_that_says_nothing_is_cut_in_time(closed):
    with drip(closed, 50 * KB) as client:
        began = time.monotonic()
        assert client.recv(65536).startswith(b"HTTP/1.1 503")
        assert SECONDS - 0.2 <= time.monotonic() - began <= SECONDS + 1


@needs_lua
def test_one_that_has_no_end_is_cut_and_takes_no_memory(closed):
    def memory() -> int:
        status = Path(f"/proc/{closed.haproxy.pid()}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    upload(closed.port["glance"], 20 * MB, chunked=False)
    before, sent = memory(), 0
    with drip(closed, 0) as client:
        try:
            while sent < 10 * BYTES:
                sent += client.send(BLOCK)
        except OSError:
            pass
    assert BYTES <= sent < BYTES + 30 * MB  # what lies in the kernel's buffers comes on top
    assert memory() < before + 5000  # kB


@needs_lua
def test_clients_that_go_away_leave_nothing_behind(closed):
    for size in (0, 50 * KB, 5 * MB):
        drip(closed, size).close()
    eventually(lambda: "lbagent_upload" not in closed.haproxy.run("show sess all"), "they are gone")


# -------------------------------------------------------------------------------------------- without it


@needs_lua
def test_without_the_global_lines_the_guard_still_answers(make_lab):
    """As where HAProxy has no Lua: large uploads may break, everything else is as it is, and doctor says so."""
    lab = make_lab(("glance",), 1, start=False)
    text = lab.haproxy.config.read_text()
    lab.haproxy.config.write_text(
        "".join(
            line
            for line in text.splitlines(keepends=True)
            if f"/{file_names.UPLOAD}" not in line and f"setenv {cfg_lines.UPLOAD_LOADED} " not in line
        )
    )
    lab.start()
    lab.agent.ok("down", "glance")
    answer = ask(lab.port["glance"], "PUT", body=b"x" * 1000)
    assert (answer.status, answer.headers["x-maintenance"]) == (503, "down")
    assert about_uploads(lab) == ["note"]


def test_doctor_says_that_it_is_there(shared):
    assert about_uploads(shared) == (["ok"] if BY_LUA else [])


def about_uploads(lab: Lab) -> list[str]:
    findings = json.loads(lab.agent.lbctl("doctor", "--json").stdout)
    return [finding["verdict"] for finding in findings if finding["about"] == "uploads"]
