"""The folder of files that a guarded HAProxy needs at its start: laid down where they are missing, taken away again.

Who may read it: its files hold reasons and operators' names, and HAProxy reads them at its start, as root or as a
member of its group. So the folder is for its owner and the group ``haproxy``; where there is no such group, or HAProxy
runs in a container with users of its own, it is for all. The files in it are readable by all who may enter it.

Root lays it down as well (`lbctl haproxy adopt`), in a folder that usually belongs to the agent's user. Whatever root
did there, that user could lead elsewhere by a link, at any moment. So it is done with that user's own rights.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lbagent.files import sync_folder
from lbagent.guard import state_files
from lbagent.settings.config import Config, HAProxyConfig

GROUP = "haproxy"  # of HAProxy's package
LINKS = 20  # that a path may lead through


def lay_down(config: Config) -> list[Path]:
    """Create state_dir and those of its files that are not there; returns what was created, folders first.

    A file that exists may hold a maintenance and is left alone. All belongs to the folder's owner. OSError, after which
    the rest may be missing.
    """
    folder = Path(config.haproxy.state_dir)
    with rights_of_owner(folder):
        created = make(config.haproxy)
        for name, text in state_files.files_at_rest(config).items():
            target = folder / name
            if target.exists():
                continue
            descriptor, beside = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                    file.write(text)
                    os.fchmod(descriptor, 0o644)
                    file.flush()
                    os.fsync(descriptor)
                with contextlib.suppress(FileExistsError):  # the agent was quicker
                    os.link(beside, target)
                    created.append(target)
            finally:
                Path(beside).unlink()
        if created:
            sync_folder(folder)
    return created


def take_up(created: Sequence[Path]) -> None:
    """Undo lay_down()."""
    for path in reversed(created):
        with contextlib.suppress(OSError), rights_of_owner(path.parent):
            path.rmdir() if path.is_dir() else path.unlink()


def make(haproxy: HAProxyConfig) -> list[Path]:
    """Create state_dir where it is missing; returns what was created. OSError."""
    folder = Path(haproxy.state_dir)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir()
        path.chmod(0o755)
    if missing and haproxy.state_dir_in_haproxy is None:
        with contextlib.suppress(KeyError, PermissionError):  # no such group, or not a member of it
            os.chown(folder, -1, grp.getgrnam(GROUP).gr_gid)
            folder.chmod(0o2750)
    return missing[::-1]


@contextlib.contextmanager
def rights_of_owner(folder: Path) -> Iterator[None]:
    """Root acts with the rights of the user that ``folder`` belongs to, or the nearest folder above that is there.

    OSError when the path leads through a link of somebody else than root. For a program of one thread.
    """
    owner = _owner(folder)
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    before = os.getgroups(), os.getegid()
    try:
        known = pwd.getpwuid(owner.st_uid)
        others, gid = os.getgrouplist(known.pw_name, known.pw_gid), known.pw_gid
    except KeyError:
        others, gid = [], owner.st_gid
    try:
        os.setgroups(others)
        os.setegid(gid)
        os.seteuid(owner.st_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[1])
        os.setgroups(before[0])


def _owner(folder: Path, links: int = LINKS) -> os.stat_result:
    """Of ``folder``, or the nearest one above it that is there, without going through a link of somebody's."""
    found = Path("/").lstat()
    for path in (*reversed(folder.parents), folder):
        try:
            seen = path.lstat()
        except FileNotFoundError:
            return found
        if stat.S_ISLNK(seen.st_mode):
            if seen.st_uid not in (0, os.geteuid()) or not links:
                raise OSError(errno.ELOOP, f"is a link of user {seen.st_uid}", str(path))
            return _owner(path.parent / path.readlink() / folder.relative_to(path), links - 1)
        found = seen
    return found
