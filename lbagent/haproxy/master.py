"""HAProxy's master socket: which workers live, and a channel to each. Blocking.

Source: HAProxy's management guide, section 9.4. Two habits of the master matter here: it does not close a
connection before the writing half is shut, and while a reload is under way it may refuse or reset connections
for some tens of milliseconds, which is neither "no workers" nor "HAProxy is down": ask again.
"""

from __future__ import annotations

import re
import socket
import time

from lbagent.errors import HAProxyDown

TIMEOUT = 1.0  # seconds without a byte
LONGEST = 5.0  # seconds for a whole answer
PATIENCE = 0.3  # seconds for a master that is re-executing itself; a tick later it is asked again
PAUSE = 0.02  # seconds between two tries


PID = re.compile(r"[0-9]{1,10}")


class Master:
    def __init__(self, path: str) -> None:
        self._path = path

    def workers(self) -> tuple[int | None, tuple[int, ...]]:
        """(the current worker's pid, the old workers' pids), from ``show proc``.

        The current one is None while a reload has not brought it up. HAProxyDown when the master does not answer.
        """
        rows = self.ask("show proc")
        current: int | None = None
        old: list[int] = []
        section = ""
        for row in rows:
            if row.startswith("#"):
                section = row[1:].strip()
                continue
            fields = row.split()
            if len(fields) >= 2 and fields[1] == "worker" and PID.fullmatch(fields[0]):
                if section == "old workers":
                    old.append(int(fields[0]))
                elif current is None:
                    current = int(fields[0])
                else:
                    old.append(int(fields[0]))
        return current, tuple(old)

    def ask(self, text: str) -> list[str]:
        """The lines of the answer to ``text``; a connection that the master refuses is tried again for a while."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._once(text)
            except TimeoutError as error:
                raise HAProxyDown(f"HAProxy's master does not answer on {self._path}") from error
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise HAProxyDown(f"HAProxy's master does not answer on {self._path}: {error}") from error
                time.sleep(PAUSE)

    def _once(self, text: str) -> list[str]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(self._path)
            connection.sendall(text.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            chunks = []
            deadline = time.monotonic() + LONGEST
            while chunk := connection.recv(65536):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError("the answer has no end")
        if not chunks:
            raise ConnectionResetError("closed without an answer")
        return b"".join(chunks).decode("utf-8", "replace").removesuffix("\n").split("\n")


class WorkerSocket:
    """The transport to one worker, old or new. ``@!PID`` on a line of its own takes every later line along."""

    def __init__(self, master: Master, pid: int) -> None:
        self._master, self._pid = master, pid

    def run(self, text: str) -> list[str]:
        lines = self._master.ask(f"@!{self._pid}\n{text}")
        if lines and "Can't find the target" in lines[0]:
            raise HAProxyDown(f"worker {self._pid} is gone")
        if len(lines) > 1 and lines[-1] == "":
            lines.pop()
        return lines
