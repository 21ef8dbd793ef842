"""A real Debian, booted with systemd, with HAProxy from its package and lbagent from `make install`.

What stands here is what only a whole system can show: the units start in their order, the sandbox leaves the agent what
it needs, systemd brings it back, and HAProxy and the agent come and go without each other.

The system's image and the wheels of the dependencies are kept in LBAGENT_TEST_CACHE (/var/cache/lbagent-test) and made
again when what they are made of changes; taking the whole folder away is harmless.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from lbagent.settings import shipped

# CI runs these all the same, and fails where it is not root.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.geteuid() != 0 and not os.environ.get("CI"), reason="booting takes root; make test as root has it"
    ),
]

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("LBAGENT_TEST_CACHE", "/var/cache/lbagent-test"))
PACKAGES = "curl,dbus,haproxy,libpam-systemd,libsystemd0,make,procps,python3,python3-venv,systemd,systemd-sysv,sudo"
NSPAWN = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network")


# ------------------------------------------------------------------------------------------------ the system


@contextlib.contextmanager
def cached(kind: str, *ingredients: str):
    """Yields the cache's path for what is made of ``ingredients``, and a folder to make it in when it is not there."""
    key = hashlib.sha256("\n".join(ingredients).encode()).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path, making = CACHE / f"{kind}-{key}", CACHE / f"{kind}.making"
        if path.exists():
            yield path, None
            return
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        yield path, making
        making.rename(path)


def image() -> Path:
    """This host's release of Debian, from the sources that this host's apt uses."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    codename = release["VERSION_CODENAME"].strip('"')
    places = [Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources")]
    sources = [str(place) for place in places if place.exists() and place.stat().st_size]
    # How it reaches them (proxies, whether their dates are checked) is this host's affair, too.
    options = [
        f"--aptopt={line}"
        for line in do("apt-config", "dump").splitlines()
        if line.startswith(("Acquire::http", "Acquire::https", "Acquire::Check")) and not line.endswith('"";')
    ]
    with cached("image", codename, PACKAGES, *sources) as (path, making):
        if making:
            do("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", *options, codename, making, *sources)
    return path


def wheels() -> Path:
    """What `make install` needs from a package index, as files: the system that boots has no network."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    with cached("wheels", *needed) as (path, making):
        if making:
            do("/usr/bin/python3", "-m", "venv", making / "venv")
            do(making / "venv/bin/pip", "wheel", "--use-pep517", "--wheel-dir", making, *needed)
            shutil.rmtree(making / "venv")
    return path


def do(*command) -> str:
    """Run on the host; the standard output of a program that has to succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Machine:
    """The booted system; commands run in it as root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def before_boot(self, *command, binds=(), environment=()) -> None:
        """Run in the root file system while nothing else does."""
        do(
            *NSPAWN,
            f"--directory={self.root}",
            *(f"--bind-ro={source}:{target}" for source, target in binds),
            *(f"--setenv={assignment}" for assignment in environment),
            *command,
        )

    def boot(self) -> None:
        self._nspawn = subprocess.Popen(
            [*NSPAWN, "--boot", f"--directory={self.root}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        self._leader = until(lambda: int(children.read_text().split()[0]), within=30)
        state = until(self._settled, within=90)
        failed = self.run("systemctl", "list-units", "--failed", "--no-legend").stdout
        assert (state, failed) == ("running", "")

    def _settled(self) -> str | None:
        state = self.run("systemctl", "is-system-running").stdout.strip()
        return state if state in ("running", "degraded", "maintenance") else None

    @property
    def inside(self) -> tuple[str, ...]:
        """What a command is started through, to run in the system that has booted."""
        return ("nsenter", f"--target={self._leader}", "--all", "--")

    def run(self, *command) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside, *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )

    def ok(self, *command) -> str:
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.journal()}"
        return done.stdout

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-n", "80", "-u", "lbagent", "-u", "haproxy").stdout

    def show(self, unit: str, key: str) -> str:
        return self.ok("systemctl", "show", "--value", f"--property={key}", unit).strip()

    def status(self) -> dict:
        return json.loads(self.ok("lbctl", "status", "--json"))

    def modes(self) -> dict[str, str]:
        return {service["name"]: service["mode"] for service in self.status()["services"]}

    def agent_pid_other_than(self, pid: str) -> str | None:
        now = self.show("lbagent", "MainPID")
        return now if now not in ("0", pid) and self.show("lbagent", "ActiveState") == "active" else None

    def get(self, url: str) -> tuple[int, str]:
        """Status and Retry-After (empty: none) of a GET."""
        told = self.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %header{retry-after}", url).stdout
        status, _, retry_after = told.partition(" ")
        return int(status), retry_after.strip()

    def off(self) -> None:
        if self._nspawn is None:
            return
        self._nspawn.send_signal(signal.SIGTERM)  # nspawn passes an orderly shutdown on
        try:
            self._nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()


def until(what, within: float):
    """What ``what()`` returns as soon as that is true; errors of a system that is not up yet count as false."""
    end = time.monotonic() + within
    while True:
        with contextlib.suppress(OSError, IndexError, ValueError):
            if found := what():
                return found
        assert time.monotonic() < end, f"not within {within} s"
        time.sleep(0.1)


@pytest.fixture
def machine(tmp_path):
    root = tmp_path / "root"
    do("cp", "-a", "--reflink=auto", image(), root)
    made = Machine(root)
    try:
        yield made
    finally:
        made.off()
        shutil.rmtree(root, ignore_errors=True)  # pytest would keep it for three runs


# -------------------------------------------------------------------------------------------------- the story


def test_a_debian_with_lbagent(machine):
    install(machine)
    machine.boot()

    both_are_up(machine)
    who_asks_comes_from_the_kernel(machine)
    a_maintenance_is_in_force_with_the_agent_stopped(machine)
    the_agent_comes_back(machine)
    haproxy_comes_and_goes_without_the_agent(machine)
    a_bad_configuration_changes_nothing(machine)
    an_agent_that_hangs_is_replaced(machine)


def install(machine):
    """The operator's steps: install, the example configurations, the guard, enable."""
    machine.before_boot(
        *("make", "-C", "/mnt", "install", "BUILD_PACKAGES="),
        binds=[(REPOSITORY, "/mnt"), (wheels(), "/srv")],
        environment=["PIP_NO_INDEX=1", "PIP_FIND_LINKS=/srv"],
    )
    shutil.copy(shipped.folder("haproxy") / "haproxy.cfg", machine.root / "etc/haproxy/haproxy.cfg")
    configuration = machine.root / "etc/lbagent/lbagent.yaml"
    text = configuration.read_text().replace("#haproxy:", "haproxy:")
    text = text.replace("#  master_socket: null", "  master_socket: /run/haproxy-master.sock")
    configuration.write_text(text)
    machine.before_boot("lbctl", "haproxy", "adopt", "/etc/haproxy/haproxy.cfg", "--write")
    machine.before_boot("systemctl", "enable", "lbagent.service", "haproxy.service")


def both_are_up(machine):
    for unit in ("haproxy.service", "lbagent.socket", "lbagent.service"):
        assert machine.show(unit, "ActiveState") == "active", machine.journal()
    assert machine.show("lbagent", "WatchdogUSec") == "30s"
    assert machine.show("lbagent", "StatusText") != ""
    assert machine.ok("stat", "-c", "%G %a", "/run/haproxy-master.sock").strip() == "haproxy 660"

    haproxy = until(lambda: (s := machine.status()["haproxy"])["in_sync"] and s, within=10)
    assert haproxy["up"]
    assert haproxy["guard"] == "present"
    assert haproxy["old_workers"] == 0  # that is: the agent may ask the master
    assert machine.modes() == {"keystone": "up", "nova": "up"}
    machine.ok("lbctl", "doctor")


def who_asks_comes_from_the_kernel(machine):
    assert machine.run("runuser", "-u", "nobody", "--", "lbctl", "status").returncode == 6
    machine.ok("useradd", "--groups", "lbagent", "alice")
    machine.ok("runuser", "-u", "alice", "--", "lbctl", "status")
    # The login user behind a sudo, though the sandbox hides other users' processes from the agent.
    (machine.root / "etc/sudoers.d/alice").write_text("alice ALL=(ALL) NOPASSWD: ALL\n")
    session = ("systemd-run", "--quiet", "--pipe", "--wait", "--property=PAMName=login", "--uid=alice", "--")
    machine.ok(*session, "sudo", "lbctl", "down", "nova", "--reason", "who")
    machine.ok(*session, "sudo", "lbctl", "up", "nova")
    assert json.loads(machine.ok("lbctl", "history", "--json"))[-1]["by"] == "alice as root"


def a_maintenance_is_in_force_with_the_agent_stopped(machine):
    # The example's controllers do not exist: without a maintenance there is the other 503.
    machine.ok("lbctl", "down", "keystone", "--for", "20m", "--reason", "upgrade")
    machine.ok("systemctl", "stop", "lbagent.service")
    machine.ok("systemctl", "restart", "haproxy")
    status, retry_after = machine.get("http://127.0.0.1:5000/v3")
    assert status == 503
    assert 1100 < int(retry_after) <= 1230

    # Whoever asks next starts the agent: the socket never went away.
    assert machine.show("lbagent", "ActiveState") == "inactive"
    machine.status()
    assert machine.show("lbagent", "ActiveState") == "active"
    until(lambda: machine.modes() == {"keystone": "down", "nova": "up"}, within=10)
    machine.ok("lbctl", "up", "keystone")


def the_agent_comes_back(machine):
    pid = machine.show("lbagent", "MainPID")
    machine.ok("systemctl", "restart", "lbagent")
    restarted = machine.agent_pid_other_than(pid)
    assert restarted
    machine.status()

    machine.ok("systemctl", "kill", "--signal=KILL", "lbagent")
    machine.status()  # waits in the socket's queue until the agent is back
    assert until(lambda: machine.agent_pid_other_than(restarted), within=10)


def haproxy_comes_and_goes_without_the_agent(machine):
    agent = machine.show("lbagent", "MainPID")
    worker = machine.status()["haproxy"]["pid"]

    machine.ok("systemctl", "reload", "haproxy")
    until(lambda: (s := machine.status()["haproxy"])["pid"] != worker and s["in_sync"], within=10)

    machine.ok("systemctl", "stop", "haproxy")
    until(lambda: not machine.status()["haproxy"]["up"], within=10)
    machine.ok("systemctl", "start", "haproxy")
    until(lambda: (s := machine.status()["haproxy"])["up"] and s["in_sync"], within=10)
    assert machine.show("lbagent", "MainPID") == agent


def a_bad_configuration_changes_nothing(machine):
    configuration = machine.root / "etc/lbagent/lbagent.yaml"
    good = configuration.read_text()
    agent = machine.show("lbagent", "MainPID")

    configuration.write_text("nonsense: 1\n")
    assert machine.run("systemctl", "reload", "lbagent").returncode != 0
    assert "$: unknown key 'nonsense'" in machine.journal()
    machine.status()
    assert machine.show("lbagent", "MainPID") == agent

    # Not even many failed starts make systemd give up: the agent is back as soon as the configuration is good.
    machine.run("systemctl", "restart", "lbagent")
    until(lambda: int(machine.show("lbagent", "NRestarts")) >= 6, within=30)
    configuration.write_text(good)
    until(lambda: machine.agent_pid_other_than(agent), within=10)
    machine.ok("systemctl", "reload", "lbagent")
    machine.status()


def an_agent_that_hangs_is_replaced(machine):
    drop_in = machine.root / "etc/systemd/system/lbagent.service.d/fast.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=2\n")
    machine.ok("systemctl", "daemon-reload")
    machine.ok("systemctl", "restart", "lbagent")
    pid = machine.show("lbagent", "MainPID")
    time.sleep(5)
    assert machine.show("lbagent", "MainPID") == pid  # one that works feeds the watchdog

    machine.ok("kill", "-STOP", pid)
    until(lambda: machine.agent_pid_other_than(pid), within=20)
    assert "watchdog" in machine.journal().lower()
    machine.status()
