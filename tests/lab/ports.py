"""Free ports, a range of its own for each test worker."""

from __future__ import annotations

import contextlib
import os
import random
import socket


def _worker_number() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 20


_next_port = 20000 + 600 * _worker_number() + random.randrange(0, 580)  # two runs on one machine should not meet


def free_port() -> int:
    """A port that nobody listens on; each test worker counts through a range of its own."""
    global _next_port  # noqa: PLW0603 a counter
    while True:
        _next_port += 1
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", _next_port))
                return _next_port
