"""``lbctl drain``, ``ready`` and ``forget``: a node out of traffic, back, and gone for good."""

from __future__ import annotations

import click

from lbagent.cli import ask
from lbagent.cli.names import complete_node, complete_service
from lbagent.control.client import Client


@click.command()
@click.argument("node", shell_complete=complete_node)
@click.option(
    "--service", "services", multiple=True, shell_complete=complete_service, help="Only this service's servers."
)
@click.option("--deadline", default="5m", show_default=True, help="How long to wait for open requests.")
@click.option("--kill", is_flag=True, help="Cut what is open at the deadline.")
@click.option("--maint", is_flag=True, help="End in maint: health checks stop too.")
@click.option(
    "--last",
    type=click.Choice(["refuse", "down"]),
    default="refuse",
    show_default=True,
    help="What to do about services that would lose their last ready server: refuse, or close them with a 503.",
)
@click.option("--force", is_flag=True, help="Drain even the last ready server.")
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
    """Stop new requests to the servers of NODE and wait until none is open."""
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
@click.argument("node", shell_complete=complete_node)
@click.option(
    "--service", "services", multiple=True, shell_complete=complete_service, help="Only this service's servers."
)
@click.option("--timeout", default="2m", show_default=True, help="How long to wait for health checks.")
@click.option("--force", is_flag=True, help="Do not wait for health checks.")
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
    """Check the health of NODE's servers, then give them traffic again; all of them or none."""
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
@click.argument("node")
@click.pass_obj
def forget(socket: str, node: str) -> None:
    """End what is remembered of NODE's agent, once its HAProxy is gone for good: no command waits for it then."""
    with ask.answered():
        Client(socket).forget(node)
    click.echo(f"{node} is forgotten; its agent would be seen again as soon as it runs")
