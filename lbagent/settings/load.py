"""The configuration file: read, checked whole, every problem at once with its path.

:func:`parse` is pure (text in, :class:`Config` out); :func:`load` reads the file.
"""

from __future__ import annotations

import socket
from pathlib import Path

import yaml

from lbagent.settings import fields, presets
from lbagent.settings.config import (
    DEFAULT_PATH,
    Bypass,
    Config,
    ControlConfig,
    HAProxyConfig,
    NodeConfig,
    RetryAfter,
    ServiceConfig,
    StoreConfig,
)
from lbagent.settings.etcd import read_etcd


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
    root = fields.MappingReader(problems, "$", tree if tree is not None else {})
    config = Config(
        node=root.take("node", fields.name, hostname),
        haproxy=_haproxy(root.section("haproxy")),
        control=_control(root.section("control")),
        metrics_listen=_metrics(root.section("metrics")),
        retry_after=_retry_after(root.section("retry_after")),
        bypass=_bypass(root.section("bypass")),
        services={n: _service(s, n) for n, s in root.sections("services")},
        nodes={n: _node(s, n) for n, s in root.sections("nodes")},
        store=_store(root.section("store")),
        max_unavailable=root.take("max_unavailable", fields.optional(fields.whole(1, 1000)), None),
    )
    root.done()
    _one_owner(config, problems)
    if problems:
        raise ConfigError(sorted(set(problems)))
    return config


# ------------------------------------------------------------------------------------------- sections


def _haproxy(section: fields.MappingReader) -> HAProxyConfig:
    default = HAProxyConfig()
    made = HAProxyConfig(
        socket=section.take("socket", fields.path, default.socket),
        master_socket=section.take("master_socket", fields.optional(fields.path), None),
        config=section.take("config", fields.several(fields.path, least=1), default.config),
        state_dir=section.take("state_dir", fields.state_dir, default.state_dir),
        state_dir_in_haproxy=section.take("state_dir_in_haproxy", fields.optional(fields.state_dir), None),
        check_command=section.take(
            "check_command", fields.several(fields.text, least=1, twice=True), default.check_command
        ),
        vip_track_file=section.take("vip_track_file", fields.optional(fields.path), None),
    )
    section.done()
    return made


def _control(section: fields.MappingReader) -> ControlConfig:
    default = ControlConfig()
    made = ControlConfig(
        socket=section.take("socket", fields.path, default.socket),
        admins=section.take("admins", fields.several(fields.text), default.admins),
        viewers=section.take("viewers", fields.several(fields.text), default.viewers),
    )
    section.done()
    return made


def _metrics(section: fields.MappingReader) -> str:
    listen = section.take("listen", fields.listen, Config(node="").metrics_listen)
    section.done()
    return listen


def _retry_after(section: fields.MappingReader) -> RetryAfter:
    default = RetryAfter()
    made = RetryAfter(
        floor=section.take("floor", fields.whole(1, 86400), default.floor),
        cap=section.take("cap", fields.whole(1, 604800), default.cap),
        spread=section.take("spread", fields.whole(0, 86400), default.spread),
    )
    if made.cap < made.floor:
        section.problem("cap", f"is below the floor of {made.floor}")
    section.done()
    return made


def _bypass(section: fields.MappingReader) -> Bypass:
    made = Bypass(
        networks=section.take("networks", fields.several(fields.network), ()),
        secret_file=section.take("secret_file", fields.optional(fields.path), None),
    )
    section.done()
    return made


def _service(section: fields.MappingReader, name: str) -> ServiceConfig:
    lists = section.section("read_only")
    made = ServiceConfig(
        backends=section.take("backends", fields.several(fields.name, least=1), (name,)),
        frontends=section.take("frontends", fields.several(fields.frontend), ()),
        preset=section.take("preset", _preset, presets.default_for(name)),
        allow=lists.take("allow", fields.several(fields.rule), ()),
        deny=lists.take("deny", fields.several(fields.rule), ()),
        probes=section.take("probes", fields.several(fields.rule), ()),
        min_ready=section.take("min_ready", fields.whole(0, 1000), 1),
    )
    lists.done()
    section.done()
    return made


def _node(section: fields.MappingReader, name: str) -> NodeConfig:
    made = NodeConfig(
        servers=section.take("servers", fields.several(fields.name), (name,)),
        addresses=section.take("addresses", fields.several(fields.address), ()),
    )
    section.done()
    return made


def _store(section: fields.MappingReader) -> StoreConfig:
    made = StoreConfig(path=section.take("path", fields.path, StoreConfig().path), etcd=read_etcd(section))
    section.done()
    return made


def _one_owner(config: Config, problems: list[str]) -> None:
    """A backend restricted to the same frontends belongs to one service only."""
    owner: dict[tuple[str, str], str] = {}
    for name, service in config.services.items():
        for index, backend in enumerate(service.backends):
            for frontend in service.frontends or ("",):
                other = owner.setdefault((backend, frontend), name)
                if other != name:
                    problems.append(
                        f"$.services.{name}.backends[{index}]: {backend} belongs to service {other} already"
                    )
    claimed: dict[str, str] = {}
    for name, node in config.nodes.items():
        for index, server in enumerate(node.servers):
            other = claimed.setdefault(server, name)
            if other != name:
                problems.append(f"$.nodes.{name}.servers[{index}]: {server} belongs to node {other} already")


def _preset(value: object) -> str:
    text = fields.text(value)
    if text not in presets.names():
        raise fields.Bad(("", f"no preset {text!r}; there are: {', '.join(presets.names())}"))
    return text
