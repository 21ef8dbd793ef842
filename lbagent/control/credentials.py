"""Who is at the other end of a unix socket, and what they may do. The kernel says it, never the request.

Source: unix(7), SO_PEERCRED and SO_PEERGROUPS.
"""

from __future__ import annotations

import contextlib
import grp
import pwd
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lbagent.control.connections import Rank
from lbagent.settings.config import ControlConfig

SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
LARGEST_OPTION = 1024  # bytes that Python reads of a socket option: 256 groups; a user of more shows none of them
UNSET = 4294967295  # a login uid that was never set
CONTROL_GROUPS = tuple(Path("/sys/fs/cgroup") / below for below in ("", "unified", "systemd"))
REMEMBERED = 30.0  # seconds for which the numbers of the configured users and groups are remembered


class Peer(msgspec.Struct, frozen=True):
    """The process that connected. Its numbers; names are looked up when they are needed."""

    pid: int
    uid: int
    gid: int

    @property
    def user(self) -> str:
        """The user it acts as."""
        return _user(self.uid)

    @property
    def name(self) -> str:
        """The user it acts as; with the login user where a sudo hides that one."""
        login = login_user(self.pid)
        return self.user if login is None or login == self.uid else f"{_user(login)} as {self.user}"


def peer(connection: socket.socket) -> Peer:
    """The peer of a connected unix socket; OSError when it is gone."""
    return Peer(*struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


def groups(connection: socket.socket) -> frozenset[int]:
    """The peer's groups, those beside its own. None are known where it has more than 256."""
    with contextlib.suppress(OSError):
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, LARGEST_OPTION)
        return frozenset(struct.unpack(f"{len(raw) // 4}I", raw))
    return frozenset()


class Permissions:
    """What each user may do, by control.admins and control.viewers: user names, and ``@`` with group names.

    The names' numbers are looked up now and then, and not for every connection: the lookup may ask a slow directory.
    """

    def __init__(self, config: Callable[[], ControlConfig], clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._numbers: dict[Rank, tuple[frozenset[int], frozenset[int]]] = {}  # (users, groups)
        self._looked_up: tuple[ControlConfig | None, float] = (None, 0.0)

    def rank(self, who: Peer, connection: socket.socket) -> Rank:
        config, now = self._config(), self._clock()
        if config is not self._looked_up[0] or now - self._looked_up[1] >= REMEMBERED:
            self._numbers = {Rank.ADMIN: _numbers(config.admins), Rank.VIEWER: _numbers(config.viewers)}
            self._looked_up = config, now
        its: frozenset[int] | None = None
        for rank in (Rank.ADMIN, Rank.VIEWER):
            users, of_group = self._numbers[rank]
            if who.uid in users or who.gid in of_group:
                return rank
            if of_group:
                its = groups(connection) if its is None else its
                if its & of_group:
                    return rank
        return Rank.OTHER


def _numbers(listed: tuple[str, ...]) -> tuple[frozenset[int], frozenset[int]]:
    """(users, groups); names that this host does not know are nobody's."""
    users, of_group = set(), set()
    for entry in listed:
        with contextlib.suppress(KeyError):
            if entry.startswith("@"):
                of_group.add(grp.getgrnam(entry[1:]).gr_gid)
            else:
                users.add(pwd.getpwnam(entry).pw_uid)
    return frozenset(users), frozenset(of_group)


def login_user(pid: int, proc: Path = Path("/proc"), groups_: tuple[Path, ...] = CONTROL_GROUPS) -> int | None:
    """Who logged in, in whose session the process ``pid`` runs; None where it is in none, or that cannot be known.

    The audit login uid survives sudo and su. Where it was never set, or /proc shows the agent nothing of others, the
    control group says it: logind puts each session into the slice of its user, and the kernel keeps it there.
    """
    with contextlib.suppress(OSError, ValueError):
        uid = int((proc / str(pid) / "loginuid").read_text(encoding="ascii"))
        if uid != UNSET:
            return uid
    for root in groups_:
        for members in root.glob("user.slice/user-*.slice/**/cgroup.procs"):
            with contextlib.suppress(OSError, ValueError):
                if str(pid) in members.read_text(encoding="ascii").split():
                    slice_ = members.relative_to(root).parts[1]
                    return int(slice_.removeprefix("user-").removesuffix(".slice"))
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
