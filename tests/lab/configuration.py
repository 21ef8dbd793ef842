"""The one writer of HAProxy configurations for tests; deployers' own templates stand in the tests about them.

A :class:`Configuration` is data that a test may change and write again: add a backend, rename a server, disable one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

CHECK = "check inter 200 fall 2 rise 2"


@dataclass
class Server:
    """One ``server`` line; ``words`` is what follows the address."""

    name: str
    port: int
    host: str = "127.0.0.1"
    words: str = ""

    def __str__(self) -> str:
        return f"server {self.name} {self.host}:{self.port} {self.words}".rstrip()


@dataclass
class Backend:
    """A backend, or a ``listen`` section where it has a ``bind`` of its own; ``lines`` come before the servers."""

    name: str
    servers: list[Server] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    bind: str = ""

    def server(self, name: str) -> Server:
        return next(server for server in self.servers if server.name == name)

    def __str__(self) -> str:
        head = ["listen" if self.bind else "backend", self.name]
        lines = [f"bind {self.bind}"] if self.bind else []
        return section(" ".join(head), [*lines, *self.lines, *map(str, self.servers)])


@dataclass
class Frontend:
    """A frontend that leads to one backend."""

    name: str
    bind: str
    backend: str
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return section(f"frontend {self.name}", [f"bind {self.bind}", *self.lines, f"default_backend {self.backend}"])


@dataclass
class Configuration:
    """A whole file. ``extra`` is text that stands at its end as it is."""

    head: str
    frontends: dict[str, Frontend] = field(default_factory=dict)
    backends: dict[str, Backend] = field(default_factory=dict)
    extra: str = ""

    def add(self, *sections: Frontend | Backend) -> None:
        for one in sections:
            where: dict[str, Frontend] | dict[str, Backend]
            where = self.frontends if isinstance(one, Frontend) else self.backends
            where[one.name] = one  # type: ignore[assignment]

    def __str__(self) -> str:
        return "".join((self.head, *map(str, (*self.frontends.values(), *self.backends.values())), self.extra))


def section(title: str, lines: Iterable[str]) -> str:
    return "".join((f"{title}\n", *(f"  {line.strip()}\n" for line in lines if line.strip())))


def head(
    socket: Path | None = None,
    global_lines: Iterable[str] = ("hard-stop-after 60s",),
    *,
    connect: str = "2s",
    wait: str = "30s",
    queue: str = "10s",
    check: str = "3s",
) -> str:
    """``global`` and ``defaults``. ``wait`` is how long client and server may be silent."""
    stats = [f"stats socket {socket} mode 660 level admin"] if socket else []
    timeouts = {"connect": connect, "client": wait, "server": wait, "queue": queue, "check": check}
    defaults = [f"timeout {name} {value}" for name, value in timeouts.items()]
    defaults = ["mode http", *defaults, "option redispatch", "retries 3"]
    return section("global", [*stats, *global_lines]) + section("defaults", defaults)
