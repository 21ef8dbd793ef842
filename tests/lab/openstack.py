"""OpenStack's own clients, and the virtual environments that they and Keystone live in.

The packages come from the package registry. The environments are kept in LBAGENT_TEST_CACHE
(/var/cache/lbagent-test) and made again when their version list changes; taking the folder away is harmless.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("LBAGENT_TEST_CACHE", "/var/cache/lbagent-test"))
KEYSTONE = ("keystone>=27,<31", "gunicorn>=23,<28")
CLIENTS = (
    "keystoneauth1>=5.18,<6",  # before 5.16 Retry-After is ignored
    "openstacksdk>=4.8,<5",
    "python-openstackclient>=8,<11",
    "python-novaclient>=18.9,<19",
    "python-glanceclient>=4.8,<5",
    "python-neutronclient>=11,<15",
    "python-cinderclient>=9.7,<10",
    "python-heatclient>=4.2,<6",
)
PASSWORD = "secret"  # noqa: S105


def _environment(kind: str, packages: tuple[str, ...]) -> Path:
    """The bin folder of a virtual environment with ``packages``; whoever comes first makes it, the others wait."""
    python = f"{sys.version_info.major}.{sys.version_info.minor} {sys.base_prefix}"
    key = hashlib.sha256("\n".join((python, *packages)).encode()).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    place = CACHE / f"{kind}-{key}"
    with (CACHE / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():  # made where it stays: scripts name their interpreter by its path
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=120)
            pip = [place / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *packages]
            done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=900)
            assert done.returncode == 0, f"the packages of {kind} cannot be installed:\n{done.stderr[-2000:]}"
            (place / "complete").touch()
    return place / "bin"


def keystone_bin() -> Path:
    return _environment("keystone", KEYSTONE)


def clients_bin() -> Path:
    return _environment("clients", CLIENTS)


# ---------------------------------------------------------------------------------------------- the clients


@dataclass
class Clients:
    """The clients' environment, pointed at a cloud (or at none) by a clouds.yaml in ``folder``."""

    folder: Path
    cloud: dict[str, Any] | None = None
    bin: Path = field(default_factory=clients_bin)

    def __post_init__(self) -> None:
        (self.folder / "clouds.yaml").write_text(json.dumps({"clouds": {"test": self.cloud or {}}}))  # JSON is YAML

    def env(self, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "PYTHON"))}
        ours = {"OS_CLIENT_CONFIG_FILE": str(self.folder / "clouds.yaml"), "HOME": str(self.folder), "NO_COLOR": "1"}
        return clean | ours | ({"OS_CLOUD": "test"} if self.cloud else {}) | more

    def openstack(self, *arguments: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """The ``openstack`` command."""
        return self._run([self.bin / "openstack", *arguments], timeout, env)

    def script(self, text: str, *arguments: str, timeout: float = 120, **env: str) -> Any:
        """What a script prints, as JSON."""
        done = self._run([self.bin / "python", "-c", text, *arguments], timeout, env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def begin(self, text: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.bin / "python", "-u", "-c", text, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env(**env),
        )

    def _run(self, command: list[Any], timeout: float, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, env=self.env(**env)
        )


# --------------------------------------------------------------------------------------------- the Keystones


# ------------------------------------------------------------------------------------------ version documents


# ------------------------------------------------------------------------------------------------- the cloud
