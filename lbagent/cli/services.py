"""``lbctl down``, ``read-only`` and ``up``: the mode of services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lbagent.cli import ask
from lbagent.cli.names import complete_service
from lbagent.control.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def _window(function: F) -> F:
    """The options about when a mode holds, and how long its command waits."""
    for option in reversed(
        (
            click.option(
                "--for",
                "for_",
                metavar="DURATION",
                help="How long it is expected to take, such as 20m. Clients are told.",
            ),
            click.option(
                "--until",
                metavar="TIME",
                help="When it is expected to end: 02:20, 2026-12-01T02:20 or 2026-12-01T02:20:00Z. Clients are told. "
                "Without an offset it is in your zone.",
            ),
            click.option(
                "--at",
                metavar="TIME",
                help="Start at this time, not now; times as for --until. Until then response headers announce it.",
            ),
            click.option(
                "--deadline",
                metavar="DURATION",
                default="5m",
                show_default=True,
                help="How long to wait for older requests. The mode stays when it has passed.",
            ),
            click.option("--kill", is_flag=True, help="At the deadline, cut the older requests that are still open."),
        )
    ):
        function = option(function)
    return function


def _closing(mode: str, help_text: str, done: str) -> click.Command:
    @click.command(mode, help=help_text)
    @click.argument("services", nargs=-1, required=True, metavar="SERVICE...", shell_complete=complete_service)
    @_window
    @ask.set_aside
    @ask.options
    @click.pass_obj
    def command(socket: str, /, services: tuple[str, ...], **given: Any) -> None:
        told, words = ask.window(given["at"], given["until"], given["for_"])
        how = {name: given[name] for name in ("deadline", "kill", "force", "reason", "local")}
        body: dict[str, Any] = {
            "services": {name: {"mode": mode} for name in services},
            **told,
            **how,
            "override": list(given["override"]),
        }
        names = ", ".join(services)
        if words and (given["detach"] or given["dry_run"]) and not given["as_json"]:
            click.echo(f"note: {names}: {mode} {words}", err=True)
        closing = f"{names}: {done}" + (f"; {words}" if words else "")
        if given["at"]:
            closing = f"{names}: {mode} {words}; response headers announce it until then"
        ask.carry_out(
            socket,
            body,
            detach=given["detach"],
            dry_run=given["dry_run"],
            as_json=given["as_json"],
            undo=f"lbctl up {' '.join(services)}",
            done=closing,
        )

    return command


down = _closing(
    "down",
    "Close SERVICE: HAProxy answers every request with 503 and Retry-After. Wait until HAProxy holds no older request.",
    "down; HAProxy holds no older request",
)

read_only = _closing(
    "read-only",
    "Refuse writes to SERVICE with 503 and Retry-After; reads pass. Wait until HAProxy holds no older write.",
    "read-only; HAProxy holds no older write",
)


@click.command()
@click.argument("services", nargs=-1, metavar="SERVICE...", shell_complete=complete_service)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Open every service that is closed or read-only, and cancel every window ahead.",
)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="2m",
    show_default=True,
    help="How long to wait for healthy servers. After that SERVICE stays closed.",
)
@click.option("--force", is_flag=True, help="Open at once, without waiting for healthy servers.")
@ask.options
@click.pass_obj
def up(
    socket: str,
    services: tuple[str, ...],
    every: bool,
    timeout: str,
    force: bool,
    reason: str,
    detach: bool,
    local: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Open SERVICE again, once HAProxy has a healthy server for it. Also cancels a mode that starts later."""
    if every:
        with ask.answered():
            now = Client(socket).get("/v1/status")
        services = tuple(s["name"] for s in now["services"] if s["asked"] != "up" or s["scheduled"])
        if not services:
            click.echo("every service is up")
            return
    if not services:
        raise click.UsageError("name a service, or --all")
    ask.carry_out(
        socket,
        {
            "services": {name: {"mode": "up"} for name in services},
            "timeout": timeout,
            "force": force,
            "reason": reason,
            "local": local,
        },
        detach=detach,
        dry_run=dry_run,
        as_json=as_json,
        undo=f"lbctl down {' '.join(services)}",
        done=f"{', '.join(services)}: up",
    )
