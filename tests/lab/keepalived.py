"""keepalived on a host."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.lab.network import Network


class Keepalived:
    """The host's keepalived, with a configuration for the addresses of ``net``."""

    def __init__(self, folder: Path, name: str, net: Network, text: str) -> None:
        self.folder, self.name, self.net = folder, name, net
        self.config, self.log = folder / "keepalived.conf", folder / "keepalived.log"
        self.config.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Keepalived:
        self.process = subprocess.Popen(
            [
                *self.net.inside(self.name),
                *("keepalived", "--dont-fork", "--vrrp", "--log-console", "--log-detail", "--no-syslog"),
                *("--use-file", str(self.config)),
                *("--pid", str(self.folder / "keepalived.pid")),
                *("--vrrp_pid", str(self.folder / "vrrp.pid")),
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
