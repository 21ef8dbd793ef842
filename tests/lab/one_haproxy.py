"""One HAProxy with three nodes behind it, an agent beside it, and clients: what most tests use."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
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
    ``by_address``: each node has an address of its own, by which the agent's configuration knows it; its servers are
    called ``api1``…, so that no name says where they are; a service has the same port on all nodes.
    ``tcp`` names `listen` sections in `mode tcp`.
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
        by_address: bool = False,
        tcp: tuple[str, ...] = (),
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lba-", dir="/tmp"))  # short: a unix socket's path has 107 bytes
        self.folder.chmod(0o755)
        self.nodes = [f"ctl{i + 1}" for i in range(nodes)]
        self.by_address = by_address
        self.address = {n: f"127.0.0.{10 + i}" if by_address else "127.0.0.1" for i, n in enumerate(self.nodes, 1)}
        self.port: dict[str, int] = {}
        self.internal: dict[str, int] = {}
        self.origins: dict[str, dict[str, Origin]] = {node: {} for node in self.nodes}
        self.haproxy = HAProxy(self.folder, master="" if master else None)
        self.state = self.folder / "state"
        lines = ("hard-stop-after 60s", *global_lines.splitlines())
        self.configuration = Configuration(head(self.haproxy.socket, lines), extra=extra)
        for name in services:
            self.serve(name, (backend or {}).get(name, ""), check)
        for name in tcp:
            self.serve_tcp(name, (backend or {}).get(name, ""), check)
        more = {"nodes": {node: {"addresses": [address]} for node, address in self.address.items()}}
        more = {**(more if by_address else {}), **(settings or {})}
        self.agent = Agent(self.folder, settings_for(self.folder, self.haproxy, "ctl1", more, master=master))
        self.install(guard=guard)

    def serve(self, name: str, lines: str = "", check: str = CHECK) -> Backend:
        """Add a backend with an origin on each node, and its frontends. :meth:`install` it once HAProxy runs."""
        self.port[name], self.internal[name] = free_port(), free_port()
        for scope, port in (("public", self.port[name]), ("internal", self.internal[name])):
            self.configuration.add(Frontend(f"{name}_{scope}", f"127.0.0.1:{port}", name))
        health = "option httpchk GET /health\n" if "check" in check else ""
        return self._backend(name, f"{health}{lines}", check)

    def serve_tcp(self, name: str, lines: str = "", check: str = CHECK) -> Backend:
        """Add a `listen` section in `mode tcp`: what databases and queues have."""
        self.port[name] = free_port()
        return self._backend(name, f"mode tcp\n{lines}", check, f"127.0.0.1:{self.port[name]}")

    def _backend(self, name: str, lines: str, check: str, bind: str = "") -> Backend:
        made = Backend(name, lines=lines.splitlines(), bind=bind)
        port = free_port() if self.by_address else None
        for number, node in enumerate(self.nodes, 1):
            origin = Origin(f"{node}/{name}", port, self.address[node]).start()
            self.origins[node][name] = origin
            server = f"api{number}" if self.by_address else node
            cookie = f"cookie {server} " if re.search(r"^\s*cookie ", lines, re.M) else ""
            made.servers.append(Server(server, origin.port, origin.host, f"{cookie}{check}"))
        self.configuration.add(made)
        return made

    def install(self, guard: bool = True) -> None:
        """Write haproxy.cfg anew, guarded. HAProxy does not reload by this."""
        self.agent.install(str(self.configuration), guard)

    def reload(self, guard: bool = True) -> float:
        """Install the configuration and reload HAProxy; when the new worker answered."""
        self.install(guard)
        self.haproxy.reload()
        return time.time()

    def start(self) -> Lab:
        self.haproxy.start()
        self.agent.start()
        if "check" in self.haproxy.config.read_text():
            eventually(self._healthy, "every server is up")
        return self

    def _healthy(self) -> bool:
        servers = [s for service in self.agent.status()["services"] for s in service["servers"]]
        return bool(servers) and all(s["health"] != "down" or s["admin"] == "maint" for s in servers)

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
