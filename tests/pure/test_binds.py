"""On which addresses a frontend listens: bind lines as people and deployers write them."""

from __future__ import annotations

import pytest

from lbagent.haproxy_cfg import binds
from lbagent.haproxy_cfg.scopes import scope_problems
from lbagent.model.written import FrontendWritten, Written


def read(*lines: str) -> list[binds.Bind]:
    return [bind for line in lines for bind in binds.read(line.split())]


@pytest.mark.parametrize(
    ("line", "address", "heard"),
    [
        ("10.0.0.5:80", "10.0.0.5", True),
        ("10.0.0.5:80", "10.0.0.6", False),
        ("10.0.0.5:80 transparent", "::ffff:10.0.0.5", True),
        ("::ffff:10.0.0.5:80", "10.0.0.5", True),
        ("[::ffff:10.0.0.5]:80", "10.0.0.5", True),
        ("10.0.0.5:80-90,10.0.0.6:80", "10.0.0.6", True),
        ("*:80", "10.0.0.5", True),
        (":80", "10.0.0.5", True),
        ("0.0.0.0:80", "10.0.0.5", True),
        (":80", "fd00::5", False),
        (":::80 v4v6", "10.0.0.5", True),
        (":::80 v4v6", "fd00::5", True),
        (":::80", "10.0.0.5", True),
        (":::80 v6only", "10.0.0.5", False),
        ("[::]:80 v6only", "fd00::5", True),
        ("fd00::5:80", "fd00::5", True),
        ("[FD00:0::5]:80", "fd00::5", True),
        ("fd00::5:80", "fd00::6", False),
        ("ipv4@10.0.0.5:80", "10.0.0.5", True),
        ("ipv6@:80", "fd00::5", True),
        ("ipv6@:80", "10.0.0.5", False),
        ("ipv4@*:80", "10.0.0.5", True),
        ("quic4@10.0.0.5:443 ssl crt /x", "10.0.0.5", True),
        ("/run/x.sock", "10.0.0.5", False),
        ("unix@/run/x.sock mode 660", "10.0.0.5", False),
        ("abns@x", "10.0.0.5", False),
        ("${VIP}:80", "10.0.0.5", None),
        ("fd@${FD}", "10.0.0.5", None),
        ("vip.example.org:80", "10.0.0.5", None),
        ("vip.example.org:80,10.0.0.5:80", "10.0.0.5", True),
    ],
)
def test_where_a_frontend_listens(line: str, address: str, heard: bool | None) -> None:
    assert binds.listens_on(read(line), address) is heard


def test_several_lines_are_one_frontend() -> None:
    both = read("10.0.0.5:80", "172.16.0.5:80 ssl crt /x")
    assert [binds.listens_on(both, a) for a in ("10.0.0.5", "172.16.0.5", "10.0.0.6")] == [True, True, False]
    assert [bind.tls for bind in both] == [False, True]


WRITTEN = Written(
    frontends={
        "public": FrontendWritten((("10.0.0.5:80",),), ("nova",), dynamic=False),
        "odd": FrontendWritten((("${VIP}:80",),), ("nova",), dynamic=False),
        "nowhere": FrontendWritten((), ("nova",), dynamic=False),
        "mail": FrontendWritten((("10.0.0.5:25",),), ("mail",), dynamic=False),
        "mapped": FrontendWritten((("10.0.0.5:443", "ssl"),), (), dynamic=True),
    },
    keeps=frozenset(),
    cuts=frozenset(),
    sticky={},
)


@pytest.mark.parametrize(
    ("scopes", "words"),
    [
        ([], None),
        (["public"], None),
        (["public@10.0.0.5"], None),
        (["mapped@10.0.0.5"], None),
        (["mail", "public"], None),
        (["pubic"], "no frontend pubic"),
        (["public@10.0.0.6"], "public does not listen on 10.0.0.6, it binds 10.0.0.5:80"),
        (["odd@10.0.0.5"], "cannot tell whether odd listens on 10.0.0.5, it binds ${VIP}:80"),
        (["nowhere@10.0.0.5"], "it binds nothing"),
        (["mail"], "none of these frontends leads to nova"),
    ],
)
def test_a_scope_that_matches_nothing_is_told(scopes: list[str], words: str | None) -> None:
    problems = scope_problems(scopes, ["nova"], WRITTEN)
    assert (problems == []) if words is None else (words in "; ".join(problems))


def test_without_a_configuration_no_scope_can_be_judged() -> None:
    assert "cannot be read" in scope_problems(["public"], ["nova"], None)[0]
    assert scope_problems([], ["nova"], None) == []


def test_a_frontend_that_waits_for_a_reload_is_told() -> None:
    assert scope_problems(["public"], ["nova"], WRITTEN, {"public"}) == []
    assert "reload" in scope_problems(["public"], ["nova"], WRITTEN, {"mail"})[0]
