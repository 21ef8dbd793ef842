"""The guard's lines in haproxy.cfg, filled in from the templates in ``haproxy/``. Pure."""

from __future__ import annotations

from lbagent.guard import VERSION
from lbagent.settings import shipped

UPLOAD_LOADED = "LBAGENT_UPLOAD"  # in HAProxy's environment when upload.lua is loaded


def lines(backend: str, seen_dir: str) -> list[str]:
    """The guard of one backend, for the top of its section, after its tcp-request lines."""
    return _fill("guard.cfg", backend, seen_dir)


def steer_lines(backend: str, seen_dir: str) -> list[str]:
    """The guard's last lines: use-server rules, which HAProxy wants after http-request rules."""
    return _fill("steer.cfg", backend, seen_dir)


def global_lines(seen_dir: str) -> list[str]:
    """For HAProxy's global section, above every guard."""
    return _fill("global.cfg", "", seen_dir)


def marker(backend: str) -> str:
    """The pattern of the ACL by which a running HAProxy shows that a backend carries this guard."""
    return f"{VERSION}/{backend}"


def _fill(name: str, backend: str, seen_dir: str) -> list[str]:
    return [
        line.replace("@BACKEND@", backend).replace("@DIR@", seen_dir).replace("@VERSION@", str(VERSION))
        for line in shipped.text(name).splitlines()
        if not line.startswith("#")
    ]
