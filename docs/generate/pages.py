"""The pages of the reference, in Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from docs.generate.verbs import verbs
from lbagent.cli import lbctl
from lbagent.control.openapi import document
from lbagent.errors import CODES, Exit
from lbagent.metrics import MEASURES, Metrics
from lbagent.model import status
from lbagent.settings.reference import described

HEAD = "<!-- Written by docs/generate: change the program's own texts, then run `make docs`. -->\n\n"


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
                "\n" + table(("option", "meaning"), [(option(name), markdown(text)) for name, text in verb.options])
            )
    return "".join(out)


def option(names: str) -> str:
    """An option as it is typed; a choice is spelled out, as a bar would end the table's cell."""
    choice = re.fullmatch(r"(\S+) \[(.+)\]", names)
    return " or ".join(code(f"{choice[1]} {word}") for word in choice[2].split("|")) if choice else code(names)


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
