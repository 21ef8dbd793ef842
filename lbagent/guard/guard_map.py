"""The guard's map: keys, values, the whole table, the file that HAProxy loads at start. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

import msgspec

from lbagent.guard import VERSION, answers
from lbagent.guard.intent_copy import copy_of
from lbagent.model.addresses import spellings
from lbagent.model.intent import Intent, Mode, ServiceIntent
from lbagent.model.times import iso
from lbagent.settings.config import Config

FAR = 9999999999  # a start that never comes: for entries that only say "look for a narrower key"


def key_text(key: str) -> str:
    """The map key of an intent's key: ``nova``, ``fe/nova@`` or ``fe/nova@10.0.0.5/``.

    The longer ones are matched by their beginning (``map_beg``), the longest first.
    """
    place, slash, backend = key.rpartition("/")
    if not slash:
        return backend
    frontend, at, address = place.partition("@")
    return f"{frontend}/{backend}@" + (f"{address}/" if at else "")


def key_texts(key: str) -> tuple[str, ...]:
    """Every map key of an intent's key. A client of an IPv6 bind comes to an IPv4 address by its mapped name.

    Measured on 2.6: ``dst`` of an IPv4 client is ``::ffff:127.0.0.1`` where the bind is ``:::PORT v4v6``, and
    ``127.0.0.1`` where it is ``:PORT``.
    """
    place, _, backend = key.rpartition("/")
    frontend, at, address = place.partition("@")
    if not at:
        return (key_text(key),)
    return tuple(key_text(f"{frontend}@{name}/{backend}") for name in spellings(address))


def entries(
    config: Config, intent: Intent, steer: Mapping[str, str] | None = None, overdue: Set[str] = frozenset()
) -> tuple[tuple[str, str], ...]:
    """The whole map for ``intent``, sorted by key.

    ``steer`` names for a backend the server that an old worker's late requests go to. ``overdue`` are the services
    whose end has passed: clients are told of no end that is not true any more.
    """
    out: dict[str, str] = {}
    scoped = {key.rpartition("/")[2] for s in intent.services.values() for key in s.keys if "/" in key}
    for backend in scoped:
        out[backend] = _value(config, "-", ServiceIntent(mode=Mode.UP, start=FAR, at_once=False), scoped=True)
    for name, asked in sorted(intent.services.items()):
        service = msgspec.structs.replace(asked, until=None) if name in overdue else asked
        for key in service.keys:
            value = _value(config, name, service, key.rpartition("/")[2] in scoped)
            out |= dict.fromkeys(key_texts(key), value)
        out[f"=json/{name}"] = answers.answer(config, name, service)
        out[f"=html/{name}"] = answers.html(answers.sentence(name, service))
        if document := answers.version_document(config, name):
            out[_root_key(config, name)] = document
    out |= copy_of(intent)
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
            answers.shape(config, name),
            _root_key(config, name),
        )
    )


def _root_key(config: Config, name: str) -> str:
    """Where the map has the version document of a service; the guard reads ``v1`` from it. Empty for none."""
    versions = answers.preset_of(config, name).versions
    if versions is None:
        return ""
    return f"=root/v1/{name}" if versions.at_v1 else f"=root/{name}"


def map_text(table: Iterable[tuple[str, str]]) -> str:
    return "# Written by lbagent; what stands here is overwritten.\n" + "".join(
        f"{key} {value}\n" for key, value in table
    )


def parse_map_text(text: str) -> tuple[tuple[str, str], ...]:
    """The entries of a map file; its comments and blank lines are left out."""
    rows = (line.partition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return tuple((key, value) for key, _, value in rows)


def mode_in(table: Mapping[str, str], key: str, now: float) -> Mode:
    """What a worker that holds ``table`` lets through for an intent's ``key`` at ``now``."""
    fields = table.get(key_text(key), "").split("|")
    if len(fields) < 4 or fields[2] not in set(Mode) or not fields[3].isdigit():
        return Mode.UP
    return Mode(fields[2]) if now >= int(fields[3]) else Mode.UP
