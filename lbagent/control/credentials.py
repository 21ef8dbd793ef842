"""Who is at the other end of a unix socket: the kernel knows. Source: unix(7), SO_PEERCRED and SO_PEERGROUPS."""

from __future__ import annotations

import contextlib
import grp
import pwd
import socket
import struct
from pathlib import Path

import msgspec

SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
LARGEST_OPTION = 1024  # bytes that Python reads of a socket option: 256 groups; a user of more shows none of them
NOBODY = 4294967295  # an unset login uid


class Peer(msgspec.Struct, frozen=True):
    uid: int
    name: str  # the login user where a sudo hides it
    user: str  # the user it acts as
    groups: frozenset[str]

    def among(self, listed: tuple[str, ...]) -> bool:
        """One of ``listed``: user names, and group names with an ``@`` in front."""
        return any(entry[1:] in self.groups if entry.startswith("@") else entry == self.user for entry in listed)


def of(connection: socket.socket) -> Peer:
    """The peer of a connected unix socket; OSError when it is gone."""
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    gids = {gid}
    with contextlib.suppress(OSError):
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, LARGEST_OPTION)
        gids |= set(struct.unpack(f"{len(raw) // 4}I", raw))
    user = _user(uid)
    login = _login(pid)
    name = user if login is None or login == uid else f"{_user(login)} as {user}"
    return Peer(uid=uid, name=name, user=user, groups=frozenset(_group(g) for g in gids))


def _login(pid: int) -> int | None:
    """The audit login uid survives sudo and su; None where it was never set."""
    with contextlib.suppress(OSError, ValueError):
        uid = int(Path(f"/proc/{pid}/loginuid").read_text(encoding="ascii"))
        return None if uid == NOBODY else uid
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
