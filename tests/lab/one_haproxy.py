"""One HAProxy with three nodes behind it, an agent beside it, and clients: what most tests use."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab.agent import Agent, settings_for
from tests.lab.configuration import CHECK, Backend, Configuration, Frontend, Server, head
from tests.lab.haproxy import HAProxy
from tests.lab.origins import Entry, Origin
from tests.lab.ports import free_port
from tests.lab.wait import eventually


class Lab:
    """Nodes ctl1…, services with one backend each, HAProxy adopted and running, an agent beside it.

    ``port[name]`` is a service's public frontend, ``internal[name]`` its internal one. ``configuration`` is what
    haproxy.cfg was written from: change it and call :meth:`install`, as configuration management does.
    """

    def __init__(
        self,
        services: tuple[str, ...] = ("nova", "keystone"),
        nodes: int = 3,
        *,
        check: str = CHECK,
        backend: dict[str, str] | None = None,
        extra: str = "",
        settings: dict[str, Any] | None = None,
        master: bool = True,
        guard: bool = True,
        global_lines: str = "",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lba-", dir="/tmp"))  # short: a unix socket's path has 107 bytes
        self.folder.chmod(0o755)
        self.nodes = [f"ctl{i + 1}" for i in range(nodes)]
        self.port = {name: free_port() for name in services}
        self.internal = {name: free_port() for name in services}
        self.origins = {node: {name: Origin(f"{node}/{name}").start() for name in services} for node in self.nodes}
        self.haproxy = HAProxy(self.folder)
        self.state = self.folder / "state"
        lines = ("hard-stop-after 60s", *global_lines.splitlines())
        self.configuration = Configuration(head(self.haproxy.socket, lines), extra=extra)
        for name in services:
            self._serve(name, check, (backend or {}).get(name, ""))
        self.agent = Agent(self.folder, settings_for(self.folder, self.haproxy, "ctl1", settings, master=master))
        self.install(guard=guard)

    def _serve(self, name: str, check: str, lines: str) -> None:
        health = ["option httpchk GET /health"] if "check" in check else []
        made = Backend(name, lines=[*health, *lines.splitlines()])
        for node in self.nodes:
            cookie = f"cookie {node} " if "cookie" in lines else ""
            made.servers.append(Server(node, self.origins[node][name].port, words=f"{cookie}{check}"))
        for scope, port in (("public", self.port[name]), ("internal", self.internal[name])):
            self.configuration.add(Frontend(f"{name}_{scope}", f"127.0.0.1:{port}", name))
        self.configuration.add(made)

    def install(self, guard: bool = True) -> None:
        """Write haproxy.cfg anew, guarded. HAProxy does not reload by this."""
        self.agent.install(str(self.configuration), guard)

    def start(self) -> Lab:
        self.haproxy.start()
        self.agent.start()
        if "check" in self.haproxy.config.read_text():
            eventually(self._healthy, "every server is up")
        return self

    def _healthy(self) -> bool:
        servers = [s for service in self.agent.status()["services"] for s in service["servers"]]
        return bool(servers) and all(s["health"] != "down" for s in servers)

    def requests(self, node: str, since: float = 0.0, service: str | None = None) -> list[Entry]:
        """What a node's origins were asked."""
        return [
            e for name, origin in self.origins[node].items() if service in (None, name) for e in origin.requests(since)
        ]

    def let_go(self) -> None:
        """Answer what waits by now, on every node."""
        for origins in self.origins.values():
            for origin in origins.values():
                origin.let_go()

    def close(self) -> None:
        self.agent.kill()
        self.haproxy.kill()
        for services in self.origins.values():
            for origin in services.values():
                origin.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running_lab(*arguments: Any, **settings: Any) -> Iterator[Lab]:
    made = Lab(*arguments, **settings)
    try:
        yield made.start()
    finally:
        made.close()
