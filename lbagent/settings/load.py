"""The configuration file: read, checked whole, every problem at once with its path.

:func:`parse` is pure (text in, :class:`Config` out); :func:`load` reads the file. Which keys there are, and how a value
of each is read, stands with the types of :mod:`config`; what several keys mean together is checked here.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from lbagent.settings import fields, presets
from lbagent.settings.config import (
    DEFAULT_PATH,
    Config,
    NodeConfig,
    RetryAfter,
    ServiceConfig,
    WebhookConfig,
)
from lbagent.settings.etcd import EtcdConfig
from lbagent.settings.fields import MappingReader
from lbagent.settings.keys import Key, Section, keys_of

S = TypeVar("S", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` holds one line each, beginning with its path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_found(path: Path | None) -> Config:
    """The configuration in ``path``; with None in DEFAULT_PATH, or that of an empty file where there is none."""
    if path is None and not DEFAULT_PATH.exists():
        return parse("", _hostname())
    return load(path or DEFAULT_PATH)


def load(path: Path) -> Config:
    """The configuration in ``path``; ConfigError names every problem, or why the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; an empty one is valid: touch {path}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    return parse(text, _hostname())


def _hostname() -> str:
    return socket.gethostname().split(".")[0]


def parse(text: str, hostname: str = "localhost") -> Config:
    """The configuration in ``text``; ConfigError with every problem at once.

    ``hostname`` is the name of the node where the text gives none.
    """
    try:
        tree = yaml.load(text, Loader=fields.UniqueKeys)  # noqa: S506 a SafeLoader that refuses repeated keys
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML raises the latter ones for a tag on a value that does not fit it, such as `!!int ""`.
        raise ConfigError([f"$: not YAML: {' '.join(str(error).split())}"]) from error
    problems: list[str] = []
    config = _read(Config, MappingReader(problems, "$", tree if tree is not None else {}), node=hostname)
    _one_owner(config, problems)
    if problems:
        raise ConfigError(sorted(set(problems)))
    return config


# ------------------------------------------------------------------------------- by the types' annotations


def _read(kind: type[S], reader: MappingReader, **worked_out: object) -> S:
    """One mapping of the file as ``kind``; ``worked_out`` has the defaults that are no constants."""
    found: dict[str, Any] = {}
    below: dict[str, MappingReader] = {}
    for field, what in keys_of(kind):
        default = worked_out.get(field.name, field.default if field.default_factory is msgspec.NODEFAULT else {})
        if isinstance(what, Key):
            section, _, name = (what.at or field.name).rpartition(".")
            if section and section not in below:
                below[section] = reader.section(section)
            found[field.name] = (below[section] if section else reader).take(name, what.read, default)
        elif isinstance(what, Section):
            there = not what.optional or reader.has(field.name)
            inner = reader.section(field.name)
            found[field.name] = _read(what.kind, inner) if there else None
        elif what.name:
            found[field.name] = {name: _read_named(what.kind, inner, name) for name, inner in reader.named(field.name)}
        else:
            found[field.name] = tuple(_read(what.kind, inner) for inner in reader.listed(field.name))
    made = kind(**found)
    for inner in below.values():
        inner.done()
    reader.done()
    _check(made, reader)
    return made


def _read_named(kind: type[S], reader: MappingReader, name: str) -> S:
    return _read(kind, reader, preset=presets.default_for(name)) if kind is ServiceConfig else _read(kind, reader)


# ------------------------------------------------------------------------------- what several keys mean together


def _check(made: msgspec.Struct, reader: MappingReader) -> None:
    match made:
        case RetryAfter(floor=floor, cap=cap) if cap < floor:
            reader.problem("cap", f"is below the floor of {floor}")
        case EtcdConfig():
            _check_etcd(made, reader)
        case WebhookConfig(url=url, url_file=url_file) if (url is None) == (url_file is None):
            reader.problem("url", "or url_file has to be given, and only one of them")


def _check_etcd(made: EtcdConfig, reader: MappingReader) -> None:
    if not reader.has("endpoints"):
        reader.problem("endpoints", "is missing: the URLs of etcd's members, such as http://10.0.0.1:2379")
    if (made.cert is None) != (made.key is None):
        reader.problem("cert", "and key belong together: give both")
    if made.password is not None and made.password_file is not None:
        reader.problem("password", "and password_file say the same thing twice: give one")
    if (made.user is None) != (made.password is None and made.password_file is None):
        reader.problem("user", "needs a password or a password_file, and they need a user")


def _one_owner(config: Config, problems: list[str]) -> None:
    """A backend restricted to the same frontends belongs to one service only, a server to one node."""
    owner: dict[tuple[str, str], str] = {}
    for name, service in config.services.items():
        for index, backend in enumerate(service.backends or ()):
            for frontend in service.frontends or ("",):
                other = owner.setdefault((backend, frontend), name)
                if other != name:
                    problems.append(
                        f"$.services.{name}.backends[{index}]: {backend} belongs to service {other} already"
                    )
    claimed: dict[str, str] = {}
    for name, node in config.nodes.items():
        _claim(f"$.nodes.{name}.servers", name, node, claimed, problems)


def _claim(path: str, name: str, node: NodeConfig, claimed: dict[str, str], problems: list[str]) -> None:
    for index, server in enumerate(node.servers or ()):
        other = claimed.setdefault(server, name)
        if other != name:
            problems.append(f"{path}[{index}]: {server} belongs to node {other} already")
