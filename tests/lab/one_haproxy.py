"""One HAProxy with three nodes behind it, an agent beside it, and clients: what most tests use."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab.agent import Agent
from tests.lab.haproxy import HAPROXY, HAProxy
from tests.lab.origins import Entry, Origin
from tests.lab.ports import free_port
from tests.lab.wait import eventually


class Lab:
    """Nodes ctl1…, services with one backend each, HAProxy adopted and running, an agent beside it.

    ``port[name]`` is a service's public frontend, ``internal[name]`` its internal one.
    """

    def __init__(
        self,
        services: tuple[str, ...] = ("nova", "keystone"),
        nodes: int = 3,
        *,
        check: str = "check inter 200 fall 2 rise 2",
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
        self.haproxy.config.write_text(self._text(services, check, backend or {}, extra, global_lines))
        self.agent = Agent(
            self.folder,
            {
                "node": "ctl1",
                "haproxy": {
                    "socket": str(self.haproxy.socket),
                    "config": [str(self.haproxy.config)],
                    "state_dir": str(self.state),
                    "check_command": [HAPROXY, "-c"],
                    **({"master_socket": str(self.haproxy.master_socket)} if master else {}),
                },
                "control": {"socket": str(self.folder / "l.sock")},
                "metrics": {"listen": f"127.0.0.1:{free_port()}"},
                "store": {"path": str(self.folder / "intent.json")},
                **(settings or {}),
            },
        )
        if guard:
            self.agent.ok("haproxy", "adopt", str(self.haproxy.config), "--write")

    def _text(self, services: tuple[str, ...], check: str, backend: dict[str, str], extra: str, more: str) -> str:
        text = f"""global
  stats socket {self.haproxy.socket} mode 660 level admin
  hard-stop-after 60s
{more}
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout queue 10s
  timeout check 3s
  option redispatch
  retries 3
"""
        for name in services:
            text += f"frontend {name}_public\n  bind 127.0.0.1:{self.port[name]}\n  default_backend {name}\n"
            text += f"frontend {name}_internal\n  bind 127.0.0.1:{self.internal[name]}\n  default_backend {name}\n"
            text += f"backend {name}\n"
            text += "  option httpchk GET /health\n" if "check" in check else ""
            text += backend.get(name, "")
            for node in self.nodes:
                cookie = f" cookie {node}" if "cookie" in backend.get(name, "") else ""
                text += f"  server {node} 127.0.0.1:{self.origins[node][name].port}{cookie} {check}\n"
        return text + extra

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
