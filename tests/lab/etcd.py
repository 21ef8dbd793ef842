"""etcd: one member on loopback, or a member on each host of a network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.lab.network import Network
from tests.lab.ports import free_port
from tests.lab.wait import eventually


class EtcdMember:
    """One member of etcd, of as many as there are hosts."""

    def __init__(self, folder: Path, name: str, net: Network, options: tuple[str, ...] = ()) -> None:
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


class OneEtcd:
    """An etcd of one member on loopback; ``options`` are what it is started with besides."""

    def __init__(self, folder: Path, *options: str, scheme: str = "http") -> None:
        self.folder, self.options = folder, options
        self.port, self.peer, self.scheme = free_port(), free_port(), scheme
        self.client_options: tuple[str, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self, data: str = "data") -> OneEtcd:
        peer = f"http://127.0.0.1:{self.peer}"
        self.process = subprocess.Popen(
            [
                *("etcd", "--name", "one", "--data-dir", self.folder / data, "--log-level", "error"),
                *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                *(
                    "--listen-peer-urls",
                    peer,
                    "--initial-advertise-peer-urls",
                    peer,
                    "--initial-cluster",
                    f"one={peer}",
                ),
                *self.options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "etcd.log").open("ab"),
        )
        eventually(
            lambda: "is healthy" in self.ctl("endpoint", "health", check=False),
            lambda: "etcd answers: " + (self.folder / "etcd.log").read_text()[-2000:],
        )
        return self

    def ctl(self, *words: str, check: bool = True, text: str = "") -> str:
        done = subprocess.run(
            ["etcdctl", "--endpoints", self.url, "--command-timeout", "2s", *self.client_options, *words],
            capture_output=True,
            input=text,
            text=True,
            check=False,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout + done.stderr

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def create_user(self) -> None:
        """As the manual says: a role for what is below the prefix, a user that has nothing else."""
        for line in (
            "user add root:top",
            "user grant-role root root",
            "role add lbagent",
            "role grant-permission lbagent readwrite --prefix=true /lbagent/",
            "user add lbagent:secret",
            "user grant-role lbagent lbagent",
            "auth enable",
        ):
            self.ctl(*line.split())
        self.client_options = ("--user", "root:top")
