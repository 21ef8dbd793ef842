"""The commands as their ``--help`` has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click

HELP = "--help"
"""Every command has it: the page shows it once."""


class Verb(NamedTuple):
    """A command as its ``--help`` has it. ``options`` are (names, meaning)."""

    path: str  # such as lbctl haproxy adopt
    usage: str
    paragraphs: list[str]
    options: list[tuple[str, str]]


def verbs(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[Verb]:
    """The command and all below it."""
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    records = [p.get_help_record(context) for p in command.get_params(context) if isinstance(p, click.Option)]
    usage = " ".join(command.collect_usage_pieces(context))
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    options = [
        (names, " ".join(text.split())) for names, text in filter(None, records) if parent is None or names != HELP
    ]
    yield Verb(path, f"{path} {usage}", paragraphs, options)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from verbs(below, f"{path} {name}", context)
