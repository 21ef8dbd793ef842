"""Which backends a frontend leads to, as far as its configuration says. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lbagent.haproxy_cfg.parse import Section


class Route(msgspec.Struct, frozen=True):
    """A frontend or listen section: what it binds, and the backends that it names."""

    frontend: str
    binds: tuple[tuple[str, ...], ...]  # the words behind each `bind`
    backends: tuple[str, ...]
    dynamic: bool  # some backends are picked by a map or a variable
    http: bool = True


def routes(sections: Iterable[Section]) -> tuple[Route, ...]:
    """Every frontend and listen section that HAProxy does not leave out."""
    return tuple(route(s) for s in sections if s.kind in ("frontend", "listen") and not s.disabled)


def route(section: Section) -> Route:
    named = [line.words[1] for line in section.lines("use_backend") if len(line.words) > 1]
    named += section.setting("default_backend")[:1]
    itself = [section.name] if section.kind == "listen" and section.has_servers else []
    return Route(
        frontend=section.name,
        binds=tuple(line.words[1:] for line in section.lines("bind") if len(line.words) > 1),
        backends=tuple(dict.fromkeys([*itself, *(name for name in named if "%" not in name)])),
        dynamic=any("%" in name for name in named),
        http=section.mode == "http",
    )


def leads_to(section: Section, backend: str) -> bool:
    """Whether it may lead there: it names the backend, or picks one by what is not known here."""
    found = route(section)
    return found.dynamic or backend in found.backends
