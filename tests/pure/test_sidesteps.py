"""Ways round the guard that a frontend may have, which adopt and doctor warn of."""

from __future__ import annotations

import pytest

from lbagent.haproxy_cfg import adopt, parse
from lbagent.haproxy_cfg.sidesteps import sidesteps
from lbagent.settings import load

HEAD = "defaults\n  mode http\nfrontend f\n  bind :1\n  default_backend nova\n"
TAIL = "backend nova\n  server s :1\nbackend sorry\n  server s :2\n"


def found(lines: str, head: str = HEAD) -> list[tuple[tuple[str, ...], bool]]:
    files = [("a.cfg", head + "".join(f"  {line}\n" for line in lines.splitlines()) + TAIL)]
    return [(step.backends, step.cache) for step in sidesteps(parse.sections(files), files)]


@pytest.mark.parametrize(
    ("lines", "steps"),
    [
        ("http-request cache-use c", [(("nova",), True)]),
        ("http-request cache-use c if { path_beg /x }", [(("nova",), True)]),
        ("use_backend sorry if { nbsrv(nova) lt 1 }", [(("nova",), False)]),
        ("acl dead nbsrv(nova) lt 1\nuse_backend sorry if dead", [(("nova",), False)]),
        ("acl alive nbsrv(nova) ge 1\nuse_backend sorry unless alive", [(("nova",), False)]),
        ("acl dead nbsrv(nova) eq 0\nuse_backend sorry if { path / } dead !dead", [(("nova",), False)]),
        (
            "http-request return status 200 content-type text/plain string x if { nbsrv(nova) eq 0 }",
            [(("nova",), False)],
        ),
        ("http-request redirect location /x if { nbsrv(nova) lt 1 }", [(("nova",), False)]),
        ("redirect location /x if { srv_is_up(nova/s) -m bool 0 }", [(("nova",), False)]),
        ("use_backend sorry if { connslots(nova) lt 1 }", [(("nova",), False)]),
        ("use_backend sorry if { path_beg /sorry }", []),
        ("use_backend nova if { nbsrv(nova) gt 0 }", []),
        ("http-request set-header X-Alive %[nbsrv(nova)]", []),
        ("http-response cache-store c", []),
    ],
)
def test_what_answers_in_the_guards_place(lines: str, steps: list[tuple[tuple[str, ...], bool]]) -> None:
    assert found(lines) == steps


def test_a_frontend_that_picks_by_a_map_may_sidestep_any() -> None:
    head = "defaults\n  mode http\nfrontend f\n  bind :1\n  use_backend %[path,map(/m)]\n"
    assert found("http-request cache-use c", head) == [((), True)]


def test_in_a_listen_the_guard_comes_first() -> None:
    assert found("http-request cache-use c", "defaults\n  mode http\nlisten x\n  bind :1\n  server s :1\n") == []


def test_adopt_tells() -> None:
    text = HEAD + "  http-request cache-use c\n  use_backend sorry if { nbsrv(nova) lt 1 }\n" + TAIL
    notes = "\n".join(adopt.adopt([("a.cfg", text)], load.parse("")).notes)
    assert "f answers from a cache before the guard is asked (`http-request cache-use c`, a.cfg:6): nova" in notes
    assert "a.cfg:7): clients of nova would get that answer" in notes
