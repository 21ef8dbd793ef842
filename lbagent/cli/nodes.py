"""``lbctl drain`` and ``ready`` (a node out of traffic and back), and ``forget`` (an HAProxy gone for good)."""

from __future__ import annotations

import click

from lbagent.cli import ask
from lbagent.cli.names import complete_node, complete_service
from lbagent.control.client import Client


@click.command()
@click.argument("node", metavar="NODE", shell_complete=complete_node)
@click.option(
    "--service",
    "services",
    metavar="SERVICE",
    multiple=True,
    shell_complete=complete_service,
    help="Only the servers of this service. May be repeated.",
)
@click.option(
    "--deadline",
    metavar="DURATION",
    default="5m",
    show_default=True,
    help="How long to wait for open requests. The drain stays when it has passed.",
)
@click.option("--kill", is_flag=True, help="At the deadline, cut the requests that are still open.")
@click.option(
    "--maint", is_flag=True, help="When no request is open, put the servers in maint: health checks stop too."
)
@click.option(
    "--last",
    type=click.Choice(["refuse", "down"]),
    default="refuse",
    show_default=True,
    help="What to do when a service would lose its last ready server: refuse, or close it with 503.",
)
@click.option("--force", is_flag=True, help="Drain even the last ready server of a service.")
@ask.options
@click.pass_obj
def drain(
    socket: str,
    node: str,
    services: tuple[str, ...],
    deadline: str,
    kill: bool,
    maint: bool,
    last: str,
    force: bool,
    reason: str,
    detach: bool,
    local: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take NODE out of traffic: no new requests to its servers. Wait until no request is open on them."""
    body = {
        "nodes": {node: {"state": "drained", "services": list(services)}},
        "deadline": deadline,
        "kill": kill,
        "maint": maint,
        "last": last,
        "force": force,
        "reason": reason,
        "local": local,
    }
    ask.carry_out(
        socket,
        body,
        detach=detach,
        dry_run=dry_run,
        as_json=as_json,
        undo=f"lbctl ready {node}",
        done=f"{node} is drained: no request is open on it",
    )


@click.command()
@click.argument("node", metavar="NODE", shell_complete=complete_node)
@click.option(
    "--service",
    "services",
    metavar="SERVICE",
    multiple=True,
    shell_complete=complete_service,
    help="Only the servers of this service. May be repeated.",
)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="2m",
    show_default=True,
    help="How long to wait for health checks. After that NODE stays drained.",
)
@click.option("--force", is_flag=True, help="Put it back without waiting for health checks.")
@ask.options
@click.pass_obj
def ready(
    socket: str,
    node: str,
    services: tuple[str, ...],
    timeout: str,
    force: bool,
    reason: str,
    detach: bool,
    local: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put NODE back into traffic once the health checks of its servers pass: all of its servers, or none."""
    body = {
        "nodes": {node: {"state": "ready", "services": list(services)}},
        "timeout": timeout,
        "force": force,
        "reason": reason,
        "local": local,
    }
    ask.carry_out(
        socket,
        body,
        detach=detach,
        dry_run=dry_run,
        as_json=as_json,
        undo=f"lbctl drain {node}",
        done=f"{node} is ready",
    )


@click.command()
@click.argument("node", metavar="NODE")
@click.pass_obj
def forget(socket: str, node: str) -> None:
    """Stop waiting for the agent on NODE, whose HAProxy is gone for good.

    An agent that starts again on NODE joins the control plane again.
    """
    with ask.answered():
        Client(socket).forget(node)
    click.echo(f"{node} is forgotten: no command waits for it any more")
