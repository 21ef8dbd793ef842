"""The copy of the intent that the map carries, for the day the store is lost: written, and read back. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

from lbagent.model.intent import Drain, HoldReason, Intent, Override, ServiceIntent, Stamp, checked
from lbagent.model.subject import Subject

DRAINS = {
    HoldReason.GUARD: "=intent/drain/=guard/",
    HoldReason.MOVED: "=intent/moved/",
    HoldReason.DRAIN: "=intent/drain/",
}
"""How the keys of the copies of drains begin. The last comes last: the first begins like it."""


def copy_of(intent: Intent) -> dict[str, str]:
    """The entries that hold a copy of ``intent``: key → value."""
    out = {f"=intent/service/{name}": _compact(service) for name, service in intent.services.items()}
    out |= {f"{DRAINS[reason]}{subject}": _compact(drain) for reason, subject, drain in intent.every_drain()}
    if intent.revision:  # also while nothing is closed: an older intent has to be told from this one
        out["=revision"] = str(intent.revision)
    if intent.trail:
        out["=trail"] = ",".join(f"{stamp.revision}-{stamp.id}" for stamp in intent.trail)
    if intent.members:
        out["=members"] = ",".join(intent.members)
    for subject, exception in intent.exceptions.items():
        out[f"=intent/local/{subject}"] = _compact(exception)
    return out


def intent_from(table: Iterable[tuple[str, str]]) -> Intent:
    """The intent that a map was written for: it carries a copy, for the day the store is lost.

    msgspec.ValidationError or ValueError when the copy is damaged, also where a name in it is none.
    """
    intent = Intent()
    for key, value in table:
        if key.startswith("=intent/service/"):
            service = msgspec.json.decode(value, type=ServiceIntent)
            intent = intent.with_service(key.removeprefix("=intent/service/"), service)
        elif reason := next((r for r, prefix in DRAINS.items() if key.startswith(prefix)), None):
            subject = Subject.parse(key.removeprefix(DRAINS[reason]))
            intent = intent.with_changed(reason, subject, msgspec.json.decode(value, type=Drain))
        elif key.startswith("=intent/local/"):
            override = msgspec.json.decode(value, type=Override)
            exceptions = intent.exceptions | {key.removeprefix("=intent/local/"): override}
            intent = msgspec.structs.replace(intent, exceptions=exceptions)
        elif key == "=revision":
            intent = msgspec.structs.replace(intent, revision=int(value))
        elif key == "=trail":
            stamps = (stamp.partition("-") for stamp in value.split(","))
            intent = msgspec.structs.replace(intent, trail=tuple(Stamp(int(n), unique) for n, _, unique in stamps))
        elif key == "=members":
            intent = msgspec.structs.replace(intent, members=tuple(value.split(",")))
    return checked(intent)


def _compact(value: msgspec.Struct) -> str:
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=True, separators=(",", ":"))
