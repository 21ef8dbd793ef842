"""Completion of service and node names from what the agent knows."""

from __future__ import annotations

import click

from lbagent.control.client import DEFAULT_SOCKET, Client, NoAgent, NotPermitted, Refused


def complete_service(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    return _names(ctx, "services", incomplete)


def complete_node(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    return _names(ctx, "nodes", incomplete)


def _names(ctx: click.Context, kind: str, incomplete: str) -> list[str]:
    root = ctx.find_root()
    try:
        status = Client(root.params.get("socket") or DEFAULT_SOCKET).get("/v1/status")
    except (NoAgent, NotPermitted, Refused):
        return []
    return [entry["name"] for entry in status[kind] if entry["name"].startswith(incomplete)]
