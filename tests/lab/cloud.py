"""HAProxy and an agent in front of two real Keystones."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.lab.agent import Agent, settings_for
from tests.lab.configuration import Backend, Configuration, Frontend, Server, head
from tests.lab.haproxy import HAProxy
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
        self.agent = Agent(self.folder, settings_for(self.folder, self.haproxy, "ctl1", settings))
        self.agent.install(str(self._configuration()))

    def _configuration(self) -> Configuration:
        made = Configuration(head(self.haproxy.socket, connect="5s", wait="60s", queue="20s"))
        servers = {name: {"ctl1": port} for name, port in self.behind.items()} | {"keystone": self.keystones.port}
        for name, ports in servers.items():
            made.add(
                Frontend(f"{name}_public", f"127.0.0.1:{self.port[name]}", name),
                Backend(
                    name,
                    [Server(node, port, words="check inter 500 fall 3 rise 1") for node, port in ports.items()],
                    ["balance roundrobin"],
                ),
            )
        return made

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
