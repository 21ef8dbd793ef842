"""The units as systemd's own tools see them, in a folder that stands for the root file system."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lbagent.settings import shipped

UNITS = shipped.folder("systemd")

# CI runs these all the same, and fails where it is not root.
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="chown takes root; make test as root has it"
)

# As in Debian's package: what matters to the drop-in, to the order and to what the sandbox's verification follows.
HAPROXY_SERVICE = """\
[Unit]
Description=HAProxy Load Balancer
[Service]
EnvironmentFile=-/etc/default/haproxy
Environment="CONFIG=/etc/haproxy/haproxy.cfg" "PIDFILE=/run/haproxy.pid" "EXTRAOPTS=-S /run/haproxy-master.sock"
ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS
Type=notify
"""


@pytest.fixture
def root(tmp_path):
    """A root file system with systemd's units, ours, HAProxy's, and stubs of the programs that they start."""
    units = tmp_path / "usr/lib/systemd/system"
    shutil.copytree(_systemd_units(), units, symlinks=True, ignore=shutil.ignore_patterns("haproxy*"))
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "bin").symlink_to("usr/bin")
    for name in ("lbagent.service", "lbagent.socket"):
        shutil.copy(UNITS / name, units)
    (units / "haproxy.service").write_text(HAPROXY_SERVICE)
    (units / "haproxy.service.d").mkdir()
    shutil.copy(UNITS / "haproxy-lbagent.conf", units / "haproxy.service.d/lbagent.conf")
    for program in ("opt/lbagent/bin/lbagent", "usr/sbin/haproxy", "usr/bin/sh"):
        stub = tmp_path / program
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text("#!/bin/sh\n")
        stub.chmod(0o755)
    (tmp_path / "etc").mkdir()
    return tmp_path


def _systemd_units() -> Path:
    done = run("pkg-config", "--variable=systemdsystemunitdir", "systemd")
    return Path(done.stdout.strip() or "/usr/lib/systemd/system")


def run(*command) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def test_verify_finds_nothing_to_say(root):
    done = run("systemd-analyze", f"--root={root}", "verify", "lbagent.service", "lbagent.socket", "haproxy.service")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_sandbox_is_tight(root):
    done = run("systemd-analyze", f"--root={root}", "security", "--offline=yes", "--threshold=13", "lbagent.service")
    assert done.returncode == 0, done.stdout + done.stderr


def test_haproxy_may_come_and_go_without_the_agent():
    unit = (UNITS / "lbagent.service").read_text()
    for binding in ("Requires", "BindsTo", "PartOf", "Requisite"):
        assert not any(line.startswith(f"{binding}=") and "haproxy" in line for line in unit.splitlines())


@needs_root
def test_users_and_folders(root):
    """sysusers makes the user, also where HAProxy's package is not there; tmpfiles gives it its folders."""
    done = run("systemd-sysusers", f"--root={root}", UNITS / "lbagent.sysusers")
    assert done.returncode == 0, done.stderr
    groups = {row[0]: row for row in map(_columns, (root / "etc/group").read_text().splitlines())}
    _, _, uid, gid, *_ = next(
        row for row in map(_columns, (root / "etc/passwd").read_text().splitlines()) if row[0] == "lbagent"
    )
    assert groups["lbagent"][2] == gid
    assert groups["haproxy"][3] == "lbagent"

    done = run("systemd-tmpfiles", f"--root={root}", "--create", UNITS / "lbagent.tmpfiles")
    assert (done.returncode, done.stderr) == (0, "")
    found = {name: (root / name).stat() for name in ("etc/lbagent", "var/lib/lbagent", "var/lib/lbagent/haproxy")}
    assert {name: (oct(st.st_mode & 0o7777), st.st_uid) for name, st in found.items()} == {
        "etc/lbagent": ("0o755", 0),
        "var/lib/lbagent": ("0o755", int(uid)),
        "var/lib/lbagent/haproxy": ("0o2750", int(uid)),
    }
    assert str((root / "var/lib/lbagent/haproxy").stat().st_gid) == groups["haproxy"][2]


def test_sysusers_reads_without_a_complaint(root):
    done = run("systemd-sysusers", f"--root={root}", "--dry-run", UNITS / "lbagent.sysusers")
    assert done.returncode == 0, done.stderr
    assert "Creating user 'lbagent'" in done.stdout + done.stderr


def _columns(line: str) -> list[str]:
    return line.split(":")
