"""The text that HAProxy reads: the guard's lines, its map, its lists, the server-state file. Pure.

The rules themselves are data, in ``haproxy/``; this module fills them in and writes what they look up.
Formats are versioned in the file's name: a guard of version 1 reads ``*-v1.*`` for as long as one is in use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import msgspec

from lbagent.model.intent import Drain, Exceptional, Intent, Mode, ServiceIntent, Stamp
from lbagent.model.observed import ServerSeen
from lbagent.model.servers import FORCED_DRAIN, FORCED_MAINT, Admin, Ref
from lbagent.model.times import iso
from lbagent.settings import presets, shipped
from lbagent.settings.config import Config, ServiceConfig

VERSION = 1

MAP = "guard-v1.map"
ALLOW, DENY, PROBES = "allow-v1.acl", "deny-v1.acl", "probes-v1.acl"
NETWORKS, DIGESTS = "bypass-networks-v1.acl", "bypass-digests-v1.acl"
BODIED, BODIES = "bodied-v1.acl", "bodies-v1.acl"  # requests that their body decides about; bodies that pass
JSON = "json-v1.acl"  # paths that are answered in JSON where the service has pages
LISTS = (ALLOW, DENY, PROBES, BODIED, BODIES, JSON, NETWORKS, DIGESTS)
PAGE, ERRORFILE, STATE = "page-v1.html", "503-v1.http", "servers.state"
UPLOAD = "upload-v1.lua"  # reads what a refused client sends; loaded by HAProxy before 3.0 that has Lua
UPLOAD_LOADED = "LBAGENT_UPLOAD"  # in HAProxy's environment when it is

FAR = 9999999999  # a start that never comes: for entries that only say "look for a narrower key"
TRICKS = r"(/.*)?(//|/\.\.?(/|$)|;|\\|%|\?)"
"""In a decoded path: what two parsers may read differently. Refused on GET too where a deny list exists."""

ONE_KEY = (
    '[[:space:]]*[{{][[:space:]]*"({keys})"[[:space:]]*:[[:space:]]*(null|[{{][^{{}}]*[}}])[[:space:]]*[}}][[:space:]]*'
)
"""A JSON object of one key, spelled plainly, whose value is null or a flat object: what cannot be parsed is refused."""

HEADER_V1 = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state "
    "srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port "
    "srv_check_addr srv_agent_addr srv_agent_port"
)
"""Columns of a server-state file (management.txt, ``show servers state``); the same on 2.4 to 3.2."""

COLUMNS = tuple(HEADER_V1[2:].split())

CHECK_SETTINGS = 2 | 4 | 16  # configured, enabled, is an agent-check; not: in progress, paused


# ------------------------------------------------------------------------------------------ the guard


def lines(backend: str, seen_dir: str) -> list[str]:
    """The guard of one backend, for the top of its section, after its tcp-request lines."""
    return _fill("guard.cfg", backend, seen_dir)


def steer_lines(backend: str, seen_dir: str) -> list[str]:
    """The guard's last lines: use-server rules, which HAProxy wants after http-request rules."""
    return _fill("steer.cfg", backend, seen_dir)


def global_lines(seen_dir: str) -> list[str]:
    """For HAProxy's global section, above every guard."""
    return _fill("global.cfg", "", seen_dir)


def marker(backend: str) -> str:
    """The pattern of the ACL by which a running HAProxy shows that a backend carries this guard."""
    return f"{VERSION}/{backend}"


def _fill(name: str, backend: str, seen_dir: str) -> list[str]:
    return [
        line.replace("@BACKEND@", backend).replace("@DIR@", seen_dir).replace("@VERSION@", str(VERSION))
        for line in shipped.text(name).splitlines()
        if not line.startswith("#")
    ]


def fixed_files(config: Config) -> dict[str, str]:
    """The files of state_dir that no intent changes: name → text."""
    floor = config.retry_after.floor
    errorfile = shipped.text("503.http").replace("@FLOOR@", str(floor))
    return {
        PAGE: shipped.text("page.html").replace("@DIR@", config.haproxy.seen_dir),
        ERRORFILE: errorfile,
        UPLOAD: shipped.text("upload.lua"),
    }


def files_at_rest(config: Config) -> dict[str, str]:
    """Every file that a guarded HAProxy needs at start, for an HAProxy with nothing in maintenance."""
    empty = Intent()
    return (
        fixed_files(config)
        | {MAP: map_text(entries(config, empty)), STATE: state_text({})}
        | {name: list_text(patterns) for name, patterns in lists(config).items()}
    )


# --------------------------------------------------------------------------------------------- the map


def key_text(key: str) -> str:
    """The map key of an intent's key: ``nova``, ``fe/nova@`` or ``fe/nova@10.0.0.5/``.

    The longer ones are matched by their beginning (``map_beg``), the longest first.
    """
    place, slash, backend = key.rpartition("/")
    if not slash:
        return backend
    frontend, at, address = place.partition("@")
    return f"{frontend}/{backend}@" + (f"{address}/" if at else "")


def entries(config: Config, intent: Intent, steer: Mapping[str, str] | None = None) -> tuple[tuple[str, str], ...]:
    """The whole map for ``intent``, sorted by key.

    ``steer`` names for a backend the server that an old worker's late requests go to.
    """
    out: dict[str, str] = {}
    scoped = {key.rpartition("/")[2] for s in intent.services.values() for key in s.keys if "/" in key}
    for backend in scoped:
        out[backend] = _value(config, "-", ServiceIntent(mode=Mode.UP, start=FAR, at_once=False), scoped=True)
    for name, service in sorted(intent.services.items()):
        for key in service.keys:
            out[key_text(key)] = _value(config, name, service, key.rpartition("/")[2] in scoped)
        out[f"=json/{name}"] = answer(config, name, service)
        out[f"=html/{name}"] = _html(sentence(name, service))
        if document := version_document(config, name):
            out[_root_key(config, name)] = document
        out[f"=intent/service/{name}"] = _compact(service)
    for node, drains in sorted(intent.drains.items()):
        for name, drain in sorted(drains.items()):
            out[f"=intent/drain/{node}/{name}"] = _compact(drain)
    if intent.revision:  # though nothing be closed: an older intent has to be told from this one
        out["=revision"] = str(intent.revision)
    if intent.trail:
        out["=trail"] = ",".join(f"{stamp.revision}-{stamp.id}" for stamp in intent.trail)
    if intent.members:
        out["=members"] = ",".join(intent.members)
    for subject, exception in intent.exceptions.items():
        out[f"=intent/local/{subject}"] = _compact(exception)
    for backend, server in (steer or {}).items():
        out[f"=steer/{backend}"] = server
    return tuple(sorted(out.items()))


def _value(config: Config, name: str, service: ServiceIntent, scoped: bool) -> str:
    retry = config.retry_after
    ahead = not service.at_once and service.mode is not Mode.UP
    return "|".join(
        (
            str(VERSION),
            "s" if scoped else "-",
            service.mode,
            "0" if service.at_once else str(service.start),
            str(service.until or 0),
            str(retry.floor),
            str(retry.cap),
            str(retry.spread),
            name,
            iso(service.until) if service.until else "",
            f"{iso(service.start)}/{iso(service.until) if service.until else '..'}" if ahead else "",
            f"=json/{name}",
            f"=html/{name}",
            _shape(config, name),
            _root_key(config, name),
        )
    )


def _root_key(config: Config, name: str) -> str:
    """Where the map has the version document of a service; the guard reads ``v1`` from it. Empty for none."""
    versions = _preset(config, name).versions
    if versions is None:
        return ""
    return f"=root/v1/{name}" if versions.at_v1 else f"=root/{name}"


def _preset(config: Config, name: str) -> presets.Preset:
    known = config.services.get(name)
    return presets.get(known.preset if known else presets.default_for(name))


def _shape(config: Config, name: str) -> str:
    """``html`` for a service whose clients are people or print what they get; else ``json``."""
    return "html" if _preset(config, name).answer == "html" else "json"


def sentence(name: str, service: ServiceIntent) -> str:
    """What clients are told, for people."""
    closed = "closed for maintenance" if service.mode is Mode.DOWN else "read-only during maintenance"
    until = f" until about {iso(service.until)}" if service.until else ""
    return f"{name} is {closed}{until}" + (f": {service.reason}" if service.reason else ".")


def answer(config: Config, name: str, service: ServiceIntent) -> str:
    """The body of the 503: the shape that the service's own clients parse, one line of ASCII JSON."""
    shape = json.loads(_answer_shape(_preset(config, name).answer))
    return json.dumps(_fill_in(shape, sentence(name, service)), ensure_ascii=True).replace("|", r"\u007c")


def version_document(config: Config, name: str) -> str | None:
    """What the root answers while the service is closed, for the services whose clients cannot do without."""
    versions = _preset(config, name).versions
    if versions is None:
        return None
    links = [{"rel": "self", "href": versions.href}]
    return json.dumps({"versions": [{"id": versions.id, "status": "CURRENT", "links": links}]})


@cache
def _answer_shape(name: str) -> str:
    return shipped.text(f"answers/{name}.json")


def _fill_in(shape: Any, message: str) -> Any:
    if isinstance(shape, dict):
        return {key: _fill_in(value, message) for key, value in shape.items()}
    if isinstance(shape, list):
        return [_fill_in(value, message) for value in shape]
    return shape.replace("@MESSAGE@", message) if isinstance(shape, str) else shape


def _html(text: str) -> str:
    """Everything but plain letters, digits and a few marks as ``&#N;``: safe in HTML and in a map.

    Blanks at the end too: HAProxy keeps them at run time and drops them from a map's file.
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " .,:()-_/") else f"&#{ord(c)};" for c in text)
    return plain.rstrip(" ") + "&#32;" * (len(plain) - len(plain.rstrip(" ")))


def _compact(value: msgspec.Struct) -> str:
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=True, separators=(",", ":"))


def intent_from(table: Iterable[tuple[str, str]]) -> Intent:
    """The intent that a map was written for: it carries a copy, for the day the store is lost.

    msgspec.ValidationError or ValueError when the copy is damaged.
    """
    intent = Intent()
    for key, value in table:
        if key.startswith("=intent/service/"):
            service = msgspec.json.decode(value, type=ServiceIntent)
            intent = intent.with_service(key.removeprefix("=intent/service/"), service)
        elif key.startswith("=intent/drain/"):
            node, _, name = key.removeprefix("=intent/drain/").partition("/")
            intent = intent.with_drain(node, name, msgspec.json.decode(value, type=Drain))
        elif key.startswith("=intent/local/"):
            exception = msgspec.json.decode(value, type=Exceptional)
            exceptions = intent.exceptions | {key.removeprefix("=intent/local/"): exception}
            intent = msgspec.structs.replace(intent, exceptions=exceptions)
        elif key == "=revision":
            intent = msgspec.structs.replace(intent, revision=int(value))
        elif key == "=trail":
            stamps = (stamp.partition("-") for stamp in value.split(","))
            intent = msgspec.structs.replace(intent, trail=tuple(Stamp(int(n), unique) for n, _, unique in stamps))
        elif key == "=members":
            intent = msgspec.structs.replace(intent, members=tuple(value.split(",")))
    return intent


def map_text(table: Iterable[tuple[str, str]]) -> str:
    return "# Written by lbagent; what stands here is overwritten.\n" + "".join(
        f"{key} {value}\n" for key, value in table
    )


def parse_map_text(text: str) -> tuple[tuple[str, str], ...]:
    """The entries of a map file; its comments and blank lines are left out."""
    rows = (line.partition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return tuple((key, value) for key, _, value in rows)


# ------------------------------------------------------------------------------------------- the lists


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
            deny.append(f"^{_literal(name)} QUERY [A-Z]+ [^?]*[?](.*[&;])?{parameter}={value}")
        if denied or preset.query_begins:
            deny.append(f"^{_literal(name)} [A-Z]+ {TRICKS}")
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


# ---------------------------------------------------------------------------------- server-state file


def state_row(seen: ServerSeen, admin: Admin) -> str:
    """The line of a server that we hold in ``admin``.

    A checked server comes back as down, so that its checks must pass before it can ever take traffic. The
    columns that change by themselves are fixed: the text changes only when the intent does.
    """
    row = dict.fromkeys(COLUMNS, "-") | dict(zip(COLUMNS, seen.line, strict=False))
    row |= {
        "srv_op_state": "0" if seen.checked or admin is Admin.MAINT else "2",
        "srv_admin_state": str({Admin.DRAIN: FORCED_DRAIN, Admin.MAINT: FORCED_MAINT}[admin]),
        "srv_time_since_last_change": "1",
        "srv_check_status": "1",
        "srv_check_result": "0",
        "srv_check_health": "0",
        "srv_check_state": str(int(row["srv_check_state"]) & CHECK_SETTINGS),
        "srv_agent_state": str(int(row["srv_agent_state"]) & CHECK_SETTINGS),
    }
    return " ".join(row[column] for column in COLUMNS)


def state_rows(text: str) -> dict[Ref, str]:
    """The servers of a server-state file: ref → line."""
    rows = (line.split() for line in text.splitlines()[1:] if line and not line.startswith("#"))
    return {Ref(row[1], row[3]): " ".join(row) for row in rows if len(row) > 3}


def state_text(rows: Mapping[Ref, str]) -> str:
    """A server-state file with only the servers we hold; every other server is left to the configuration.

    With nothing held it is the single line ``1``: HAProxy warns at an empty file.
    """
    if not rows:
        return "1\n"
    return "\n".join(("1", HEADER_V1, *(rows[ref] for ref in sorted(rows)))) + "\n"
