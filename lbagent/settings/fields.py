"""One value of the configuration file each: what is read, what is wrong with it, in words that name the place. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import yaml

from lbagent.errors import LbagentError
from lbagent.model import times
from lbagent.settings import presets

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9_.:-]+")
"""Names go into HAProxy's maps and commands: HAProxy's own proxy and server characters (manual 2.2)."""


LONGEST_LINE = 200  # characters of a text for people


class MappingReader:
    """One mapping of the file: takes its keys, remembers which it knows, reports the others."""

    def __init__(self, problems: list[str], path: str, value: object) -> None:
        self._problems, self._path, self._known = problems, path, set[str]()
        self._tree: dict[Any, Any] = {}
        if isinstance(value, dict):
            self._tree = value
        else:
            problems.append(f"{path}: expected a mapping, got {what(value)}")

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
        except Bad as bad:
            self._problems.extend(f"{self._path}.{key}{where}: {sentence}" for where, sentence in bad.problems)
            return default

    def section(self, key: str) -> MappingReader:
        self._known.add(key)
        value = self._tree.get(key, {})
        return MappingReader(self._problems, f"{self._path}.{key}", value if value is not None else {})

    def listed(self, key: str) -> Iterable[MappingReader]:
        """The mappings of the list ``key``."""
        self._known.add(key)
        value = self._tree.get(key)
        if value is not None and not isinstance(value, list):
            self._problems.append(f"{self._path}.{key}: expected a list, got {what(value)}")
            return
        for index, entry in enumerate(value or ()):
            yield MappingReader(self._problems, f"{self._path}.{key}[{index}]", entry)

    def named(self, key: str) -> Iterable[tuple[str, MappingReader]]:
        """The named mappings below ``key``; bad names are reported and left out."""
        outer = self.section(key)
        for key_below, value in outer._tree.items():
            try:
                name(key_below)
            except Bad as bad:
                self._problems.append(f"{self._path}.{key}: {bad.problems[0][1]}")
            else:
                below = value if value is not None else {}
                yield key_below, MappingReader(self._problems, f"{self._path}.{key}.{key_below}", below)

    def done(self) -> None:
        unknown = [key for key in self._tree if key not in self._known]
        for key in unknown:
            known = ", ".join(sorted(self._known))
            self._problems.append(f"{self._path}: unknown key {key!r}; there are: {known}")


class Bad(Exception):
    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__(problems)
        self.problems = problems


def what(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**100:
        return "a number too large"
    return {
        dict: "a mapping",
        list: "a list",
        str: "a string",
        bool: "a yes or no",
        type(None): "nothing",
    }.get(type(value), f"{value!r}")


def text(value: object) -> str:
    if not isinstance(value, str):
        raise Bad(("", f"expected a string, got {what(value)}"))
    if not value:
        raise Bad(("", "is empty"))
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise Bad(("", "holds a control character"))
    return value


def name(value: object) -> str:
    found = text(value)
    if not NAME.fullmatch(found) or len(found) > 200:
        raise Bad(("", f"{found!r} is not a name: letters, digits and _.:- only, at most 200"))
    return found


def line(value: object) -> str:
    """A text that people read, in one line."""
    if len(found := text(value)) > LONGEST_LINE:
        raise Bad(("", f"has {len(found)} characters, at most {LONGEST_LINE} are taken"))
    return found


def yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise Bad(("", f"expected true or false, got {what(value)}"))
    return value


def one_of(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in words:
            raise Bad(("", f"expected one of {', '.join(words)}, got {what(value)}"))
        return str(value)

    return read


def seconds(value: object) -> int:
    """A duration such as ``7d``, as people write them; 0 is none at all."""
    if value in ("0", 0) and not isinstance(value, bool):
        return 0
    try:
        return times.duration(text(value), "")
    except LbagentError:
        raise Bad(("", f"{value!r} is not a duration such as 90s, 20m, 2h or 7d")) from None


def url(value: object) -> str:
    found = text(value)
    if not re.fullmatch(r"https?://[^/?#\s]+\S*", found):
        raise Bad(("", f"{found!r} is not a URL, such as https://status.example.org/"))
    return found


def frontend(value: object) -> str:
    """``name`` or ``name@address``."""
    place, at, where = text(value).partition("@")
    name(place)
    return f"{place}@{address(where)}" if at else place


def address(value: object) -> str:
    """An IP address in its usual spelling; one of IPv4 that is written as IPv6 (``::ffff:a.b.c.d``) as IPv4."""
    try:
        if "%" in (found := text(value)):  # a zone may hold any character, and HAProxy shows none
            raise ValueError
        made = ipaddress.ip_address(found)
    except ValueError:
        raise Bad(("", f"{value!r} is not an IP address")) from None
    mapped = made.ipv4_mapped if isinstance(made, ipaddress.IPv6Address) else None
    return str(mapped or made)


def network(value: object) -> str:
    try:
        if "%" in (found := text(value)):
            raise ValueError(f"{value!r} is not an IP network")
        return str(ipaddress.ip_network(found))
    except ValueError as error:
        raise Bad(("", str(error))) from None


def listen(value: object) -> str:
    host, colon, port = text(value).rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535 or not host or " " in host:
        raise Bad(("", f"{value!r} is not ADDRESS:PORT"))
    return str(value)


def prefix(value: object) -> str:
    found = path(value).rstrip("/")
    if not re.fullmatch(r"[A-Za-z0-9/_.:-]+", found):
        raise Bad(("", f"{value!r} is not a key of etcd's: letters, digits and /_.:- only, and not empty"))
    return found


def path(value: object) -> str:
    found = text(value)
    if not found.startswith("/"):
        raise Bad(("", f"{found!r} is not an absolute path"))
    return found


def state_dir(value: object) -> str:
    found = path(value).rstrip("/")
    if not re.fullmatch(r"/[A-Za-z0-9/_.+-]*", found):
        raise Bad(("", f"{found!r} has to stand in haproxy.cfg: letters, digits and /_.+- only"))
    return found


class Endpoint(NamedTuple):
    """Where an etcd member serves clients."""

    protocol: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"


def endpoint(value: object) -> Endpoint:
    found = text(value)
    parts = re.fullmatch(r"(?:(https?)://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})/?", found)
    if parts is None or not 0 < int(parts[3]) <= 65535:
        raise Bad(("", f"{found!r} is not a URL of an etcd member, such as http://10.0.0.1:2379"))
    return Endpoint(parts[1] or "http", parts[2].strip("[]"), int(parts[3]))


def preset(value: object) -> str:
    found = text(value)
    if found not in presets.names():
        raise Bad(("", f"no preset {found!r}; there are: {', '.join(presets.names())}"))
    return found


def ready_check(value: object) -> tuple[str, ...] | str | None:
    """A command as a list of words, or ``GET /path``."""
    if value is None:
        return None
    if isinstance(value, list):
        return several(text, least=1, twice=True)(value)
    if not re.fullmatch(r"GET /[!-~]*", found := text(value)):
        raise Bad(("", f"{found!r} is neither a command as a list nor GET /path"))
    return found


def rule(value: object) -> str:
    problem = presets.rule_problem(text(value))
    if problem:
        raise Bad(("", problem))
    return str(value)


def whole(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Bad(("", f"expected a whole number from {least} to {most}, got {what(value)}"))
        return value

    return read


def optional(read: Callable[[object], T]) -> Callable[[object], T | None]:
    return lambda value: None if value is None else read(value)


def several(read: Callable[[object], T], least: int = 0, twice: bool = False) -> Callable[[object], tuple[T, ...]]:
    def read_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise Bad(("", f"expected a list, got {what(value)}"))
        if len(value) < least:
            raise Bad(("", "expected at least one entry"))
        out: list[T] = []
        problems: list[tuple[str, str]] = []
        for index, entry in enumerate(value):
            try:
                made = read(entry)
            except Bad as bad:
                problems.extend((f"[{index}]{where}", sentence) for where, sentence in bad.problems)
                continue
            if made in out and not twice:
                problems.append((f"[{index}]", f"{made!r} is there twice"))
            out.append(made)
        if problems:
            raise Bad(*problems)
        return tuple(out)

    return read_all


paths = several(path, least=1)
command = several(text, least=1, twice=True)
state_dir_or_none = optional(state_dir)


class UniqueKeys(yaml.SafeLoader):
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
