"""An intent as text: JSON with a format number and a checksum. Pure.

Missing and damaged are different answers, and neither is ever taken for "nothing is in maintenance".
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from lbagent.errors import StoreError
from lbagent.model.intent import Intent, checked
from lbagent.model.names import problem

FORMAT = 1
LARGEST = 32 * 1024 * 1024  # bytes


class Damaged(StoreError):
    """What is stored cannot be read; it is left as it is."""


def encode(intent: Intent) -> str:
    """StoreError for an intent that could not be read again."""
    try:
        body = msgspec.to_builtins(checked(intent))
    except msgspec.ValidationError as error:
        raise StoreError(f"the intent was not stored, as it could not be read again: {problem(error)}") from error
    return json.dumps({"format": FORMAT, "checksum": _checksum(body), "intent": body}, indent=1) + "\n"


def decode(text: str | bytes, where: str) -> Intent:
    """The intent in ``text``; Damaged when it is cut off, altered or of another format."""
    try:
        if len(text) > LARGEST:
            raise ValueError(f"it has {len(text)} bytes, more than {LARGEST}")
        tree = json.loads(text, parse_constant=_not_a_number)
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']}, this lbagent reads {FORMAT}")
        if tree["checksum"] != _checksum(tree["intent"]):
            raise ValueError("its checksum does not match")
        return msgspec.convert(_without_guard_node(tree["intent"]), Intent)
    except msgspec.ValidationError as error:
        raise Damaged(f"{where} is damaged ({problem(error)}); nothing is opened for it") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{where} is damaged ({error}); nothing is opened for it") from error


def _without_guard_node(body: dict[str, Any]) -> dict[str, Any]:
    """The first release kept the servers of closed services that had lost their guard below a node named ``=guard``."""
    drains = body.get("drains", {})
    if "=guard" not in drains:
        return body
    others = {node: services for node, services in drains.items() if node != "=guard"}
    return {**body, "drains": others, "guardless": {**body.get("guardless", {}), **drains["=guard"]}}


def _not_a_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
