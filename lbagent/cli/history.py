"""``lbctl history``: who changed what, when and why."""

from __future__ import annotations

import json

import click

from lbagent.cli import ask
from lbagent.cli.table import columns
from lbagent.control.client import Client
from lbagent.model import times


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def history(socket: str, as_json: bool) -> None:
    """Show who changed what, when, why, and how long it took. The newest is last."""
    with ask.answered():
        entries = Client(socket).get("/v1/history")["history"]
    if as_json:
        click.echo(json.dumps(entries))
        return
    rows = [
        (
            times.shown(e["started"]),
            e["by"],
            e["command"],
            ", ".join(
                dict.fromkeys([n for n, _ in e.get("drains", []) + e.get("returns", [])] + e.get("services", []))
            ),
            e["state"],
            ask.took(e).strip(" ()"),
            e["reason"],
        )
        for e in entries
    ]
    click.echo("\n".join(columns(("WHEN", "WHO", "COMMAND", "WHAT", "END", "TOOK", "REASON"), rows)))
