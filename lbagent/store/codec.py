"""An intent as text: JSON with a format number and a checksum. Pure.

Missing and damaged are different answers, and neither is ever taken for "nothing is in maintenance".
"""

from __future__ import annotations

import hashlib
import json

import msgspec

from lbagent.errors import StoreError
from lbagent.model.intent import Intent

FORMAT = 1


class Damaged(StoreError):
    """What is stored cannot be read; it is left as it is."""


def encode(intent: Intent) -> str:
    body = msgspec.to_builtins(intent)
    return json.dumps({"format": FORMAT, "checksum": _checksum(body), "intent": body}, indent=1) + "\n"


def decode(text: str | bytes, where: str) -> Intent:
    """The intent in ``text``; Damaged when it is cut off, altered or of another format."""
    try:
        tree = json.loads(text)
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']}, this lbagent reads {FORMAT}")
        if tree["checksum"] != _checksum(tree["intent"]):
            raise ValueError("its checksum does not match")
        return _without_guard_node(msgspec.convert(tree["intent"], Intent))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{where} is damaged ({error}); nothing is opened for it") from error


def _without_guard_node(intent: Intent) -> Intent:
    """The first release kept the servers of closed services that had lost their guard below a node named ``=guard``."""
    guardless = intent.drains.get("=guard")
    if guardless is None:
        return intent
    drains = {node: services for node, services in intent.drains.items() if node != "=guard"}
    return msgspec.structs.replace(intent, drains=drains, guardless=intent.guardless | guardless)


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
