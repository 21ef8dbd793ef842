"""``lbctl run``: maintenance around a command."""

from __future__ import annotations

import subprocess
from typing import Any

import click

from lbagent.cli import ask
from lbagent.cli.names import complete_node, complete_service
from lbagent.errors import Exit


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--drain", "nodes", multiple=True, shell_complete=complete_node, help="Drain this node.")
@click.option("--down", "closed", multiple=True, shell_complete=complete_service, help="Close this service.")
@click.option(
    "--read-only", "restricted", multiple=True, shell_complete=complete_service, help="Restrict this service."
)
@click.option("--for", "for_", metavar="DURATION", help="How long it is expected to take; told to clients.")
@click.option("--deadline", default="5m", show_default=True, help="How long to wait before the command starts.")
@click.option("--timeout", default="2m", show_default=True, help="How long to wait for health checks at the end.")
@click.option("--reason", default="", help="Why; users and history see it.")
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
    """Enter maintenance, wait, run COMMAND, leave; exits with the command's status.

    The command does not start unless the maintenance is in force everywhere and nothing older is open.
    """
    modes = {name: {"mode": "down"} for name in closed} | {name: {"mode": "read-only"} for name in restricted}
    if not modes and not nodes:
        ask.fail("nothing to enter: give --drain, --down or --read-only", Exit.USAGE)
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
