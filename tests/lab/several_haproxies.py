"""Several HAProxies that share one intent: an HAProxy, an agent and an etcd member on each host.

The origins listen on the bridge between them and log: those of ``ctl1`` at 10.X.Y.201, while its HAProxy is 10.X.Y.1.
Clients come from the bridge.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.lab.agent import Agent, settings_for
from tests.lab.clients import Answer, ask
from tests.lab.configuration import CHECK, Backend, Configuration, Frontend, Server, head
from tests.lab.etcd import EtcdMember
from tests.lab.haproxy import HAProxy
from tests.lab.keepalived import Keepalived
from tests.lab.network import Network, sh
from tests.lab.origins import Entry, Origin
from tests.lab.wait import eventually

PORTS = {"nova": 8774, "keystone": 5000}


class Host:
    def __init__(self, control: ControlPlane, name: str) -> None:
        self.name, self.address = name, control.net.address[name]
        self.folder = control.folder / name
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self.track = self.folder / "track" / "vip"
        self.track.parent.mkdir()
        inside = control.net.inside(name)
        self.haproxy = HAProxy(self.folder, inside)
        self.configuration = control.configuration(self)
        self.agent = Agent(self.folder, control.settings(self), inside)
        self.install()

    def install(self) -> None:
        """Write haproxy.cfg anew, guarded. HAProxy does not reload by this."""
        self.agent.install(str(self.configuration))

    def ask(self, service: str = "nova", method: str = "GET", path: str = "/v2", **more: Any) -> Answer:
        return ask(PORTS[service], method, path, host=self.address, **more)

    def agent_of(self, name: str) -> dict[str, Any]:
        """What this host's status says of another's agent."""
        return next(a for a in self.agent.status()["agents"] if a["node"] == name)


class ControlPlane:
    """``hosts`` controllers, ``ctl1`` …; etcd on each of them."""

    def __init__(
        self,
        hosts: int = 3,
        settings: dict[str, Any] | None = None,
        check: str = "",
        bind: str = "",
        vip: Callable[[ControlPlane, Host], str] | None = None,
    ) -> None:
        """``bind`` is added to HAProxy's bind lines; ``vip`` gives keepalived's configuration on a host."""
        self.folder = Path(tempfile.mkdtemp(prefix="lba-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.names = [f"ctl{i + 1}" for i in range(hosts)]
        self.net = Network(self.names)
        self.bind, self.vip = bind, vip
        self.more, self.check = settings or {}, check or CHECK
        self.origins = {
            node: {
                service: Origin(f"{node}/{service}", port, self.net.origin[node]).start()
                for service, port in PORTS.items()
            }
            for node in self.names
        }
        self.etcd = {name: EtcdMember(self.folder, name, self.net) for name in self.names}
        self.host = {name: Host(self, name) for name in self.names}
        self.hosts = list(self.host.values())
        self.keepalived = {}
        for h in self.hosts if vip else ():
            self.keepalived[h.name] = Keepalived(h.folder, h.name, self.net, vip(self, h))

    def configuration(self, host: Host) -> Configuration:
        made = Configuration(head(host.haproxy.socket, ["hard-stop-after 30s"], check="2s"))
        for service, port in PORTS.items():
            servers = [Server(node, port, self.net.origin[node], self.check) for node in self.names]
            made.add(
                Frontend(f"{service}_public", f":{port} {self.bind}".strip(), service),
                Backend(service, servers, ["option httpchk GET /health"]),
            )
        return made

    def settings(self, host: Host) -> dict[str, Any]:
        track = {"vip_track_file": str(host.track)} if self.vip else {}
        etcd = {"endpoints": self.endpoints(host.name), "prefix": "/lbagent"}
        more = {
            "metrics": {"listen": "127.0.0.1:9779"},
            "store": {"path": str(host.folder / "intent.json"), "etcd": etcd},
            **self.more,
            "haproxy": {**track, **self.more.get("haproxy", {})},
        }
        return settings_for(host.folder, host.haproxy, host.name, more)

    def endpoints(self, first: str = "") -> list[str]:
        """Its own member first, as deployers do."""
        return [self.etcd[name].url for name in sorted(self.names, key=lambda n: n != first)]

    def start(self) -> ControlPlane:
        for member in self.etcd.values():
            member.start()
        eventually(self.etcd_answers, "etcd answers")
        for host in self.hosts:
            host.haproxy.start()
            host.agent.start(in_sync=False)
        eventually(self.agree, lambda: f"all agree: {[h.agent.status() for h in self.hosts]}")
        eventually(self.healthy, "every server is up on every HAProxy")
        for daemon in self.keepalived.values():  # the first of them first: with nopreempt whoever has it keeps it
            daemon.start()
            self.address_is_on(self.names[0])
        return self

    def holders(self) -> list[str]:
        """Hosts that have the virtual address."""
        return [
            n for n in self.names if f" {self.net.vip}/" in sh("ip", "-n", self.net.space(n), "-4", "address", "show")
        ]

    def address_is_on(self, name: str, seconds: float = 15.0) -> float:
        """Seconds until only this host has the virtual address, and the clients' neighbour table says so."""
        began = time.monotonic()
        card = json.loads(sh("ip", "-n", self.net.space(name), "-j", "link", "show", self.net.card(name)))[0]["address"]
        eventually(
            lambda: self.holders() == [name] and self.net.neighbour() in (card, ""),
            lambda: f"the address is on {self.holders()}, not {name}: {self.log()}",
            seconds,
        )
        return time.monotonic() - began

    def etcd_answers(self) -> bool:
        return "is healthy" in self.ctl("endpoint", "health", check=False)

    def ctl(self, *words: str, check: bool = True, endpoints: list[str] | None = None) -> str:
        """etcdctl, from outside the hosts."""
        where = ",".join(endpoints or self.endpoints())
        done = subprocess.run(
            ["etcdctl", "--endpoints", where, "--command-timeout", "2s", *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout + done.stderr

    def leader(self) -> str:
        rows = json.loads(self.ctl("endpoint", "status", "-w", "json").splitlines()[0])
        leader = next(r["Status"]["leader"] for r in rows)
        url = next(r["Endpoint"] for r in rows if r["Status"]["header"]["member_id"] == leader)
        return next(n for n, m in self.etcd.items() if m.url == url)

    def agree(self, names: list[str] | None = None) -> bool:
        """Every HAProxy has the newest revision in force, as seen from each."""
        for name in names or self.names:
            status = self.host[name].agent.status()
            for agent in status["agents"]:
                if agent["node"] in (names or self.names) and not (
                    agent["alive"] and agent["in_sync"] and agent["revision"] == status["revision"]
                ):
                    return False
            if {a["node"] for a in status["agents"]} < set(names or self.names) or not status["haproxy"]["in_sync"]:
                return False
        return True

    def healthy(self) -> bool:
        return all(
            server["health"] == "up"
            for host in self.hosts
            for service in host.agent.status()["services"]
            for server in service["servers"]
        )

    def requests(self, node: str, since: float = 0.0, service: str | None = None) -> list[Entry]:
        return [
            e for name, origin in self.origins[node].items() if service in (None, name) for e in origin.requests(since)
        ]

    def log(self) -> str:
        logs = [h.agent.log for h in self.hosts] + [k.log for k in self.keepalived.values()]
        return "\n".join(f"== {log}\n{log.read_text()[-3000:]}" for log in logs if log.exists())

    def close(self) -> None:
        for daemon in self.keepalived.values():
            daemon.stop()
        for host in self.hosts:
            host.agent.kill()
            host.haproxy.kill()
        for member in self.etcd.values():
            member.kill()
        for services in self.origins.values():
            for origin in services.values():
                origin.stop()
        self.net.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def control_plane(*arguments: Any, **settings: Any) -> Iterator[ControlPlane]:
    made = ControlPlane(*arguments, **settings)
    try:
        yield made.start()
    finally:
        made.close()
