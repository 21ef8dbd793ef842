"""What every verb does: send the change, show what it waits for, turn the result into an exit code."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from signal import SIGINT
from typing import Any, NoReturn, TypeVar

import click

from lbagent.control.client import PATIENCE, Client, NoAgent, NotPermitted, Refused
from lbagent.errors import CODES, Exit, LbagentError, overridable
from lbagent.model import times

F = TypeVar("F", bound=Callable[..., Any])


def options(function: F) -> F:
    """The options of every verb that changes something."""
    for option in reversed(
        (
            click.option(
                "--reason",
                metavar="TEXT",
                default="",
                help="Why. Users and the history see it. At most 500 characters.",
            ),
            click.option("--detach", is_flag=True, help="Return as soon as the change is accepted."),
            click.option(
                "--local", is_flag=True, help="Change this HAProxy only, not the others of the control plane."
            ),
            click.option("--dry-run", is_flag=True, help="Print what would be done and change nothing."),
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        )
    ):
        function = option(function)
    return function


def set_aside(function: F) -> F:
    """The options that override rules which may refuse a command."""
    force = click.option("--force", is_flag=True, help="Override every rule that refuses this command, and name each.")
    rule = click.option(
        "--override",
        metavar="RULE",
        multiple=True,
        shell_complete=lambda *_: overridable(),
        help=f"Override only this rule: {', '.join(overridable())}. May be repeated.",
    )
    return force(rule(function))


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Ends lbctl with one line and the right exit code when the agent refuses or does not answer."""
    try:
        yield
    except NoAgent as error:
        fail(str(error), Exit.NO_AGENT)
    except NotPermitted as error:
        fail(str(error), Exit.NOT_PERMITTED)
    except Refused as error:
        fail(error.message, CODES[error.code].exit if error.code in CODES else Exit.FAILED)


def window(at: str | None, until: str | None, for_: str | None) -> tuple[dict[str, str | None], str]:
    """(the window as the agent is told it, the window in words): times as typed here, with their zone from now on."""
    try:
        start = times.typed(at, "at", time.time()) if at is not None else None
        begins = start.timestamp() if start else time.time()
        end = times.typed(until, "until", begins) if until is not None else None
        expected = end.timestamp() if end else begins + times.duration(for_, "for") if for_ is not None else None
    except LbagentError as error:
        fail(error.message, Exit.USAGE)
    words = [f"from {times.shown(begins)}"] if start else []
    words += [f"expected to end {times.shown(expected)}"] if expected is not None else []
    told = {"at": start.isoformat() if start else None, "until": end.isoformat() if end else None, "for": for_}
    return told, ", ".join(words)


def fail(message: str, code: Exit) -> NoReturn:
    click.echo(f"lbctl: {message}", err=True)
    raise click.exceptions.Exit(int(code))


def carry_out(
    socket: str, body: dict[str, Any], *, detach: bool, dry_run: bool, as_json: bool, undo: str, done: str
) -> None:
    """Send a change and wait for its end; ``undo`` is the command that takes it back, ``done`` the closing line."""
    end = enter(socket, body, detach=detach, dry_run=dry_run, as_json=as_json, undo=undo)
    if end is None:
        return
    if as_json:
        click.echo(json.dumps(end))
    elif end["state"] == "done":
        click.echo(done + took(end))
    else:
        say_open(end, undo)
    raise click.exceptions.Exit(int(end["exit"] or 0))


def enter(
    socket: str, body: dict[str, Any], *, detach: bool, dry_run: bool, as_json: bool, undo: str
) -> dict[str, Any] | None:
    """The ended operation, or None when there was nothing to wait for. Ctrl-C ends the waiting, not the change."""
    client = Client(socket)
    try:
        with answered():
            operation = client.change({**body, "dry_run": dry_run})
            if dry_run:
                click.echo(json.dumps(operation) if as_json else "\n".join(plan_lines(operation)))
                return None
            for note in [] if as_json else operation["notes"]:
                click.echo(f"note: {note}", err=True)
            if detach and operation["state"] == "running":
                said = f"accepted as operation {operation['id']}; `lbctl status` shows how it goes"
                click.echo(json.dumps(operation) if as_json else said)
                return None
            return wait(client, operation, body, quiet=as_json)
    except KeyboardInterrupt as stopped:
        click.echo(f"\nStopped waiting; the change stays in force. `lbctl status` shows it. To undo: {undo}", err=True)
        raise click.exceptions.Exit(128 + getattr(stopped, "number", SIGINT)) from None


def wait(client: Client, operation: dict[str, Any], body: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """Follow an operation to its end; when the agent restarts meanwhile, ask again (a repeated change is harmless)."""
    with Progress(quiet) as show:
        now = operation
        while now["state"] == "running":
            show(now["open"])
            try:
                for later in client.follow(now["id"]):
                    now = later
                    show(now["open"])
            except (NoAgent, Refused):
                now = _again(client, body)
    return now


def _again(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    """The operation that goes on with the next agent. The change is sent again only if it is still asked for."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if not _still_asked(client.get("/v1/status"), body):
                fail("the agent restarted, and somebody else changed this meanwhile; see `lbctl status`", Exit.FAILED)
            answer: dict[str, Any] = client.change(body)
        except NoAgent:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)
        else:
            return answer


def _still_asked(status: dict[str, Any], body: dict[str, Any]) -> bool:
    nodes = {node["name"]: node for node in status["nodes"]}
    services = {s["name"]: s["scheduled"] or s["mode"] for s in status["services"]}
    for name, wanted in body.get("nodes", {}).items():
        node = nodes.get(name, {"services": [], "returning": False})
        held = bool(node["services"]) and not node["returning"]
        if wanted["state"] == "drained" and not held:
            return False
    return all(services.get(n, "up") == wanted["mode"] for n, wanted in body.get("services", {}).items())


class Progress:
    """What is open: a live block on a terminal, plain lines elsewhere, each when it changes."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._last = quiet, list[str]()
        self._terminal = sys.stderr.isatty()
        self._live: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, lines: list[str]) -> None:
        if self._quiet or lines == self._last:
            return
        self._last = lines
        if self._terminal:
            from rich.console import Console  # noqa: PLC0415 only when something has to be waited for
            from rich.live import Live  # noqa: PLC0415
            from rich.text import Text  # noqa: PLC0415

            if self._live is None:
                self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
                self._live.start()
            self._live.update(Text("\n".join(f"waiting: {line}" for line in lines)), refresh=True)
        else:
            for line in lines:
                click.echo(f"waiting: {line}", err=True)


def say_open(end: dict[str, Any], undo: str) -> None:
    """Why an operation ended without being done."""
    words = {
        "deadline": "the deadline passed. The change stays in force. Still open:",
        "pending": "accepted and stored, but not in force yet:",
    }
    click.echo(f"lbctl: {words.get(end['state'], 'failed:')}", err=True)
    for line in end["open"]:
        click.echo(f"  {line}", err=True)
    click.echo(f"To undo: {undo}", err=True)


def plan_lines(plan: dict[str, Any]) -> list[str]:
    lines = [f"note: {note}" for note in plan["notes"]]
    return [*lines, *(plan["plan"] or ["nothing to do: this is in force already"])]


def took(end: dict[str, Any]) -> str:
    return f" ({end['ended'] - end['started']:.1f} s)" if end.get("ended") else ""
