"""The configuration file: read, checked whole, every problem at once with its path.

:func:`parse` is pure (text in, :class:`Config` out); :func:`load` reads the file.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from . import presets

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9_.:-]+")
"""Names go into HAProxy's maps and commands: HAProxy's own proxy and server characters (manual 2.2)."""

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


class Endpoint(msgspec.Struct, frozen=True):
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
        tree = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 a SafeLoader that refuses repeated keys
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML raises the latter ones for a tag on a value that does not fit it, such as `!!int ""`.
        raise ConfigError([f"$: not YAML: {' '.join(str(error).split())}"]) from error
    problems: list[str] = []
    root = _Section(problems, "$", tree if tree is not None else {})
    config = Config(
        node=root.take("node", _name, socket.gethostname().split(".")[0]),
        haproxy=_haproxy(root.section("haproxy")),
        control=_control(root.section("control")),
        metrics_listen=_metrics(root.section("metrics")),
        retry_after=_retry_after(root.section("retry_after")),
        bypass=_bypass(root.section("bypass")),
        services={n: _service(s, n) for n, s in root.sections("services")},
        nodes={n: _node(s, n) for n, s in root.sections("nodes")},
        store=_store(root.section("store")),
        max_unavailable=root.take("max_unavailable", _optional(_whole(1, 1000)), None),
    )
    root.done()
    _one_owner(config, problems)
    if problems:
        raise ConfigError(sorted(set(problems)))
    return config


# ------------------------------------------------------------------------------------------- sections


def _haproxy(section: _Section) -> HAProxyConfig:
    default = HAProxyConfig()
    made = HAProxyConfig(
        socket=section.take("socket", _path, default.socket),
        master_socket=section.take("master_socket", _optional(_path), None),
        config=section.take("config", _list(_path, least=1), default.config),
        state_dir=section.take("state_dir", _state_dir, default.state_dir),
        state_dir_in_haproxy=section.take("state_dir_in_haproxy", _optional(_state_dir), None),
        check_command=section.take("check_command", _list(_text, least=1, twice=True), default.check_command),
        vip_track_file=section.take("vip_track_file", _optional(_path), None),
    )
    section.done()
    return made


def _control(section: _Section) -> ControlConfig:
    default = ControlConfig()
    made = ControlConfig(
        socket=section.take("socket", _path, default.socket),
        admins=section.take("admins", _list(_text), default.admins),
        viewers=section.take("viewers", _list(_text), default.viewers),
    )
    section.done()
    return made


def _metrics(section: _Section) -> str:
    listen = section.take("listen", _listen, Config(node="").metrics_listen)
    section.done()
    return listen


def _retry_after(section: _Section) -> RetryAfter:
    default = RetryAfter()
    made = RetryAfter(
        floor=section.take("floor", _whole(1, 86400), default.floor),
        cap=section.take("cap", _whole(1, 604800), default.cap),
        spread=section.take("spread", _whole(0, 86400), default.spread),
    )
    if made.cap < made.floor:
        section.problem("cap", f"is below the floor of {made.floor}")
    section.done()
    return made


def _bypass(section: _Section) -> Bypass:
    made = Bypass(
        networks=section.take("networks", _list(_network), ()),
        secret_file=section.take("secret_file", _optional(_path), None),
    )
    section.done()
    return made


def _service(section: _Section, name: str) -> ServiceConfig:
    lists = section.section("read_only")
    made = ServiceConfig(
        backends=section.take("backends", _list(_name, least=1), (name,)),
        frontends=section.take("frontends", _list(_frontend), ()),
        preset=section.take("preset", _preset, presets.default_for(name)),
        allow=lists.take("allow", _list(_rule), ()),
        deny=lists.take("deny", _list(_rule), ()),
        probes=section.take("probes", _list(_rule), ()),
        min_ready=section.take("min_ready", _whole(0, 1000), 1),
    )
    lists.done()
    section.done()
    return made


def _node(section: _Section, name: str) -> NodeConfig:
    made = NodeConfig(
        servers=section.take("servers", _list(_name), (name,)),
        addresses=section.take("addresses", _list(_address), ()),
    )
    section.done()
    return made


def _store(section: _Section) -> StoreConfig:
    made = StoreConfig(path=section.take("path", _path, StoreConfig().path), etcd=_etcd(section))
    section.done()
    return made


def _etcd(outer: _Section) -> EtcdConfig | None:
    if not outer.has("etcd"):
        return None
    section = outer.section("etcd")
    if not section.has("endpoints"):
        section.problem("endpoints", "is missing: the URLs of etcd's members, such as http://10.0.0.1:2379")
    made = EtcdConfig(
        endpoints=section.take("endpoints", _list(_endpoint, least=1), ()),
        prefix=section.take("prefix", _prefix, "/lbagent"),
        ca=section.take("ca", _optional(_path), None),
        cert=section.take("cert", _optional(_path), None),
        key=section.take("key", _optional(_path), None),
        user=section.take("user", _optional(_text), None),
        password=section.take("password", _optional(_text), None),
        password_file=section.take("password_file", _optional(_path), None),
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


# --------------------------------------------------------------------------------------------- reading


class _Section:
    """One mapping of the file: takes its keys, remembers which it knows, reports the others."""

    def __init__(self, problems: list[str], path: str, value: object) -> None:
        self._problems, self._path, self._known = problems, path, set[str]()
        self._tree: dict[Any, Any] = {}
        if isinstance(value, dict):
            self._tree = value
        else:
            problems.append(f"{path}: expected a mapping, got {_what(value)}")

    def has(self, key: str) -> bool:
        return self._tree.get(key) is not None

    def problem(self, key: str, sentence: str) -> None:
        self._problems.append(f"{self._path}.{key}: {sentence}")

    def take(self, key: str, read: Callable[[object], T], default: T) -> T:
        self._known.add(key)
        if key not in self._tree:
            return default
        try:
            return read(self._tree[key])
        except _Bad as bad:
            self._problems.extend(f"{self._path}.{key}{where}: {sentence}" for where, sentence in bad.problems)
            return default

    def section(self, key: str) -> _Section:
        self._known.add(key)
        value = self._tree.get(key, {})
        return _Section(self._problems, f"{self._path}.{key}", value if value is not None else {})

    def sections(self, key: str) -> Iterable[tuple[str, _Section]]:
        """The named mappings below ``key``; bad names are reported and left out."""
        outer = self.section(key)
        for name, value in outer._tree.items():
            try:
                _name(name)
            except _Bad as bad:
                self._problems.append(f"{self._path}.{key}: {bad.problems[0][1]}")
            else:
                yield name, _Section(self._problems, f"{self._path}.{key}.{name}", value if value is not None else {})

    def done(self) -> None:
        unknown = [key for key in self._tree if key not in self._known]
        for key in unknown:
            known = ", ".join(sorted(self._known))
            self._problems.append(f"{self._path}: unknown key {key!r}; there are: {known}")


class _Bad(Exception):
    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__(problems)
        self.problems = problems


def _what(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**100:
        return "a number too large"
    return {
        dict: "a mapping",
        list: "a list",
        str: "a string",
        bool: "a yes or no",
        type(None): "nothing",
    }.get(type(value), f"{value!r}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Bad(("", f"expected a string, got {_what(value)}"))
    if not value:
        raise _Bad(("", "is empty"))
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise _Bad(("", "holds a control character"))
    return value


def _name(value: object) -> str:
    text = _text(value)
    if not NAME.fullmatch(text) or len(text) > 200:
        raise _Bad(("", f"{text!r} is not a name: letters, digits and _.:- only, at most 200"))
    return text


def _frontend(value: object) -> str:
    name, at, address = _text(value).partition("@")
    _name(name)
    if at:
        _address(address)
        address = str(ipaddress.ip_address(address))
    return name + at + address


def _address(value: object) -> str:
    try:
        if "%" in (text := _text(value)):  # a zone may hold any character, and HAProxy shows none
            raise ValueError
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise _Bad(("", f"{value!r} is not an IP address")) from None


def _network(value: object) -> str:
    try:
        if "%" in (text := _text(value)):
            raise ValueError(f"{value!r} is not an IP network")
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise _Bad(("", str(error))) from None


def _listen(value: object) -> str:
    host, colon, port = _text(value).rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535 or not host or " " in host:
        raise _Bad(("", f"{value!r} is not ADDRESS:PORT"))
    return str(value)


def _endpoint(value: object) -> Endpoint:
    text = _text(value)
    parts = re.fullmatch(r"(?:(https?)://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})/?", text)
    if parts is None or not 0 < int(parts[3]) <= 65535:
        raise _Bad(("", f"{text!r} is not a URL of an etcd member, such as http://10.0.0.1:2379"))
    return Endpoint(parts[1] or "http", parts[2].strip("[]"), int(parts[3]))


def _prefix(value: object) -> str:
    text = _path(value).rstrip("/")
    if not re.fullmatch(r"[A-Za-z0-9/_.:-]+", text):
        raise _Bad(("", f"{value!r} is not a key of etcd's: letters, digits and /_.:- only, and not empty"))
    return text


def _path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/"):
        raise _Bad(("", f"{text!r} is not an absolute path"))
    return text


def _state_dir(value: object) -> str:
    text = _path(value).rstrip("/")
    if not re.fullmatch(r"/[A-Za-z0-9/_.+-]*", text):
        raise _Bad(("", f"{text!r} has to stand in haproxy.cfg: letters, digits and /_.+- only"))
    return text


def _rule(value: object) -> str:
    problem = presets.rule_problem(_text(value))
    if problem:
        raise _Bad(("", problem))
    return str(value)


def _preset(value: object) -> str:
    text = _text(value)
    if text not in presets.names():
        raise _Bad(("", f"no preset {text!r}; there are: {', '.join(presets.names())}"))
    return text


def _whole(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise _Bad(("", f"expected a whole number from {least} to {most}, got {_what(value)}"))
        return value

    return read


def _optional(read: Callable[[object], T]) -> Callable[[object], T | None]:
    return lambda value: None if value is None else read(value)


def _list(read: Callable[[object], T], least: int = 0, twice: bool = False) -> Callable[[object], tuple[T, ...]]:
    def read_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _Bad(("", f"expected a list, got {_what(value)}"))
        if len(value) < least:
            raise _Bad(("", "expected at least one entry"))
        out: list[T] = []
        problems: list[tuple[str, str]] = []
        for index, entry in enumerate(value):
            try:
                made = read(entry)
            except _Bad as bad:
                problems.extend((f"[{index}]{where}", sentence) for where, sentence in bad.problems)
                continue
            if made in out and not twice:
                problems.append((f"[{index}]", f"{made!r} is there twice"))
            out.append(made)
        if problems:
            raise _Bad(*problems)
        return tuple(out)

    return read_all


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a key stand twice and keeps the last: half of a configuration, lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a string", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
