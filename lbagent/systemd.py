"""systemd: ready, watchdog, status line, sockets passed on. Source: sd_notify(3), sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
import time

# Not `import systemd`: with the repository's root on the path that succeeds on the folder of units.
from systemd import daemon  # type: ignore[attr-defined]  # mypy sees the folder too


def ready(line: str) -> None:
    daemon.notify(f"READY=1\nSTATUS={line}")


def reloading() -> None:
    daemon.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    daemon.notify("STOPPING=1")


def status(line: str) -> None:
    daemon.notify(f"STATUS={line}")


def alive() -> None:
    """Feeds the watchdog; called by the working loop after each tick, so that alive means progressing."""
    daemon.notify("WATCHDOG=1")


def sockets() -> list[socket.socket]:
    """Listening unix sockets that systemd holds open for us; none when started by hand."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    return [socket.socket(fileno=number) for number in daemon.listen_fds(unset_environment=True)]
