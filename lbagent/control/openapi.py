"""The control socket's interface as OpenAPI 3.1, made from the same types that check the requests."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from lbagent import __version__
from lbagent.errors import CODES
from lbagent.rules.change import Change
from lbagent.rules.operations import Operation

PLACE = "#/components/schemas/{name}"


@cache
def document() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components((Change, Operation), ref_template=PLACE)
    schemas["Error"] = {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"code": {"enum": sorted(CODES)}, "message": {"type": "string"}},
            }
        },
    }
    change, operation = {"$ref": PLACE.format(name="Change")}, {"$ref": PLACE.format(name="Operation")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "lbagent", "version": __version__},
        "components": {"schemas": schemas},
        "paths": {
            "/v1/status": {"get": _call("Everything at a glance", {"type": "object"})},
            "/v1/changes": {"post": _call("Several services and nodes in one change", operation, change, 202)},
            "/v1/services/{service}/mode": {"put": _call("One service", operation, {"type": "object"}, 202)},
            "/v1/nodes/{node}/state": {"put": _call("One node", operation, {"type": "object"}, 202)},
            "/v1/operations/{id}": {"get": _call("What is still open; ?stream=1 until it ends", operation)},
            "/v1/agents/{node}": {"delete": _call("Forget the agent of an HAProxy that is gone", {"type": "object"})},
            "/v1/history": {"get": _call("What was done", {"type": "object"})},
            "/v1/events": {"get": _call("The same as a stream, one JSON object a line", {"type": "object"})},
            "/v1/openapi.json": {"get": _call("This", {"type": "object"})},
        },
    }


def _call(
    summary: str, answer: dict[str, Any], body: dict[str, Any] | None = None, status: int = 200
) -> dict[str, Any]:
    call: dict[str, Any] = {
        "summary": summary,
        "responses": {
            str(status): {"description": "done", "content": {"application/json": {"schema": answer}}},
            "default": {
                "description": "refused or failed",
                "content": {"application/json": {"schema": {"$ref": PLACE.format(name="Error")}}},
            },
        },
    }
    if body is not None:
        call["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return call
