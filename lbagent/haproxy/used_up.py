"""A runtime socket that does not answer although HAProxy serves: told apart from an HAProxy that is down. Blocking.

HAProxy accepts ten connections on the runtime socket (``stats maxconn``). Ten idle ones lock everybody out, and also
what the master passes on to the worker: that comes in by the same frontend. But the master itself answers, and Linux
lists the connections to a socket, in ``/proc/net/unix``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from lbagent.errors import HAProxyError
from lbagent.haproxy.admin_socket import Silent
from lbagent.haproxy.master import Master

MAXCONN = 10  # HAProxy's default for `stats maxconn`

CONNECTED = "03"  # SS_CONNECTED, include/uapi/linux/net.h


class Unanswered(NamedTuple):
    """Why HAProxy cannot be asked."""

    why: str
    alive: bool  # it serves all the same
    used_up: bool  # every connection that its runtime socket takes is in use


def unanswered(path: str, error: HAProxyError, maxconn: int | None, master: Master | None) -> Unanswered:
    """What ``error``, from the runtime socket ``path``, means; ``maxconn`` is what HAProxy's configuration sets."""
    most = maxconn or MAXCONN
    if connections(path) >= most:
        why = (
            f"HAProxy serves, but its runtime socket {path} is used up: all of its {most} connections are open. Close "
            "what holds them, or raise `stats maxconn` in HAProxy's global section"
        )
        return Unanswered(why, alive=True, used_up=True)
    # One that takes a connection and says nothing hangs: that its master lists it means nothing then.
    if not isinstance(error, Silent) and _lives(master):
        why = f"HAProxy serves, but its runtime socket cannot be used: {error.message}"
        return Unanswered(why, alive=True, used_up=False)
    return Unanswered(error.message, alive=False, used_up=False)


def _lives(master: Master | None) -> bool:
    """Whether the master knows a current worker."""
    try:
        return master is not None and master.workers()[0] is not None
    except HAProxyError:
        return False


def connections(path: str) -> int:
    """How many connections to the socket ``path`` are open, as far as Linux lists them to this process.

    HAProxy binds under a name of its own and renames, so the list has ``PATH.PID.tmp``. In a container it knows the
    folder by another name, so only the last part of the path is compared.
    """
    try:
        rows = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    except OSError:
        return 0
    ours = re.compile(rf"(?:.*/)?{re.escape(Path(path).name)}(?:\.[0-9]+\.tmp)?")
    fields = (row.split(maxsplit=7) for row in rows)
    return sum(len(f) > 7 and f[5] == CONNECTED and bool(ours.fullmatch(f[7])) for f in fields)
