"""The guard's ACL files: what passes or is refused by method and path, and who passes in every mode. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from lbagent.guard.file_names import ALLOW, BODIED, BODIES, DENY, DIGESTS, JSON, NETWORKS, PROBES
from lbagent.settings import presets
from lbagent.settings.config import Config, ServiceConfig

TRICKS = r"(/.*)?(//|/\.\.?(/|$)|;|\\|%|\?)"
"""In a decoded path: what two parsers may read differently. Refused on GET too where a deny list exists."""

ONE_KEY = (
    '[[:space:]]*[{{][[:space:]]*"({keys})"[[:space:]]*:[[:space:]]*(null|[{{][^{{}}]*[}}])[[:space:]]*[}}][[:space:]]*'
)
"""A JSON object of one key, spelled plainly, whose value is null or a flat object: what cannot be parsed is refused."""

ONE_KEY = (
    '[[:space:]]*[{{][[:space:]]*"({keys})"[[:space:]]*:[[:space:]]*(null|[{{][^{{}}]*[}}])[[:space:]]*[}}][[:space:]]*'
)
"""A JSON object of one key, spelled plainly, whose value is null or a flat object: what cannot be parsed is refused."""


def lists(
    config: Config, services: Mapping[str, ServiceConfig] | None = None, digest: str | None = None
) -> dict[str, tuple[str, ...]]:
    """The guard's ACL files: name → patterns. ``services`` are the known ones, by default the configured."""
    allow: list[str] = []
    deny: list[str] = []
    probes: list[str] = []
    bodied: list[str] = []
    bodies: list[str] = []
    json_paths: list[str] = []
    for name, service in sorted((services or config.services).items()):
        preset = presets.get(service.preset)
        allow += [_pattern(name, rule) for rule in (*preset.allow, *service.allow)]
        bodied += [_pattern(name, body.request) for body in preset.bodies]
        bodies += [f"^{_literal(name)} {ONE_KEY.format(keys=body.keys)}$" for body in preset.bodies]
        json_paths += [f"^{_literal(name)} {path}" for path in preset.json_below]
        denied = (*preset.deny, *service.deny)
        deny += [_pattern(name, _head_too(rule)) for rule in denied]
        for parameter, words in preset.query_begins.items():
            value = presets.not_beginning_with(words)
            deny.append(f"^{_literal(name)} QUERY [A-Z]+ [^?]*[?]([^&;]*[&;])*{parameter}={value}")
        if denied or preset.query_begins:
            deny.append(f"^{_literal(name)} [A-Z]+ {TRICKS}")
        if not preset.any_names:
            # In a decoded path no pattern sees past a newline: `.` stops there.
            deny.append(f"^{_literal(name)} [A-Z]+ /[^[:cntrl:]]*[[:cntrl:]]")
        probes += [_pattern(name, rule) for rule in service.probes]
    return {
        ALLOW: tuple(dict.fromkeys(allow)),
        DENY: tuple(dict.fromkeys(deny)),
        PROBES: tuple(dict.fromkeys(probes)),
        BODIED: tuple(dict.fromkeys(bodied)),
        BODIES: tuple(dict.fromkeys(bodies)),
        JSON: tuple(dict.fromkeys(json_paths)),
        NETWORKS: config.bypass.networks,
        DIGESTS: (digest,) if digest else (),
    }


def _pattern(service: str, rule: str) -> str:
    """``METHOD path`` of a service, anchored at both ends; one with ``\\?`` is about path and query."""
    method, _, path = rule.partition(" ")
    query = "QUERY " if r"\?" in path else ""
    return f"^{_literal(service)} {query}({method}) ({path})$"


def _literal(name: str) -> str:
    """A name as a regex: of the characters that names may have, only the dot means something."""
    return name.replace(".", "[.]")


def _head_too(rule: str) -> str:
    """Frameworks answer HEAD with the code of GET: what a GET may not do, a HEAD may not either."""
    method, _, path = rule.partition(" ")
    return f"{method}|HEAD {path}" if "GET" in method else rule


def digest(secret: str) -> str:
    """What HAProxy compares the bypass header with: SHA-256 as upper-case hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest().upper()


def list_text(patterns: Iterable[str]) -> str:
    return "".join(f"{pattern}\n" for pattern in patterns)
