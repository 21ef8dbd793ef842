"""HAProxy and an agent in front of two real Keystones."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.lab.agent import Agent
from tests.lab.haproxy import HAPROXY, HAProxy
from tests.lab.keystone import Keystones
from tests.lab.openstack import PASSWORD
from tests.lab.ports import free_port
from tests.lab.wait import eventually


class Cloud:
    """HAProxy, adopted, with an agent, in front of two Keystones; ``behind``: more services, name → origin's port."""

    def __init__(self, behind: dict[str, int] | None = None, settings: dict[str, Any] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lbo-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.behind = behind or {}
        self.port = {name: free_port() for name in ("keystone", *self.behind)}
        self.keystones = Keystones(self.folder, self.port["keystone"])
        self.haproxy = HAProxy(self.folder)
        self.haproxy.config.write_text(self._text())
        haproxy = {
            "socket": str(self.haproxy.socket),
            "master_socket": str(self.haproxy.master_socket),
            "config": [str(self.haproxy.config)],
            "state_dir": str(self.folder / "state"),
            "check_command": [HAPROXY, "-c"],
        }
        self.agent = Agent(
            self.folder,
            {
                "node": "ctl1",
                "haproxy": haproxy,
                "control": {"socket": str(self.folder / "l.sock")},
                "metrics": {"listen": f"127.0.0.1:{free_port()}"},
                "store": {"path": str(self.folder / "intent.json")},
                **(settings or {}),
            },
        )
        self.agent.ok("haproxy", "adopt", str(self.haproxy.config), "--write")

    def _text(self) -> str:
        text = f"""global
  stats socket {self.haproxy.socket} mode 660 level admin
  hard-stop-after 60s
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout queue 20s
  option redispatch
  retries 3
"""
        servers = {name: {"ctl1": port} for name, port in self.behind.items()} | {"keystone": self.keystones.port}
        for name, ports in servers.items():
            text += f"frontend {name}_public\n  bind 127.0.0.1:{self.port[name]}\n  default_backend {name}\n"
            text += f"backend {name}\n  balance roundrobin\n"
            for node, port in ports.items():
                text += f"  server {node} 127.0.0.1:{port} check inter 500 fall 3 rise 1\n"
        return text

    def start(self) -> Cloud:
        self.keystones.make()
        self.keystones.start()
        self.haproxy.start()
        self.agent.start()
        eventually(self._healthy, "every server is up", 30)
        return self

    def _healthy(self) -> bool:
        servers = [s for service in self.agent.status()["services"] for s in service["servers"]]
        return bool(servers) and all(s["health"] == "up" for s in servers)

    def login(self) -> dict[str, Any]:
        """The cloud's entry in a clouds.yaml."""
        auth = {
            "auth_url": f"http://127.0.0.1:{self.port['keystone']}/v3",
            "username": "admin",
            "password": PASSWORD,
            "project_name": "admin",
            "user_domain_id": "default",
            "project_domain_id": "default",
        }
        return {"auth": auth, "region_name": "RegionOne", "identity_api_version": 3}

    def close(self) -> None:
        self.agent.kill()
        self.haproxy.kill()
        self.keystones.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
