"""Free ports, from a block that no other test process on this machine uses.

A port is found free first and bound by HAProxy or an origin later, so two processes must not look in the same place.
Each locks a block for as long as it lives. All blocks lie below the ports that the kernel gives to clients.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FIRST, BLOCK, BLOCKS = 10_000, 400, 55


@cache
def _ports() -> Iterator[int]:
    """The ports of a block, over and over; the block is this process's until it ends."""
    folder = Path(tempfile.gettempdir()) / f"lbagent-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for block in random.sample(range(BLOCKS), BLOCKS):
        descriptor = os.open(folder / str(block), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        first = FIRST + block * BLOCK  # the descriptor stays open: closing it would end the lock
        return itertools.cycle(range(first, first + BLOCK))
    raise AssertionError(f"every block of ports is in use: see {folder}")


def free_port() -> int:
    """A port that nobody listens on."""
    for port in _ports():
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
