"""What clients of a closed service are told: the sentence, its JSON shapes and its HTML, version documents. Pure."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from lbagent.model.intent import Mode, ServiceIntent
from lbagent.model.times import iso
from lbagent.settings import presets, shipped
from lbagent.settings.config import Config


def sentence(name: str, service: ServiceIntent) -> str:
    """What clients are told, for people."""
    closed = "closed for maintenance" if service.mode is Mode.DOWN else "read-only during maintenance"
    until = f" until about {iso(service.until)}" if service.until else ""
    return f"{name} is {closed}{until}" + (f": {service.reason}" if service.reason else ".")


def answer(config: Config, name: str, service: ServiceIntent) -> str:
    """The body of the 503: the shape that the service's own clients parse, one line of ASCII JSON."""
    shape = json.loads(_answer_shape(preset_of(config, name).answer))
    return json.dumps(_fill_in(shape, sentence(name, service)), ensure_ascii=True).replace("|", r"\u007c")


def version_document(config: Config, name: str) -> str | None:
    """What the root answers while the service is closed, for the services whose clients cannot do without."""
    versions = preset_of(config, name).versions
    if versions is None:
        return None
    links = [{"rel": "self", "href": versions.href}]
    return json.dumps({"versions": [{"id": versions.id, "status": "CURRENT", "links": links}]})


def shape(config: Config, name: str) -> str:
    """``html`` for a service whose clients are people or print what they get; else ``json``."""
    return "html" if preset_of(config, name).answer == "html" else "json"


def preset_of(config: Config, name: str) -> presets.Preset:
    """The preset of a service, configured or not."""
    known = config.services.get(name)
    return presets.get(known.preset if known else presets.default_for(name))


@cache
def _answer_shape(name: str) -> str:
    return shipped.text(f"answers/{name}.json")


def _fill_in(shape: Any, message: str) -> Any:
    if isinstance(shape, dict):
        return {key: _fill_in(value, message) for key, value in shape.items()}
    if isinstance(shape, list):
        return [_fill_in(value, message) for value in shape]
    return shape.replace("@MESSAGE@", message) if isinstance(shape, str) else shape


def html(text: str) -> str:
    """Everything but plain letters, digits and a few marks as ``&#N;``: safe in HTML and in a map.

    Blanks at the end too: HAProxy keeps them at run time and drops them from a map's file.
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " .,:()-_/") else f"&#{ord(c)};" for c in text)
    return plain.rstrip(" ") + "&#32;" * (len(plain) - len(plain.rstrip(" ")))
