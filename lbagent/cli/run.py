"""``lbctl run``: maintenance around a command."""

from __future__ import annotations

import subprocess
from typing import Any

import click

from lbagent.cli import ask
from lbagent.cli.names import complete_node, complete_service
from lbagent.errors import Exit


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--drain",
    "nodes",
    metavar="NODE",
    multiple=True,
    shell_complete=complete_node,
    help="Drain this node first. May be repeated.",
)
@click.option(
    "--down",
    "closed",
    metavar="SERVICE",
    multiple=True,
    shell_complete=complete_service,
    help="Close this service first. May be repeated.",
)
@click.option(
    "--read-only",
    "restricted",
    metavar="SERVICE",
    multiple=True,
    shell_complete=complete_service,
    help="Make this service read-only first. May be repeated.",
)
@click.option(
    "--for", "for_", metavar="DURATION", help="How long it is expected to take, such as 20m. Clients are told."
)
@click.option(
    "--deadline",
    metavar="DURATION",
    default="5m",
    show_default=True,
    help="How long to wait for older requests before COMMAND. It does not start if they are still open then.",
)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="2m",
    show_default=True,
    help="How long to wait for health checks after COMMAND.",
)
@click.option("--reason", metavar="TEXT", default="", help="Why. Users and the history see it. At most 500 characters.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(
    socket: str,
    nodes: tuple[str, ...],
    closed: tuple[str, ...],
    restricted: tuple[str, ...],
    for_: str | None,
    deadline: str,
    timeout: str,
    reason: str,
    command: tuple[str, ...],
) -> None:
    """Begin a maintenance, run COMMAND, end the maintenance. Exits with the status of COMMAND.

    COMMAND starts only when the maintenance is in force everywhere and no older request is open.
    """
    modes = {name: {"mode": "down"} for name in closed} | {name: {"mode": "read-only"} for name in restricted}
    if not modes and not nodes:
        ask.fail("give at least one of --drain, --down or --read-only", Exit.USAGE)
    enter: dict[str, Any] = {
        "services": modes,
        "nodes": {node: {"state": "drained"} for node in nodes},
        "deadline": deadline,
        "reason": reason,
        "for": for_ if modes else None,
    }
    undo = "; ".join([*(f"lbctl ready {node}" for node in nodes), *([f"lbctl up {' '.join(modes)}"] if modes else [])])
    end = ask.enter(socket, enter, detach=False, dry_run=False, as_json=False, undo=undo)
    if end is not None and end["exit"]:
        ask.say_open(end, undo)
        raise click.exceptions.Exit(int(end["exit"]))
    try:
        status = subprocess.run(command, check=False).returncode
    except OSError as error:
        click.echo(f"lbctl: {command[0]}: {error.strerror}", err=True)
        status = 127
    leave: dict[str, Any] = {
        "services": {name: {"mode": "up"} for name in modes},
        "nodes": {node: {"state": "ready"} for node in nodes},
        "timeout": timeout,
        "reason": reason,
    }
    end = ask.enter(socket, leave, detach=False, dry_run=False, as_json=False, undo=undo)
    if end is not None and end["exit"]:
        ask.say_open(end, undo)
        raise click.exceptions.Exit(status or int(end["exit"]))
    raise click.exceptions.Exit(status if status >= 0 else 128 - status)
