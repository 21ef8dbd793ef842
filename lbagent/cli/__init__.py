"""``lbctl``: the operator's command. One file per verb; a verb's own imports happen only when it runs."""

from __future__ import annotations

import importlib
import sys

import click

from lbagent import __version__
from lbagent.control.client import DEFAULT_SOCKET
from lbagent.errors import Exit

VERBS = {
    # verb: (module, attribute, help)
    "status": ("status", "status", "Show HAProxy, services and nodes, and why they are as they are."),
    "drain": ("nodes", "drain", "Take a node out of traffic; wait until no request is open on it."),
    "ready": ("nodes", "ready", "Put a node back into traffic once its health checks pass."),
    "down": ("services", "down", "Close services with 503 and Retry-After; wait for older requests."),
    "read-only": ("services", "read_only", "Refuse writes to services; wait for older writes."),
    "up": ("services", "up", "Open services again."),
    "run": ("run", "run", "Begin a maintenance, run a command, end the maintenance."),
    "history": ("history", "history", "Show who changed what, when, why, and how long it took."),
    "forget": ("nodes", "forget", "Stop waiting for an HAProxy that is gone for good."),
    "doctor": ("doctor", "doctor", "Check HAProxy, its configuration, files and permissions."),
    "haproxy": ("haproxy", "haproxy", "Put lbagent's rules, the guard, into HAProxy's configuration."),
}


class Verbs(click.Group):
    """A group that imports a verb when it is called: `lbctl status` does not wait for what `adopt` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 click's
        if cmd_name not in VERBS:
            return None
        module, attribute, _ = VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 click's
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, _, text) in VERBS.items()])


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit codes:\n" + "\n".join(f"  {code}  {code.meaning}" for code in Exit),  # \b: lines as they are
)
@click.option(
    "--socket",
    metavar="PATH",
    envvar="LBAGENT_SOCKET",
    default=DEFAULT_SOCKET,
    show_default=True,
    help="The control socket of the agent.",
)
@click.version_option(__version__, prog_name="lbctl")
@click.pass_context
def lbctl(ctx: click.Context, socket: str) -> None:
    """Maintenance for the services behind an HAProxy.

    lbctl talks to lbagent, the agent on this host, which talks to HAProxy.
    """
    ctx.obj = socket


def main() -> None:
    """The entry point: runs a verb and exits with one of the codes of errors.Exit, or a command's own."""
    try:
        sys.exit(lbctl.main(standalone_mode=False))  # an exit code comes back as the result
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.USAGE if isinstance(error, click.UsageError) else Exit.FAILED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(Exit.FAILED)
