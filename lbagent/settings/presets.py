"""Presets: per service the shape of the answer and what read-only lets through, as data in haproxy/presets."""

from __future__ import annotations

import re
from functools import cache

import msgspec
import yaml

from lbagent.settings import deployers, shipped

DEFAULT = "default"

METHOD_AND_PATH = re.compile(r"(\(?[A-Z][A-Z|]*\)?) \(?/[!-~]*")

_COUNT = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"

ALIKE = re.compile(
    r"(?:"
    r"\\[!-&(-/:;=?@[-_{-~]"  # an escaped mark; before letters, digits and <>`' a backslash means other things
    r"|\[\^?\]?[^]\[\\]*\]"  # a set; a backslash or a bracket in it is read in three ways
    rf"|\{{{_COUNT}(?:,{_COUNT}?)?\}}"
    r"|\((?!\?)|[^\\\[{(]"
    r")*"
)
"""What PCRE2, POSIX and Python read alike: a pattern that HAProxy cannot compile would keep it from starting."""

NOT_ALIKE = re.compile(r"[*+?}][+?]|\[[^]]*(?:--|&&|~~|\|\|)")
"""Lazy and possessive repeats; in a set what Python will read as an operation on sets."""


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests that read or write by what their JSON body says: those with one key, of ``keys``, read."""

    request: str  # METHOD path, a regex
    keys: str  # a regex


class Versions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the root of a closed service tells OpenStack's own clients: without a version document they never get to
    the request whose answer is ours, and say "no supported versions". ``href`` is relative: prefix and host stay.
    ``at_v1``: ``/v1`` answers with the same document, for clients that go on to ask there."""

    id: str
    href: str
    at_v1: bool = False


class Preset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``answer`` names a file of haproxy/answers; ``allow`` and ``deny`` are ``METHOD path`` regexes.

    A rule with ``\\?`` is about path and query, decoded. ``query_begins``: a query parameter, wherever it stands,
    has to begin with one of these words, or the request is refused. ``json_below``: paths that are answered in JSON
    where the others get a page.
    """

    answer: str = "error"
    services: tuple[str, ...] = ()  # names of services that take this preset by themselves
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    bodies: tuple[Body, ...] = ()
    query_begins: dict[str, tuple[str, ...]] = {}
    json_below: tuple[str, ...] = ()
    any_names: bool = False  # its paths are names that users choose, with control characters too: an object store
    versions: Versions | None = None


@cache
def all_presets() -> dict[str, Preset]:
    return {
        path.stem: msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Preset)
        for path in sorted((shipped.folder("haproxy") / "presets").glob("*.yaml"))
    }


def names() -> list[str]:
    return list(all_presets())


def get(name: str) -> Preset:
    return all_presets()[name]


def default_for(service: str) -> str:
    """The preset that a service of this name gets where the configuration names none."""
    for known in (service, deployers.service_of(service)[0]):
        for name, preset in all_presets().items():
            if known == name or known in preset.services:
                return name
    return DEFAULT


def not_beginning_with(words: tuple[str, ...]) -> str:
    """A regex for how every text begins that begins with none of ``words``; no lookahead, POSIX has none."""
    ways = []
    for prefix in sorted({word[:n] for word in words for n in range(len(word))}):
        going_on = "".join(sorted({w[len(prefix)] for w in words if w.startswith(prefix) and len(w) > len(prefix)}))
        if prefix not in words:
            ways.append(f"{prefix}($|[^{going_on}])")
    return f"({'|'.join(ways)})"


def rule_problem(rule: str) -> str | None:
    """What is wrong with a ``METHOD path`` regex, or None.

    Only what PCRE2, POSIX extended and Python read alike is taken: HAProxy is built with one of the first two.
    """
    if not METHOD_AND_PATH.fullmatch(rule):
        return f"{rule!r} is not METHOD path, such as POST /v3/auth/tokens (the path is a regex, no blanks)"
    if not ALIKE.fullmatch(rule) or NOT_ALIKE.search(rule):
        return f"{rule!r}: no (?…), no \\ before a letter, digit or in […], no lazy or possessive, no {{n}} over 255"
    try:
        re.compile(rule)
    except (re.error, RecursionError, OverflowError) as error:
        return f"{rule!r} is not a regex: {error}"
    return None
