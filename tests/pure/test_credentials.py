"""Who asks: the kernel's word, and the login user behind a sudo."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from lbagent.control.connections import Rank
from lbagent.control.credentials import Permissions, groups, login_user, peer
from lbagent.settings.config import ControlConfig

NOT_SET = "4294967295"


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    yield one
    one.close()
    other.close()


def laid_out(folder: Path, loginuid: str | None, scopes: dict[str, list[int]]) -> tuple[Path, tuple[Path, ...]]:
    if loginuid is not None:
        (folder / "proc/7").mkdir(parents=True)
        (folder / "proc/7/loginuid").write_text(loginuid)
    for scope, pids in scopes.items():
        (folder / "cgroup" / scope).mkdir(parents=True)
        (folder / "cgroup" / scope / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return folder / "proc", (folder / "nowhere", folder / "cgroup")


SESSION = "user.slice/user-1000.slice/session-2.scope"


@pytest.mark.parametrize(
    ("loginuid", "scopes", "found"),
    [
        ("1000", {}, 1000),
        ("0", {SESSION: [7]}, 0),
        (NOT_SET, {}, None),
        (NOT_SET, {SESSION: [6, 7, 77]}, 1000),
        (None, {SESSION: [7], "user.slice/user-1001.slice/session-3.scope": [8]}, 1000),
        (None, {"user.slice/user-1000.slice/user@1000.service/app.slice/a.scope": [7]}, 1000),
        (None, {SESSION: [77], "system.slice/cron.service": [7]}, None),
        (None, {"user.slice/user-x.slice/session-3.scope": [7]}, None),
        ("nonsense", {SESSION: [7]}, 1000),
    ],
)
def test_who_logged_in(tmp_path, loginuid, scopes, found):
    """By the audit login uid, else by the slice of the session's user."""
    assert login_user(7, *laid_out(tmp_path, loginuid, scopes)) == found


def test_the_peer_is_who_the_kernel_says(pair):
    assert (peer(pair).pid, peer(pair).uid, peer(pair).gid) == (os.getpid(), os.getuid(), os.getgid())
    assert groups(pair) <= set(os.getgroups()) | {os.getgid()}


def permissions(config: ControlConfig) -> Permissions:
    return Permissions(lambda: config)


@pytest.mark.parametrize(
    ("admins", "viewers", "rank"),
    [
        (("root",), (), Rank.ADMIN),
        (("@root",), (), Rank.ADMIN),
        ((), ("root",), Rank.VIEWER),
        (("nobody", "@no-such-group", "no-such-user"), ("@nogroup",), Rank.OTHER),
        ((), (), Rank.OTHER),
        (("@root",), ("root",), Rank.ADMIN),
        (("0", "@0"), (), Rank.OTHER),  # a name is a name
    ],
)
@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="the peer has to be root")
def test_what_a_peer_may_do(pair, admins, viewers, rank):
    assert permissions(ControlConfig(admins=admins, viewers=viewers)).rank(peer(pair), pair) is rank


@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="the peer has to be root")
def test_a_configuration_that_is_read_again_counts_at_once(pair):
    now = ControlConfig(admins=("root",))
    asked = Permissions(lambda: now)
    assert asked.rank(peer(pair), pair) is Rank.ADMIN
    now = ControlConfig(admins=("nobody",), viewers=())
    assert asked.rank(peer(pair), pair) is Rank.OTHER
