"""``lbctl down``, ``read-only`` and ``up``: the mode of services."""

from __future__ import annotations

from typing import Any

import click

from lbagent.cli import ask
from lbagent.cli.names import complete_service


def _closing(mode: str, help_text: str, done: str) -> click.Command:
    @click.command(mode, help=help_text)
    @click.argument("services", nargs=-1, required=True, metavar="SERVICE...", shell_complete=complete_service)
    @click.option(
        "--for", "for_", metavar="DURATION", help="Until how long from its start, such as 20m; told to clients."
    )
    @click.option("--until", metavar="TIME", help="Until when, ISO 8601.")
    @click.option("--at", metavar="TIME", help="Start then, not now; announced in response headers until it starts.")
    @click.option("--deadline", default="5m", show_default=True, help="How long to wait for older requests.")
    @click.option("--force", is_flag=True, help="Close the http part of a service that has mode tcp backends too.")
    @ask.options
    @click.pass_obj
    def command(
        socket: str,
        services: tuple[str, ...],
        for_: str | None,
        until: str | None,
        at: str | None,
        deadline: str,
        force: bool,
        reason: str,
        detach: bool,
        local: bool,
        dry_run: bool,
        as_json: bool,
    ) -> None:
        body: dict[str, Any] = {
            "services": {name: {"mode": mode} for name in services},
            "for": for_,
            "until": until,
            "at": at,
            "deadline": deadline,
            "force": force,
            "reason": reason,
            "local": local,
        }
        names = ", ".join(services)
        closing = f"{names}: {mode} from {at}, announced until then" if at else f"{names}: {done}"
        ask.carry_out(
            socket,
            body,
            detach=detach,
            dry_run=dry_run,
            as_json=as_json,
            undo=f"lbctl up {' '.join(services)}",
            done=closing,
        )

    return command


down = _closing(
    "down",
    "Answer every request of SERVICE with 503 and Retry-After; wait until HAProxy holds no older request.",
    "down, no request from before is left in HAProxy",
)

read_only = _closing(
    "read-only",
    "Let queries of SERVICE through and refuse updates with 503; wait until no older update is in flight.",
    "read-only, no update from before is left in HAProxy",
)


@click.command()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...", shell_complete=complete_service)
@ask.options
@click.pass_obj
def up(
    socket: str, services: tuple[str, ...], reason: str, detach: bool, local: bool, dry_run: bool, as_json: bool
) -> None:
    """Open SERVICE again; also ends a window that lies ahead."""
    ask.carry_out(
        socket,
        {"services": {name: {"mode": "up"} for name in services}, "reason": reason, "local": local},
        detach=detach,
        dry_run=dry_run,
        as_json=as_json,
        undo=f"lbctl down {' '.join(services)}",
        done=f"{', '.join(services)}: up",
    )
