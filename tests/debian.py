"""The tests on another release of Debian, with its Python, HAProxy and etcd: ``make test-debian RELEASE=trixie``.

An image of the release, with a virtual environment of its Python, is kept beside test_boot's (LBAGENT_TEST_CACHE), and
made again when the release or the dependencies change. It is mounted read-only, in a mount namespace of its own, with
this checkout as ``/src``; nothing is left to unmount. Processes and ports are this system's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.releases import acquire
from tests.system.test_boot import REPOSITORY, cached, do

RELEASES = ("trixie",)

PACKAGES = (
    "ca-certificates,curl,etcd-client,etcd-server,gcc,haproxy,libsystemd-dev,openssl,pkg-config,procps,prometheus,"
    "python3,python3-dev,python3-venv,systemd"
)

# What Python, etcd and TLS can make differ. What concerns HAProxy alone runs in `make test-haproxy`.
SHORT = (
    "tests/pure",
    "tests/several/test_etcd_store.py",
    "tests/several/test_etcd_login.py",
    "tests/one_haproxy/test_adopt_haproxy.py",
    "tests/one_haproxy/test_lbctl.py",
)

# The image stays as it is: what is written goes into memory. What pip needs of this system is there under its own path.
INSIDE = """
set -eu
root=$1; shift
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
for folder in /tmp /run /root /src; do mkdir -p "$root$folder"; done
for place in $PLACES; do
  if [ -d "$place" ]; then mkdir -p "$root$place"; else mkdir -p "$root$(dirname "$place")"; : >> "$root$place"; fi
  mount --bind "$place" "$root$place"
done
mount --bind "$SOURCE" "$root/src"
if [ -z "${MAKING:-}" ]; then
  mount -o remount,bind,ro "$root"
  mount -o remount,bind,ro "$root/src"
  mount -t tmpfs -o mode=1777 tmp "$root/tmp"
  mount -t tmpfs run "$root/run"
  mount -t tmpfs home "$root/root"
fi
exec chroot "$root" env -C /src "$@"
"""


def image(release: str) -> Path:
    """The root folder of ``release`` with a virtual environment in /venv that has this project and its tests' needs."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
    ]
    with cached(f"debian-{release}", release, PACKAGES, *needed) as (path, making):
        if making:
            print(f"making {path}", flush=True)
            options = [f"--aptopt={line}" for line in acquire()]
            mirror = do("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
            mirrors = [uri for uri in mirror.split() if not re.search(r"-security/?$", uri)][:1]
            do("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", *options, release, making, *mirrors)
            for command in (
                ("python3", "-m", "venv", "/venv"),
                ("/venv/bin/pip", "install", "--quiet", "--use-pep517", *needed),
                ("/venv/bin/pip", "install", "--quiet", "--no-deps", "-e", "/src"),
            ):
                assert inside(making, *command, making=True) == 0
    return path


def inside(root: Path, *command: str, making: bool = False) -> int:
    """Run ``command`` with ``root`` as its root folder and this checkout as its working folder; its exit status."""
    environment = {
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "LBAGENT_", "CI", "SSL_"))},
        "PATH": "/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SOURCE": str(REPOSITORY),
        "PLACES": " ".join(places()) if making else "",
        "MAKING": "1" if making else "",
    }
    words = ["unshare", "--mount", "--", "/bin/sh", "-c", INSIDE, "sh", str(root), *command]
    return subprocess.run(words, env=environment, check=False).returncode


def places() -> list[str]:
    """Files and folders of this system by which pip finds its packages, and the network."""
    said = do(sys.executable, "-m", "pip", "config", "list")
    named = re.findall(r"(?:file://)?(/[\w./+-]+)", said)
    fixed = ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs", "/etc/pip.conf", "/etc/xdg/pip"]
    return [place for place in dict.fromkeys([*fixed, *named]) if Path(place).exists()]


def main(release: str, *pytest: str) -> int:
    if release not in RELEASES:
        sys.exit(f"RELEASE is one of {', '.join(RELEASES)}, not {release!r}")
    if os.geteuid():
        sys.exit("another release takes root: its folder is made the root folder")
    root = image(release)
    inside(root, "python", "--version")
    tests = [] if any(not word.startswith("-") for word in pytest) else SHORT
    return inside(root, "python", "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", *tests, *pytest)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
