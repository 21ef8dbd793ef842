"""A real lbagent and its lbctl."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lab.haproxy import HAPROXY, HAProxy
from tests.lab.ports import free_port
from tests.lab.wait import eventually

BIN = Path(os.environ.get("LBAGENT_TEST_BIN", Path(sys.executable).parent))  # another version's programs, to compare


def settings_for(
    folder: Path, haproxy: HAProxy, node: str, more: dict[str, Any] | None = None, *, master: bool = True
) -> dict[str, Any]:
    """A configuration of an agent beside ``haproxy``, with all its files in ``folder``; ``more`` is laid over it."""
    more = more or {}
    return {
        "node": node,
        "control": {"socket": str(folder / "l.sock")},
        "metrics": {"listen": f"127.0.0.1:{free_port()}"},
        "store": {"path": str(folder / "intent.json")},
        **more,
        "haproxy": {
            "socket": str(haproxy.socket),
            "config": [str(haproxy.config)],
            "state_dir": str(folder / "state"),
            "check_command": [HAPROXY, "-c"],
            **({"master_socket": str(haproxy.master_socket)} if master else {}),
            **more.get("haproxy", {}),
        },
    }


class Agent:
    """A real lbagent and its lbctl."""

    patience = 15.0  # seconds for it to start

    def __init__(self, folder: Path, config: dict[str, Any], prefix: tuple[str, ...] = ()) -> None:
        self.folder, self.settings, self.prefix = folder, config, prefix
        self.config, self.socket = folder / "lbagent.yaml", folder / "l.sock"
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.program: tuple[str | Path, ...] = (BIN / "lbagent",)
        self.write()

    def write(self) -> None:
        self.config.write_text(json.dumps(self.settings))  # JSON is YAML

    def install(self, configuration: str, guard: bool = True) -> None:
        """Put haproxy.cfg in its place in one step, guarded before: HAProxy may reload at any moment."""
        place = Path(self.settings["haproxy"]["config"][0])
        new = place.with_suffix(".new")
        new.write_text(configuration)
        if guard:
            self.ok("haproxy", "adopt", str(new), "--write")
        new.replace(place)

    @property
    def metrics_port(self) -> int:
        return int(self.settings["metrics"]["listen"].rpartition(":")[2])

    def start(self, in_sync: bool = True) -> None:
        self.process = subprocess.Popen(
            [*self.prefix, *self.program, "--config", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("ab"),
            start_new_session=True,
        )
        eventually(self._serves, "the agent serves", self.patience)
        if in_sync:
            eventually(lambda: self.status()["haproxy"]["in_sync"], "the agent is in sync", self.patience)

    def _serves(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        return self.socket.exists() and self.lbctl("status", "--json").returncode == 0

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(15)
            self.process = None

    def kill(self) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # what it is started through may have it as a child
            self.process.wait(10)
            self.process = None

    def lbctl(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "lbctl", *arguments], capture_output=True, text=True, timeout=timeout, check=False, env=self.env()
        )

    def env(self) -> dict[str, str]:
        return {**os.environ, "LBAGENT_SOCKET": str(self.socket), "LBAGENT_CONFIG": str(self.config), "NO_COLOR": "1"}

    def ok(self, *arguments: str, timeout: float = 60.0) -> str:
        """lbctl that has to succeed; its output."""
        done = self.lbctl(*arguments, timeout=timeout)
        assert done.returncode == 0, f"lbctl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["env", "--default-signal=INT", BIN / "lbctl", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env(),
        )

    def status(self) -> dict[str, Any]:
        return json.loads(self.ok("status", "--json"))

    def service(self, name: str) -> dict[str, Any]:
        return next(s for s in self.status()["services"] if s["name"] == name)

    def node(self, name: str) -> dict[str, Any]:
        return next(n for n in self.status()["nodes"] if n["name"] == name)
