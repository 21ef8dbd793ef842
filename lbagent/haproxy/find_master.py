"""HAProxy's master socket: found by itself, and when it cannot be used, why. Blocking.

HAProxy's command line says where its master listens (``-S PATH,mode,660,group,haproxy``); Debian's unit passes one that
only root may open until HAProxy is *restarted* with lbagent's drop-in. A socket that does not open is never waited for:
without a master, workers left over by a reload are unknown, and every answer says so.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import time
from pathlib import Path

from lbagent.errors import HAProxyError
from lbagent.haproxy.master import Master

USUAL = "/run/haproxy-master.sock"
START = f"start it with `-W -S {USUAL},mode,660,group,haproxy`, as lbagent's drop-in for haproxy.service does"
AGAIN = 5.0  # seconds between two searches while none can be used
GIVE_UP = 30.0  # seconds for a master that is reloading; one that refuses for longer is not there
NEVER_HEARD = 3.0  # seconds for one that has not answered yet: the socket of a process that is gone

LASTING = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENOTSOCK, errno.EPROTOTYPE})
"""Failures that no reload causes."""


class MasterSearch:
    """The master to ask, or why there is none."""

    def __init__(self, configured: str | None) -> None:
        self._configured = configured
        self._master: Master | None = None
        self._worker = 0  # the current worker of the last search: another one may have another master
        self._next = 0.0
        self._failing: float | None = None  # since when the master has refused
        self._heard = False  # it has answered before
        self.why = "HAProxy has not been asked yet"

    def for_worker(self, pid: int) -> Master | None:
        """The master of the worker ``pid``; None where none can be used, for the reason in :attr:`why`."""
        now = time.monotonic()
        if pid != self._worker or (self._master is None and now >= self._next):
            self._worker, self._next = pid, now + AGAIN
            self._look(pid)
        return self._master

    def any(self) -> Master | None:
        """The master for a worker that is not known, since the runtime socket does not answer."""
        return self._master or self.for_worker(self._worker)

    def answered(self) -> None:
        self._failing, self._heard = None, True

    def refused(self) -> bool:
        """The master did not answer; False once that has lasted so long that no reload explains it."""
        now = time.monotonic()
        self._failing = now if self._failing is None else self._failing
        patience = GIVE_UP if self._heard else NEVER_HEARD
        self._look(self._worker, keep=True)
        if self._master is not None and now - self._failing < patience:
            return True
        if self._master is not None:
            self._master, self.why = None, f"HAProxy's master has not answered for {patience:.0f} s"
        self._failing, self._next = None, now + AGAIN
        return False

    def _look(self, pid: int, keep: bool = False) -> None:
        path, options = _on_command_line(pid)
        path = self._configured or path or (USUAL if Path(USUAL).exists() else None)
        if path is None:
            self._master, self.why = None, f"HAProxy was started without a master socket: {START}"
            return
        why = _cannot_open(path, options)
        if why is None:
            self._master, self.why = (self._master or Master(path)) if keep else Master(path), ""
        else:
            self._master, self.why = None, why


def _on_command_line(worker: int) -> tuple[str | None, str]:
    """(where the worker's master listens, the options of its -S); None and "" where that cannot be seen."""
    try:
        stat = Path(f"/proc/{worker}/stat").read_text(encoding="utf-8", errors="replace")
        parent = stat.rpartition(")")[2].split()[1]
        words = Path(f"/proc/{parent}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        if "haproxy" not in Path(words[0]).name:
            return None, ""
    except (OSError, IndexError):
        return None, ""
    for option, value in zip(words, [*words[1:], ""], strict=True):
        if option == "-S":
            path, _, options = value.partition(",")
            return path.removeprefix("unix@") or None, options
    return None, ""


def _cannot_open(path: str, options: str) -> str | None:
    """Why ``path`` is no master socket that this process may use; None when it is one, or may be one at a reload."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            return _closed_to_us(path, options)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return f"there is no {path}: {START}, and restart HAProxy"
        return f"{path}: {error.strerror}" if error.errno in LASTING else None
    try:
        rows = Master(path).ask("show proc")
    except HAProxyError:
        return None
    if not any(row.split()[1:2] == ["master"] for row in rows):
        return f"{path} is not HAProxy's master socket: {START}"
    return None


def _closed_to_us(path: str, options: str) -> str:
    if "mode" not in options.split(","):
        return (
            f"{path} is open to root only: restart HAProxy (`systemctl restart haproxy`), so that lbagent's drop-in "
            "takes effect; EXTRAOPTS in /etc/default/haproxy would override that"
        )
    group = "its group"
    with contextlib.suppress(OSError, KeyError):
        group = f"the group {grp.getgrgid(Path(path).stat().st_gid).gr_name}"
    return f"{path} is not open to this user (uid {os.geteuid()}): let it be in {group}"
