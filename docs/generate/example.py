"""haproxy/lbagent.yaml, the example configuration."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator

import msgspec

from lbagent.settings.config import Config
from lbagent.settings.keys import Entries, Key, Section, keys_of

EXAMPLES = {
    # key: what the example shows where the default is worked out, or where there is none
    "node": "ctl1",
    "services": "keystone",
    "services.keystone.preset": "keystone",
    "nodes": "ctl1",
    "store.etcd.endpoints": [f"http://10.0.0.1{n}:2379" for n in (1, 2, 3)],
    "announce": "7d",
    "notify.webhooks.url": "https://hooks.example.org/lbagent",
}
EXAMPLE_HEAD = """\
## /etc/lbagent/lbagent.yaml: the configuration of lbagent. As it is, this file sets nothing. Each value is the default,
## or an example if a name has to be given. To set a value, take away the first # of its line and of the lines of the
## sections that it is in. `lbagent --check` names every mistake, `systemctl reload lbagent` reads the file again.
"""


def example_configuration() -> str:
    """haproxy/lbagent.yaml: every key as a comment, with its meaning above it."""
    return EXAMPLE_HEAD + "".join(example(Config, "", 0))


def example(kind: type[msgspec.Struct], prefix: str, depth: int) -> Iterator[str]:
    opened = set[str]()  # sections of keys that are one field of a type, such as metrics.listen
    for field, what in keys_of(kind):
        path = (what.at if isinstance(what, Key | Entries) else "") or field.name
        outer, _, name = path.rpartition(".")
        gap = "\n" if depth == 0 else ""
        if outer and outer not in opened:
            opened.add(outer)
            yield f"{gap}#{indent(depth)}{outer}:\n"
            gap = ""
        deeper = depth + bool(outer)
        worked_out = f" Default: {what.default}." if isinstance(what, Key) and what.default else ""
        yield gap + comment(what.meaning + worked_out, deeper)
        match what:
            case Key():
                yield f"#{indent(deeper)}{name}: {value(f'{prefix}{path}', field)}\n"
            case Section():
                yield f"#{indent(deeper)}{name}:\n"
                yield from example(what.kind, f"{prefix}{path}.", depth + 1)
            case Entries(name=""):
                yield f"#{indent(deeper)}{name}:\n"
                inner = "".join(example(what.kind, f"{prefix}{path}.", depth + 2))
                yield first(inner)
            case Entries():
                entry = EXAMPLES[f"{prefix}{path}"]
                yield f"#{indent(deeper)}{name}:\n#{indent(deeper + 1)}{entry}:\n"
                yield from example(what.kind, f"{prefix}{path}.{entry}.", depth + 2)


def first(entry: str) -> str:
    """An entry of a list: a dash before its first key."""
    return re.sub(r"^#( +)  (?=\w)", r"#\1- ", entry, count=1, flags=re.MULTILINE)


def indent(depth: int) -> str:
    return "  " * depth


def comment(meaning: str, depth: int) -> str:
    margin = f"##{indent(depth) or ' '}"
    return textwrap.fill(meaning, 120, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False) + "\n"


def value(path: str, field: msgspec.structs.FieldInfo) -> str:
    constant = EXAMPLES.get(path, None if field.default is msgspec.NODEFAULT else field.default)
    return (
        str(constant)
        if isinstance(constant, str) and re.fullmatch(r"[\w/.:-]+", constant)
        else json.dumps(constant, default=list)
    )
