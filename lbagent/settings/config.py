"""The configuration file: read, checked whole, every problem at once with its path.

:func:`parse` is pure (text in, :class:`Config` out); :func:`load` reads the file.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import yaml

from lbagent.settings import fields, presets

T = TypeVar("T")

DEFAULT_PATH = Path("/etc/lbagent/lbagent.yaml")


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` holds one line each, beginning with its path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class HAProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    socket: str = "/run/haproxy/admin.sock"  # runtime API, level admin
    master_socket: str | None = None  # to see and steer workers left over by a reload
    config: tuple[str, ...] = ("/etc/haproxy/haproxy.cfg",)
    state_dir: str = "/var/lib/lbagent/haproxy"
    state_dir_in_haproxy: str | None = None  # the same folder as a HAProxy in a container sees it
    check_command: tuple[str, ...] = ("haproxy", "-c")
    vip_track_file: str | None = None  # for keepalived: 1 while this node is drained as a whole, else 0

    @property
    def seen_dir(self) -> str:
        """state_dir by the name that HAProxy's configuration uses."""
        return self.state_dir_in_haproxy or self.state_dir


class ControlConfig(msgspec.Struct, frozen=True, kw_only=True):
    socket: str = "/run/lbagent/lbagent.sock"
    admins: tuple[str, ...] = ("root", "@lbagent")
    viewers: tuple[str, ...] = ("@adm",)


class RetryAfter(msgspec.Struct, frozen=True, kw_only=True):
    floor: int = 30  # seconds
    cap: int = 3600  # seconds
    spread: int = 30  # seconds


class Bypass(msgspec.Struct, frozen=True, kw_only=True):
    networks: tuple[str, ...] = ()
    secret_file: str | None = None


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    backends: tuple[str, ...]
    frontends: tuple[str, ...] = ()  # name or name@address; empty: all
    preset: str
    allow: tuple[str, ...] = ()  # METHOD path, a regex
    deny: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    min_ready: int = 1


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    servers: tuple[str, ...]
    addresses: tuple[str, ...] = ()


class Endpoint(NamedTuple):
    """Where an etcd member serves clients."""

    protocol: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"


class EtcdConfig(msgspec.Struct, frozen=True, kw_only=True):
    endpoints: tuple[Endpoint, ...]
    prefix: str = "/lbagent"
    ca: str | None = None  # files in PEM
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password: str | None = None
    password_file: str | None = None


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    path: str = "/var/lib/lbagent/intent.json"  # with etcd: the last known intent
    etcd: EtcdConfig | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    haproxy: HAProxyConfig = HAProxyConfig()
    control: ControlConfig = ControlConfig()
    metrics_listen: str = "127.0.0.1:9779"
    retry_after: RetryAfter = RetryAfter()
    bypass: Bypass = Bypass()
    services: dict[str, ServiceConfig] = {}
    nodes: dict[str, NodeConfig] = {}
    store: StoreConfig = StoreConfig()
    max_unavailable: int | None = None  # nodes that may be drained together; None: one with a shared store, else any

    @property
    def most_drained(self) -> int | None:
        return self.max_unavailable if self.max_unavailable is not None or self.store.etcd is None else 1


def load(path: Path) -> Config:
    """The configuration in ``path``; ConfigError names every problem, or why the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; an empty one is valid: touch {path}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    return parse(text)


def parse(text: str) -> Config:
    """The configuration in ``text``; ConfigError with every problem at once."""
    try:
        tree = yaml.load(text, Loader=fields.UniqueKeys)  # noqa: S506 a SafeLoader that refuses repeated keys
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML raises the latter ones for a tag on a value that does not fit it, such as `!!int ""`.
        raise ConfigError([f"$: not YAML: {' '.join(str(error).split())}"]) from error
    problems: list[str] = []
    root = fields.Section(problems, "$", tree if tree is not None else {})
    config = Config(
        node=root.take("node", fields.name, socket.gethostname().split(".")[0]),
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


def _haproxy(section: fields.Section) -> HAProxyConfig:
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


def _control(section: fields.Section) -> ControlConfig:
    default = ControlConfig()
    made = ControlConfig(
        socket=section.take("socket", fields.path, default.socket),
        admins=section.take("admins", fields.several(fields.text), default.admins),
        viewers=section.take("viewers", fields.several(fields.text), default.viewers),
    )
    section.done()
    return made


def _metrics(section: fields.Section) -> str:
    listen = section.take("listen", fields.listen, Config(node="").metrics_listen)
    section.done()
    return listen


def _retry_after(section: fields.Section) -> RetryAfter:
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


def _bypass(section: fields.Section) -> Bypass:
    made = Bypass(
        networks=section.take("networks", fields.several(fields.network), ()),
        secret_file=section.take("secret_file", fields.optional(fields.path), None),
    )
    section.done()
    return made


def _service(section: fields.Section, name: str) -> ServiceConfig:
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


def _node(section: fields.Section, name: str) -> NodeConfig:
    made = NodeConfig(
        servers=section.take("servers", fields.several(fields.name), (name,)),
        addresses=section.take("addresses", fields.several(fields.address), ()),
    )
    section.done()
    return made


def _store(section: fields.Section) -> StoreConfig:
    made = StoreConfig(path=section.take("path", fields.path, StoreConfig().path), etcd=_etcd(section))
    section.done()
    return made


def _etcd(outer: fields.Section) -> EtcdConfig | None:
    if not outer.has("etcd"):
        return None
    section = outer.section("etcd")
    if not section.has("endpoints"):
        section.problem("endpoints", "is missing: the URLs of etcd's members, such as http://10.0.0.1:2379")
    made = EtcdConfig(
        endpoints=section.take("endpoints", fields.several(_endpoint, least=1), ()),
        prefix=section.take("prefix", fields.prefix, "/lbagent"),
        ca=section.take("ca", fields.optional(fields.path), None),
        cert=section.take("cert", fields.optional(fields.path), None),
        key=section.take("key", fields.optional(fields.path), None),
        user=section.take("user", fields.optional(fields.text), None),
        password=section.take("password", fields.optional(fields.text), None),
        password_file=section.take("password_file", fields.optional(fields.path), None),
    )
    if (made.cert is None) != (made.key is None):
        section.problem("cert", "and key belong together: give both")
    if made.password is not None and made.password_file is not None:
        section.problem("password", "and password_file say the same thing twice: give one")
    if (made.user is None) != (made.password is None and made.password_file is None):
        section.problem("user", "needs a password or a password_file, and they need a user")
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


def _endpoint(value: object) -> Endpoint:
    text = fields.text(value)
    parts = re.fullmatch(r"(?:(https?)://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})/?", text)
    if parts is None or not 0 < int(parts[3]) <= 65535:
        raise fields.Bad(("", f"{text!r} is not a URL of an etcd member, such as http://10.0.0.1:2379"))
    return Endpoint(parts[1] or "http", parts[2].strip("[]"), int(parts[3]))


def _preset(value: object) -> str:
    text = fields.text(value)
    if text not in presets.names():
        raise fields.Bad(("", f"no preset {text!r}; there are: {', '.join(presets.names())}"))
    return text
