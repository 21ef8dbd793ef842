"""Presets, and which regexes an operator may write: those that every engine HAProxy is built with reads alike."""

from __future__ import annotations

import ctypes
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbagent.settings import presets, shipped
from tests.lab.model_haproxy import examples

TAKEN = [
    "POST /v3/auth/tokens",
    "POST /v3/auth/tokens/?",
    "POST|PUT /x",
    "(POST|PUT) /x",
    "GET /(a|b)/[^/]+/c",
    "GET /a{2,255}",
    "GET /a{2,}/b{3}",
    r"GET /v2\.1/servers\?all=.*",
    "GET /v2[.]1/[a-z0-9_-]*",
    "GET /[]x]+[^]x]",
    "GET /a%2[fF]b",
    r"GET /\{literal\}",
    "GET /",
]

NOT_METHOD_AND_PATH = [
    "",
    "/x",
    "GET",
    "GET x",
    "get /x",
    "GET  /x",
    "GET /a b",
    "GET /ü",
    "GET /a\n",
    "GET /a\t",
    " GET /x",
]

READ_DIFFERENTLY = {
    "GET /(?:a)": "a group that does not capture",
    "GET /(?i)a": "a flag",
    r"GET /\d+": "a class by a letter",
    r"GET /(a)\1": "a back reference",
    r"GET /\<a": "the beginning of a word in glibc",
    r"GET /a\`": "the beginning of the text in glibc",
    "GET /a*?": "a lazy repeat",
    "GET /a++": "a possessive repeat",
    "GET /a{2}+": "a possessive count",
    "GET /a{256}": "a count that POSIX does not know",
    "GET /a{1,300}": "an upper count that POSIX does not know",
    "GET /a{,5}": "a count without its lower end",
    "GET /{id}": "a brace that POSIX refuses",
    "GET /[[:alpha:]]": "a class by a name",
    "GET /[[.a.]]": "a collating element, which PCRE refuses",
    r"GET /[\.]": "a backslash in a set, which POSIX takes for itself",
    "GET /[a&&b]": "a set operation of a Python to come",
}

NO_REGEX = [
    "GET /(a",
    "GET /a)",
    "(GET /a",
    "GET /[a",
    "GET /*a|*",
    "GET /a**",
    "GET /[z-a]",
    "GET /a{3,2}",
    "GET /a\\",
]


@pytest.mark.parametrize("rule", TAKEN)
def test_taken(rule: str) -> None:
    assert presets.rule_problem(rule) is None


@pytest.mark.parametrize("rule", NOT_METHOD_AND_PATH)
def test_a_rule_is_a_method_a_blank_and_a_path(rule: str) -> None:
    assert "is not METHOD path, such as POST /v3/auth/tokens" in str(presets.rule_problem(rule))


@pytest.mark.parametrize("rule", READ_DIFFERENTLY)
def test_what_engines_read_differently_is_refused(rule: str) -> None:
    assert "(?…)" in str(presets.rule_problem(rule))


@pytest.mark.parametrize("rule", [rule for rule in NO_REGEX if rule != "(GET /a"])
def test_what_is_no_regex_is_refused(rule: str) -> None:
    assert presets.rule_problem(rule)


def test_a_parenthesis_opened_in_the_method_has_to_be_closed() -> None:
    assert "is not a regex" in str(presets.rule_problem("(GET /a"))


@examples(100)
@given(st.text(max_size=20) | st.text("GET /ab[](){}|*+?^$\\.,0123-", max_size=20))
def test_any_rule_gets_an_answer(rule: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(rule) in (presets.rule_problem(rule) or repr(rule))


def _posix(pattern: str, text: str) -> bool | None:
    """Whether the C library's extended regex finds ``pattern``; None when it cannot compile it."""
    libc = ctypes.CDLL(None)
    compiled = ctypes.create_string_buffer(256)  # a regex_t is 64 bytes in glibc
    if libc.regcomp(compiled, pattern.encode(), 1 | 8):
        return None
    found = libc.regexec(compiled, text.encode(), 0, None, 0) == 0
    libc.regfree(compiled)
    return found


def test_the_c_library_does_read_some_of_them_differently() -> None:
    assert _posix("/a$", "/a") is True
    assert _posix("/{id}", "/{id}") is None
    assert (_posix(r"/[\.]", "/\\"), re.search(r"/[\.]", "/\\")) == (True, None)


@examples(400)
@given(
    st.text("ab01/[]^-\\(){}|*+?.$,:=<'&~", max_size=8).map("POST /".__add__),
    st.lists(st.text("ab01/[]^-\\{}|.,:=", max_size=6), max_size=6),
)
def test_what_is_taken_is_read_alike(rule: str, paths: list[str]) -> None:
    if presets.rule_problem(rule):
        return
    method, _, path = rule.partition(" ")
    pattern = f"^nova ({method}) ({path})$"
    for text in (f"nova POST /{tried}" for tried in ("", "a", "ab", *paths)):
        assert _posix(pattern, text) is (re.search(pattern, text) is not None), (pattern, text)


def test_a_service_takes_the_preset_of_its_name() -> None:
    assert presets.default_for("keystone") == "keystone"
    assert presets.default_for("no-such-service") == presets.DEFAULT
    assert presets.default_for("identity") == "keystone"
    assert presets.default_for("compute") == "nova"
    assert presets.default_for("cinder-api") == "cinder", "a deployer's name for it does as well"
    assert presets.default_for("nova_spicehtml5proxy") == "console"
    assert presets.DEFAULT in presets.names()


@pytest.mark.parametrize("name", presets.names())
def test_what_ships_is_what_an_operator_may_write(name: str) -> None:
    preset = presets.get(name)
    assert [presets.rule_problem(rule) for rule in (*preset.allow, *preset.deny)] == [None] * len(
        (*preset.allow, *preset.deny)
    )
    assert "@MESSAGE@" in shipped.text(f"answers/{preset.answer}.json")


def test_no_two_presets_claim_a_service() -> None:
    claimed = [service for preset in presets.all_presets().values() for service in preset.services]
    assert len(claimed) == len(set(claimed))
