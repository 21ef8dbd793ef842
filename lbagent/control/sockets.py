"""Sockets to listen on, and who is at the other end of a TCP connection."""

from __future__ import annotations

import resource
import socket
import stat
from pathlib import Path

from lbagent.control.connections import OTHERS, PER_CLIENT, Client, Rank

KEPT_FILES = 256  # files that the agent needs itself
MANY_FILES = 16384  # as the unit has it


def make_room() -> int:
    """Raise the limit of files as far as it may be; how many connections each socket can hold for the crowd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(PER_CLIENT, min(OTHERS, (soft - KEPT_FILES) // 4))


def unix_listener(path: Path) -> socket.socket:
    """The control socket for an agent that systemd did not hand one. OSError where it cannot be made.

    Everyone may connect: who is there is known from the kernel, and few may do anything.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except FileNotFoundError:
        pass
    except ConnectionRefusedError:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(f"control.socket: {path} is there, and is no socket") from None
        path.unlink()
    else:
        raise OSError(f"another lbagent serves {path} already")
    finally:
        probe.close()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o666)
    return listener


def tcp_listener(address: str) -> socket.socket:
    """OSError says what is wrong with ``address``."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family)
    except OSError as error:
        raise OSError(f"{address}: {error.strerror}") from error


def by_address(connection: socket.socket) -> Client:
    """A client of a TCP socket: its address; of IPv6 the network, as a host there has as many addresses as it likes."""
    host = str(connection.getpeername()[0])
    return Client(":".join(host.split(":")[:4]) if ":" in host else host, Rank.OTHER)
