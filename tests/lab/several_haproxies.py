"""A control plane of three hosts, each a network namespace with an HAProxy, an agent and an etcd member of its own.

The origins listen on the bridge between them and log; ``ctl1`` … are 10.X.Y.1 …, clients come from the bridge.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.lab.one_haproxy import HAPROXY, Agent, Answer, Entry, HAProxy, Origin, ask, eventually

PORTS = {"nova": 8774, "keystone": 5000}
_numbers = itertools.count(random.randrange(200))


def sh(*words: object, check: bool = True) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(map(str, words))}: {done.stderr}"
    return done.stdout


class Net:
    """A bridge of its own, a namespace a host."""

    def __init__(self, hosts: list[str]) -> None:
        for _ in range(200):
            third = (next(_numbers) * 7 + os.getpid()) % 250
            self.subnet, self.tag = f"10.99.{third}", f"lb{third}"
            if subprocess.run(["ip", "link", "add", f"{self.tag}br", "type", "bridge"], capture_output=True).returncode:  # noqa: PLW1510 taken: the next one
                continue
            break
        self.bridge, self.host = f"{self.tag}br", f"{self.subnet}.254"
        sh("ip", "address", "add", f"{self.host}/24", "dev", self.bridge)
        sh("ip", "link", "set", self.bridge, "up")
        self.address = {name: f"{self.subnet}.{i + 1}" for i, name in enumerate(hosts)}
        self.vip = f"{self.subnet}.100"
        for name in hosts:
            space, inside, outside = self.space(name), self.card(name), self.port(name)
            sh("ip", "netns", "add", space)
            sh("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
            sh("ip", "link", "set", inside, "netns", space)
            sh("ip", "link", "set", outside, "master", self.bridge, "up")
            sh("ip", "-n", space, "address", "add", f"{self.address[name]}/24", "dev", inside)
            sh("ip", "-n", space, "link", "set", inside, "up")
            sh("ip", "-n", space, "link", "set", "lo", "up")

    def space(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def card(self, name: str) -> str:
        """The host's own end."""
        return f"{self.tag}i{name}"

    def neighbour(self) -> str:
        """The hardware address that clients send to for the virtual address; empty when they would have to ask."""
        rows = json.loads(sh("ip", "-j", "neighbour", "show", self.vip, "dev", self.bridge) or "[]")
        return rows[0].get("lladdr", "") if rows else ""

    def port(self, name: str) -> str:
        """The host's end at the bridge: pull it and the host is cut off."""
        return f"{self.tag}o{name}"

    def inside(self, name: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.space(name))

    def cut(self, name: str) -> None:
        sh("ip", "link", "set", self.port(name), "down")

    def heal(self, name: str) -> None:
        sh("ip", "link", "set", self.port(name), "up")

    def close(self) -> None:
        for name in self.address:
            sh("ip", "netns", "delete", self.space(name), check=False)
            sh("ip", "link", "delete", self.port(name), check=False)
        sh("ip", "link", "delete", self.bridge, check=False)


class Etcd:
    """One member of etcd, of as many as there are hosts."""

    def __init__(self, folder: Path, name: str, net: Net, options: tuple[str, ...] = ()) -> None:
        self.folder, self.name, self.net, self.options = folder, name, net, options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.net.address[self.name]}:2379"

    def start(self, *more: str) -> None:
        peers = {name: f"http://{address}:2380" for name, address in self.net.address.items()}
        self.process = subprocess.Popen(
            [
                *self.net.inside(self.name),
                "etcd",
                *("--name", self.name, "--data-dir", str(self.folder / f"etcd-{self.name}")),
                *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                *("--listen-peer-urls", peers[self.name], "--initial-advertise-peer-urls", peers[self.name]),
                *("--initial-cluster", ",".join(f"{n}={u}" for n, u in peers.items())),
                *("--log-level", "error"),
                *self.options,
                *more,
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / f"etcd-{self.name}.log").open("ab"),
        )

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None


class Keepalived:
    """The host's keepalived, with a configuration for the addresses of ``net``."""

    def __init__(self, host: Host, net: Net, text: str) -> None:
        self.host, self.net = host, net
        self.config, self.log = host.folder / "keepalived.conf", host.folder / "keepalived.log"
        self.config.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Keepalived:
        self.process = subprocess.Popen(
            [
                *self.net.inside(self.host.name),
                *("keepalived", "--dont-fork", "--vrrp", "--log-console", "--log-detail", "--no-syslog"),
                *("--use-file", str(self.config)),
                *("--pid", str(self.host.folder / "keepalived.pid")),
                *("--vrrp_pid", str(self.host.folder / "vrrp.pid")),
            ],
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
        )
        return self

    def stop(self) -> None:
        """As systemd does: it takes its address away."""
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


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
        self.haproxy.config.write_text(control.haproxy_text(self))
        self.agent = Agent(self.folder, control.settings(self), inside)
        self.agent.ok("haproxy", "adopt", str(self.haproxy.config), "--write")

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
        self.net = Net(self.names)
        self.bind, self.vip = bind, vip
        self.more, self.check = settings or {}, check or "check inter 200 fall 2 rise 2"
        self.origins = {
            node: {service: Origin(f"{node}/{service}", host=self.net.host).start() for service in PORTS}
            for node in self.names
        }
        self.etcd = {name: Etcd(self.folder, name, self.net) for name in self.names}
        self.host = {name: Host(self, name) for name in self.names}
        self.hosts = list(self.host.values())
        self.keepalived = {h.name: Keepalived(h, self.net, vip(self, h)) for h in self.hosts} if vip else {}

    def haproxy_text(self, host: Host) -> str:
        text = f"""global
  stats socket {host.haproxy.socket} mode 660 level admin
  hard-stop-after 30s
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout queue 10s
  timeout check 2s
  option redispatch
  retries 3
"""
        for service, port in PORTS.items():
            text += f"frontend {service}_public\n  bind :{port} {self.bind}\n  default_backend {service}\n"
            text += f"backend {service}\n  option httpchk GET /health\n"
            for node in self.names:
                text += f"  server {node} {self.net.host}:{self.origins[node][service].port} {self.check}\n"
        return text

    def settings(self, host: Host) -> dict[str, Any]:
        return {
            "node": host.name,
            "haproxy": {
                "socket": str(host.haproxy.socket),
                "master_socket": str(host.haproxy.master_socket),
                "config": [str(host.haproxy.config)],
                "state_dir": str(host.folder / "state"),
                "check_command": [HAPROXY, "-c"],
                **({"vip_track_file": str(host.track)} if self.vip else {}),
                **self.more.get("haproxy", {}),
            },
            "control": {"socket": str(host.folder / "l.sock")},
            "metrics": {"listen": "127.0.0.1:9779"},
            "store": {
                "path": str(host.folder / "intent.json"),
                "etcd": {"endpoints": self.endpoints(host.name), "prefix": "/lbagent"},
            },
            **{k: v for k, v in self.more.items() if k != "haproxy"},
        }

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


def now() -> float:
    return time.time()
