"""The tests that use a real HAProxy, against the HAProxy of a Debian release: ``make test-haproxy RELEASE=trixie``.

An image of the release is kept beside test_boot's (LBAGENT_TEST_CACHE) and made again when it is not there; taking it
away fetches the release's newest HAProxy. Only HAProxy runs from it, in a mount namespace of its own in which the
image's /usr lies over this system's: every other file is this system's, so that sockets, maps and configurations are
where the tests put them, a reload finds the same program again, and nothing is left to unmount. There is no other
process namespace: pids and signals are as they are for a HAProxy of this system.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.system.test_boot import cached, do

RELEASES = ("bookworm", "trixie", "sid")

# Where the version can make a difference: HAProxy's sockets, reloads and workers, the guard's rules, the server-state
# file, what its configuration check accepts. What the other tests ask does not depend on it: they run in `make test`.
REAL = ("rolling", "modes", "upload", "reload", "survives", "faults", "lbctl", "adopt_haproxy", "examples")

WRAPPER = """#!/bin/sh
exec unshare --mount -- /bin/sh -c 'mount --bind "$0/usr" /usr && exec /usr/sbin/haproxy "$@"' {image} "$@"
"""


def image(release: str) -> Path:
    """The root folder of ``release`` with its HAProxy, from the mirror that this system's apt uses."""
    mirror = do("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
    mirrors = [uri for uri in mirror.split() if not re.search(r"-security/?$", uri)][:1]
    options = [f"--aptopt={line}" for line in acquire()]
    if release == "sid":  # a mirror that stands still is as good
        options.append('--aptopt=Acquire::Check-Valid-Until "false";')
    with cached(f"haproxy-{release}", release) as (path, making):
        if making:
            print(f"making {path}", flush=True)
            do("mmdebstrap", "--variant=apt", "--include=haproxy", *options, release, making, *mirrors)
    return path


def acquire() -> list[str]:
    """How this system's apt reaches its mirror: proxies, and whether dates are checked."""
    kinds = ("Acquire::http", "Acquire::https", "Acquire::Check")
    return [
        line for line in do("apt-config", "dump").splitlines() if line.startswith(kinds) and not line.endswith('"";')
    ]


def main(release: str, *pytest: str) -> int:
    if release not in RELEASES:
        sys.exit(f"RELEASE is one of {', '.join(RELEASES)}, not {release!r}")
    mine = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="lbagent-haproxy-") as folder:
        program = Path(folder) / "haproxy"
        if mine and f"VERSION_CODENAME={release}" in Path("/etc/os-release").read_text(encoding="utf-8"):
            program.symlink_to(mine)
        else:
            if os.geteuid():
                sys.exit("the HAProxy of another release takes root: it runs with another /usr")
            program.write_text(WRAPPER.format(image=image(release)), encoding="utf-8")
            program.chmod(0o755)
        environment |= {"LBAGENT_TEST_HAPROXY": str(program), "PATH": f"{folder}:{os.environ['PATH']}"}
        print(do(program, "-v").splitlines()[0], flush=True)
        tests = [f"tests/one_haproxy/test_{name}.py" for name in REAL]
        command = [Path(sys.executable).parent / "pytest", "-n", "2", *tests, *pytest]
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
