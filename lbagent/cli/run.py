"""``lbctl run``: maintenance around a command."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import FrameType
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
@click.option("--reopen-on-failure", is_flag=True, help="End the maintenance also when COMMAND fails.")
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
    reopen_on_failure: bool,
    reason: str,
    command: tuple[str, ...],
) -> None:
    """Begin a maintenance, run COMMAND, end the maintenance. Exits with the status of COMMAND.

    COMMAND starts only when the maintenance is in force everywhere and no older request is open. If COMMAND fails or is
    interrupted, everything stays closed and drained, and lbctl says how to end it.
    """
    modes = {name: {"mode": "down"} for name in closed} | {name: {"mode": "read-only"} for name in restricted}
    if not modes and not nodes:
        ask.fail("give at least one of --drain, --down or --read-only", Exit.USAGE)
    undo = "; ".join([*(f"lbctl ready {node}" for node in nodes), *([f"lbctl up {' '.join(modes)}"] if modes else [])])
    words = [*(f"{name} is {wanted['mode']}" for name, wanted in modes.items()), *(f"{n} is drained" for n in nodes)]
    enter: dict[str, Any] = {
        "services": modes,
        "nodes": {node: {"state": "drained"} for node in nodes},
        "deadline": deadline,
        "reason": reason,
        "for": for_ if modes else None,
    }
    leave: dict[str, Any] = {
        "services": {name: {"mode": "up"} for name in modes},
        "nodes": {node: {"state": "ready"} for node in nodes},
        "timeout": timeout,
        "reason": reason,
    }
    with Signals() as signals:
        _through(socket, enter, undo)
        status = _carry_out(command, signals)
        if signals.got or (status and not reopen_on_failure):
            why = f"{command[0]} was interrupted" if signals.got else f"{command[0]} ended with status {status}"
            click.echo(f"lbctl: {why}. Still in force: {', '.join(words)}. To end it: {undo}", err=True)
            raise click.exceptions.Exit(128 + signals.got if signals.got else status)
        _through(socket, leave, undo, status)
    ended = [*(f"{name} is up" for name in modes), *(f"{node} is ready" for node in nodes)]
    click.echo(f"{', '.join(ended)}; {command[0]} ended with status {status}")
    raise click.exceptions.Exit(status)


class Signals:
    """While it is entered, an interruption does not end lbctl: it is passed on to COMMAND, or stops the waiting."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.got = 0
        self.child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._handle) for number in self.NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.got = number
        if self.child is None:
            raise Interrupted(number)
        # A terminal sends Ctrl-C to COMMAND as well: it must not get it twice.
        if number != signal.SIGINT or not sys.stdin.isatty():
            self.child.send_signal(number)


class Interrupted(KeyboardInterrupt):
    """A signal came while lbctl waited."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _through(socket: str, body: dict[str, Any], undo: str, status: int = 0) -> None:
    """Carry a change out and wait for its end; if that is no good end, exit with ``status``, else with the change's."""
    end = ask.enter(socket, body, detach=False, dry_run=False, as_json=False, undo=undo)
    if end is not None and end["exit"]:
        ask.say_open(end, undo)
        raise click.exceptions.Exit(status or int(end["exit"]))


def _carry_out(command: tuple[str, ...], signals: Signals) -> int:
    """COMMAND's exit status, as a shell gives it."""
    try:
        signals.child = subprocess.Popen(command)
    except OSError as error:
        click.echo(f"lbctl: {command[0]}: {error.strerror}", err=True)
        return 127
    status = signals.child.wait()
    signals.child = None
    return status if status >= 0 else 128 - status
