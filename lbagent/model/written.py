"""What HAProxy's configuration files say that the running HAProxy does not show."""

from __future__ import annotations

import msgspec


class FrontendWritten(msgspec.Struct, frozen=True):
    """A frontend or listen section."""

    binds: tuple[tuple[str, ...], ...]  # the words behind each `bind`
    backends: tuple[str, ...]  # those that it names, itself included where it is a listen with servers
    dynamic: bool  # some backends are picked by a map or a variable, so it may lead to any


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The files as they are on the disk now: what HAProxy would be after a reload."""

    frontends: dict[str, FrontendWritten]
    keeps: frozenset[str]  # backends whose drains HAProxy would load from our server-state file at a reload
    cuts: frozenset[str]  # backends where a server that is marked down loses its open requests
    sticky: dict[str, bool]  # backend → a drained server of it may get requests all the same; missing: not known
