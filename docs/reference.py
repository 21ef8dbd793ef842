"""Writes the reference of the manual and the man pages from the program itself: ``python docs/reference.py``.

Each page has one source: click's commands, the table of error codes, the types of the configuration. Nothing here says
again what stands there. ``--check`` writes nothing and ends with 1 where a file is not what it would be.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click

from lbagent import daemon
from lbagent.cli import lbctl
from lbagent.control.openapi import document
from lbagent.errors import CODES, Exit
from lbagent.metrics import MEASURES, Metrics
from lbagent.model import status
from lbagent.settings.reference import described

DOCS = Path(__file__).parent
HEAD = "<!-- Written by docs/reference.py: change the program's own texts, then run `make docs`. -->\n\n"


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


# --------------------------------------------------------------------------------------------- Markdown


def table(titles: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def lbctl_page() -> str:
    out = [HEAD, "# lbctl\n\n"]
    out.append("The texts of this page are those of `lbctl COMMAND --help`. Durations read `90s`, `20m`, `2h`.\n")
    for verb in verbs(lbctl, "lbctl"):
        out.append(f"\n## {verb.path}\n\n```text\n{verb.usage}\n```\n\n")
        out.append("\n\n".join(markdown(p) for p in verb.paragraphs) + "\n")
        if verb.options:
            out.append(
                "\n" + table(("option", "meaning"), [(code(name), markdown(text)) for name, text in verb.options])
            )
    return "".join(out)


def markdown(text: str) -> str:
    """Words of the command line, shown as such; blanks in HTML's brackets would vanish."""
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text).replace("<", "&lt;")


def codes_page() -> str:
    out = [HEAD, "# Exit and error codes\n\n## Exit codes of lbctl\n\n"]
    out.append(table(("code", "meaning"), [(str(int(exit_)), exit_.meaning) for exit_ in Exit]))
    out.append("\n`lbctl run` ends with the exit code of its command once that has run.\n")
    out.append("\n## Error codes\n\nA refused or failed call on the control socket answers with\n")
    out.append('`{"error": {"code": "…", "message": "…"}}`. lbctl prints the message.\n\n')
    rows = [(code(name), str(c.status), str(int(c.exit)), c.meaning) for name, c in CODES.items()]
    out.append(table(("code", "HTTP status", "exit code", "meaning"), rows))
    return "".join(out)


def configuration_page() -> str:
    out = [HEAD, "# Configuration\n\n"]
    out.append("`/etc/lbagent/lbagent.yaml` has these keys. Every key has a default, and an empty file is valid.\n")
    out.append("`lbagent --check` names every mistake in it with its place.\n\n")
    out.append(
        table(("key", "default", "meaning"), [(code(d.path), default(d.default), d.meaning) for d in described()])
    )
    return "".join(out)


def default(text: str) -> str:
    """A constant is shown as YAML, a default that is worked out in words."""
    return code(text) if re.fullmatch(r'null|true|false|[\d.]+|[\["{].*|\d+[smhd]', text) else text


def http_page() -> str:
    out = [HEAD, "# HTTP\n\nThe control socket speaks HTTP with JSON. Any HTTP client can use it:\n"]
    out.append("`curl --unix-socket /run/lbagent/lbagent.sock http://localhost/v1/status`.\n\n")
    calls = [
        (code(f"{method.upper()} {path}"), call["summary"])
        for path, methods in document()["paths"].items()
        for method, call in methods.items()
    ]
    out.append(table(("call", "what it does"), calls))
    out.append("\n`GET /v1/openapi.json` has the types of every body and answer, for machines.\n")
    return "".join(out)


FIELD = re.compile(r"^    (?P<name>\w+): (?P<type>[^#=]+?)(?: = [^#]+?)?(?:  # (?P<meaning>.*))?$", re.MULTILINE)
"""A field of a data class in lbagent/model/status.py; what it means stands behind it."""


def status_page() -> str:
    out = [
        HEAD,
        "# Status\n\n`lbctl status --json` and `GET /v1/status` answer with one JSON object. Times are seconds\n",
    ]
    out.append("since 1970. Sessions are requests that are open, in every worker and at every HAProxy.\n")
    titles = {
        status.Status: "The whole",
        status.HAProxyStatus: "haproxy",
        status.ServiceStatus: "Each of services",
        status.WindowStatus: "Each of windows",
        status.ServerStatus: "Each of servers",
        status.NodeStatus: "Each of nodes",
        status.AgentStatus: "Each of agents",
        status.StoreStatus: "store",
    }
    for kind, title in titles.items():
        out.append(f"\n## {title}\n\n")
        fields = FIELD.finditer(inspect.getsource(kind))
        out.append(
            table(("field", "type", "meaning"), [(code(f["name"]), json_type(f["type"]), f["meaning"]) for f in fields])
        )
    return "".join(out)


def json_type(annotation: str) -> str:
    """A type of Python as JSON has it."""
    names = {"str": "string", "int": "number", "float": "number", "bool": "true or false", "None": "null"}
    parts = []
    for part in annotation.split(" | "):
        several = part.startswith("list[")
        word = part.removeprefix("list[").rstrip("]")
        word = names.get(word, "object")
        parts.append(f"list of {word}s" if several else word)
    return " or ".join(parts)


def metrics_page() -> str:
    out = [
        HEAD,
        "# Metrics\n\nPrometheus scrapes them at `http://127.0.0.1:9779/metrics`, or where `metrics.listen` says.\n",
    ]
    out.append("A scrape never talks to HAProxy. States are one series for each state, with 0 or 1.\n\n")
    rows = [(m.name + ("_total" if m.kind == "counter" else ""), m.kind, m.labels, m.text) for m in MEASURES]
    example = Metrics()
    example.command("drain", "accepted")
    for family in example.registry.collect():
        labels = tuple(family.samples[0].labels.keys() - {"le"})
        name = family.name.removeprefix("lbagent_") + ("_total" if family.type == "counter" else "")
        rows.append((name, family.type, tuple(sorted(labels)), family.documentation))
    out.append(
        table(
            ("metric", "kind", "labels", "meaning"),
            [(code(f"lbagent_{name}"), kind, ", ".join(map(code, labels)), text) for name, kind, labels, text in rows],
        )
    )
    return "".join(out)


# -------------------------------------------------------------------------------------------- man pages


def roff(text: str) -> str:
    """Plain text for a man page: nothing in it is taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def man(name: str, section: int, title: str, parts: list[str]) -> str:
    head = f'.\\" Written by docs/reference.py.\n.TH {name.upper()} {section} "" lbagent "{title}"\n'
    return head + f".SH NAME\n{name} \\- {roff(title)}\n" + "".join(parts)


def options(verb: Verb) -> str:
    return "".join(f".TP\n.B {roff(name)}\n{roff(text)}\n" for name, text in verb.options)


def paragraphs(verb: Verb) -> str:
    return "".join(f".PP\n{roff(text)}\n" for text in verb.paragraphs)


def lbctl_man() -> str:
    top, *rest = verbs(lbctl, "lbctl")
    parts = [f".SH SYNOPSIS\n.B {roff(top.usage)}\n.SH DESCRIPTION\n{paragraphs(top)}.SH OPTIONS\n{options(top)}"]
    parts.append(".SH COMMANDS\n")
    parts += [f".SS {roff(verb.usage)}\n{paragraphs(verb)}{options(verb)}" for verb in rest]
    exits = "".join(f".TP\n.B {int(exit_)}\n{roff(exit_.meaning)}\n" for exit_ in Exit)
    parts.append(f".SH EXIT STATUS\n{exits}")
    parts.append(".SH ENVIRONMENT\n.TP\n.B LBAGENT_SOCKET\nas \\-\\-socket\n.TP\n.B LBAGENT_CONFIG\nas \\-\\-config\n")
    parts.append(".SH SEE ALSO\n.BR lbagent (8),\n.BR haproxy (1)\n")
    return man("lbctl", 1, "maintenance for the services behind an HAProxy", parts)


def lbagent_man() -> str:
    verb = next(verbs(daemon.main, "lbagent"))
    parts = [f".SH SYNOPSIS\n.B {roff(verb.usage)}\n.SH DESCRIPTION\n{paragraphs(verb)}.SH OPTIONS\n{options(verb)}"]
    keys = "".join(
        f".TP\n.B {roff(d.path)}\n{roff(d.meaning)}" + (f" Default: {roff(d.default)}" if d.default else "") + "\n"
        for d in described()
    )
    parts.append(f".SH CONFIGURATION\nThe file is YAML. Every key has a default.\n{keys}")
    parts.append(
        ".SH SIGNALS\n.TP\n.B SIGHUP\nRead the configuration again; keep the old one when the new one is wrong.\n"
    )
    parts.append(".SH SEE ALSO\n.BR lbctl (1),\n.BR haproxy (1)\n")
    return man("lbagent", 8, "the agent beside an HAProxy", parts)


PAGES: dict[str, Callable[[], str]] = {
    "reference/lbctl.md": lbctl_page,
    "reference/configuration.md": configuration_page,
    "reference/codes.md": codes_page,
    "reference/http.md": http_page,
    "reference/status.md": status_page,
    "reference/metrics.md": metrics_page,
    "man/lbctl.1": lbctl_man,
    "man/lbagent.8": lbagent_man,
}
"""File below docs/ → what writes it."""


def main() -> int:
    stale = []
    for name, write in PAGES.items():
        path, text = DOCS / name, write()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"docs/{name}: {'not what the program says; run make docs' if '--check' in sys.argv else 'written'}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
