"""A real HAProxy in master-worker mode."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.lab.wait import eventually

HAPROXY = os.environ.get("LBAGENT_TEST_HAPROXY", shutil.which("haproxy") or "/usr/sbin/haproxy")


class HAProxy:
    """A real HAProxy in master-worker mode, with its sockets and configuration in ``folder``.

    ``master`` is what is given to ``-S`` behind the path of the master socket; None: HAProxy has no such socket.
    """

    def __init__(self, folder: Path, prefix: tuple[str, ...] = (), master: str | None = "") -> None:
        self.folder, self.prefix, self.master = folder, prefix, master  # prefix: what it is started through
        self.config = folder / "haproxy.cfg"
        self.socket, self.master_socket = folder / "admin.sock", folder / "master.sock"
        self.pidfile = folder / "haproxy.pid"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, patience: float = 15.0) -> None:
        """AssertionError when it does not answer within ``patience`` seconds."""
        listening = [] if self.master is None else ["-S", f"{self.master_socket}{self.master}"]
        self._process = subprocess.Popen(
            [*self.prefix, HAPROXY, "-W", "-db", *listening, "-f", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "haproxy.log").open("ab"),
        )
        self.wait_up(patience)

    def wait_up(self, patience: float = 15.0) -> None:
        log = self.folder / "haproxy.log"
        eventually(self._answers, lambda: "HAProxy answers: " + log.read_text()[-2000:], patience)

    def _answers(self) -> bool:
        try:
            return "Pid:" in self.run("show info")
        except OSError:
            return False

    def run(self, command: str, path: Path | None = None) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(path or self.socket))
            connection.sendall(command.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def pid(self) -> int:
        return int(next(r for r in self.run("show info").splitlines() if r.startswith("Pid:")).split()[1])

    def reload(self) -> None:
        """SIGUSR2 to the master; returns when another worker answers."""
        before = self.pid()
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR2)
        try:
            eventually(lambda: self._answers() and self._other(before), "a new worker answers", 3)
        except AssertionError:  # a master that is still busy with the reload before loses the signal
            self._process.send_signal(signal.SIGUSR2)
            eventually(lambda: self._answers() and self._other(before), "a new worker answers", 30)

    def _other(self, before: int) -> bool:
        with contextlib.suppress(OSError, StopIteration):
            return self.pid() != before
        return False

    def kill(self) -> None:
        """kill -9 of the master and every worker."""
        if self._process is None:
            return
        listed = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True, check=False)
        self._process.kill()
        for pid in listed.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self._process.wait(10)
        self._process = None

    def server(self, ref: str) -> dict[str, str]:
        """A server's columns in `show servers state`."""
        rows = [line.split() for line in self.run("show servers state").splitlines()[1:] if line]
        columns = rows[0][1:]
        backend, name = ref.split("/")
        return next(dict(zip(columns, r, strict=False)) for r in rows[1:] if (r[1], r[3]) == (backend, name))
