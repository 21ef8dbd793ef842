"""``lbctl doctor``: checks an installation and says how to mend what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from lbagent.control.client import Client, NoAgent, NotPermitted, Refused
from lbagent.doctor.examine import examine
from lbagent.doctor.finding import Finding
from lbagent.errors import Exit
from lbagent.settings.config import DEFAULT_PATH, Config
from lbagent.settings.load import ConfigError, load_found

COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "wrong": "red"}


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    envvar="LBAGENT_CONFIG",
    help=f"The configuration file.  [default: {DEFAULT_PATH}]",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def doctor(socket: str, path: Path | None, as_json: bool) -> None:
    """Check HAProxy, its configuration, lbagent's files and permissions. Say how to mend what is wrong.

    Exits with 1 when something is wrong, with 0 when there are only warnings and notes.
    """
    try:
        config = load_found(path)
    except ConfigError as error:
        findings = [Finding("wrong", "configuration", problem) for problem in error.problems]
    else:
        status, agent = _agent(socket, config)
        findings = [*examine(config, status["haproxy"]["masterless"] if status else None), agent]
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(findings)))
    else:
        for finding in findings:
            verdict = click.style(f"{finding.verdict:8}", fg=COLOURS[finding.verdict])
            click.echo(f"{verdict} {finding.about}: {finding.found}")
            if finding.mend:
                click.echo(f"         → {finding.mend}")
    if any(finding.verdict == "wrong" for finding in findings):
        raise click.exceptions.Exit(int(Exit.FAILED))


def _agent(socket: str, config: Config) -> tuple[dict[str, Any] | None, Finding]:
    """(what the agent answers, None where it does not; what is to say about it)."""
    try:
        status = Client(socket).get("/v1/status")
    except (NoAgent, NotPermitted, Refused) as error:
        return None, Finding("wrong", "agent", str(error))
    if status["trouble"]:
        return status, Finding("wrong", "agent", status["trouble"])
    if not status["haproxy"]["in_sync"]:
        mend = "lbctl status; journalctl -u lbagent"
        return status, Finding("warning", "agent", "HAProxy is not in sync with the intent", mend)
    found = f"{status['version']} on {config.node}, in sync, revision {status['revision']}"
    return status, Finding("ok", "agent", found)
