"""``lbctl drain`` and ``ready`` (a node out of traffic and back), and ``forget`` (an HAProxy gone for good)."""

from __future__ import annotations

import click

from lbagent.cli import ask
from lbagent.cli.names import complete_node, complete_service
from lbagent.control.client import Client

nodes_argument = click.argument("nodes", nargs=-1, metavar="NODE...", shell_complete=complete_node)
service_option = click.option(
    "--service",
    "services",
    metavar="SERVICE",
    multiple=True,
    shell_complete=complete_service,
    help="Only the servers of this service. May be repeated.",
)


@click.command()
@nodes_argument
@service_option
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
@click.option("--until-reload", is_flag=True, help="Accept a drain that HAProxy would forget at its next reload.")
@ask.set_aside
@ask.options
@click.pass_obj
def drain(
    socket: str,
    nodes: tuple[str, ...],
    services: tuple[str, ...],
    deadline: str,
    kill: bool,
    maint: bool,
    last: str,
    until_reload: bool,
    force: bool,
    override: tuple[str, ...],
    reason: str,
    detach: bool,
    local: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take NODE out of traffic: no new requests to its servers. Wait until no request is open on them."""
    if not nodes:
        raise click.UsageError("name a node; `lbctl status` lists them")
    body = {
        "nodes": {node: {"state": "drained", "services": list(services)} for node in nodes},
        "deadline": deadline,
        "kill": kill,
        "maint": maint,
        "last": last,
        "until_reload": until_reload,
        "force": force,
        "override": list(override),
        "reason": reason,
        "local": local,
    }
    named, verb = ", ".join(nodes), "is" if len(nodes) == 1 else "are"
    on = "it" if len(nodes) == 1 else "them"
    ask.carry_out(
        socket,
        body,
        detach=detach,
        dry_run=dry_run,
        as_json=as_json,
        undo=f"lbctl ready {' '.join(nodes)}",
        done=f"{named} {verb} drained: no request is open on {on}",
    )


@click.command()
@nodes_argument
@click.option("--all", "every", is_flag=True, help="Every node that is drained.")
@service_option
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
    nodes: tuple[str, ...],
    every: bool,
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
    if every:
        with ask.answered():
            now = Client(socket).get("/v1/status")
        nodes = tuple(node["name"] for node in now["nodes"] if node["services"])
        if not nodes:
            click.echo("no node is drained")
            return
    if not nodes:
        raise click.UsageError("name a node, or --all")
    body = {
        "nodes": {node: {"state": "ready", "services": list(services)} for node in nodes},
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
        undo=f"lbctl drain {' '.join(nodes)}",
        done=f"{', '.join(nodes)} {'is' if len(nodes) == 1 else 'are'} ready",
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
