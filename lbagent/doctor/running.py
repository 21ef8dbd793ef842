"""Doctor on the running HAProxy: its runtime socket, its version, its master, uploads."""

from __future__ import annotations

from lbagent.doctor.finding import Finding
from lbagent.errors import HAProxyError
from lbagent.guard import cfg_lines
from lbagent.haproxy import admin_socket
from lbagent.haproxy.master import Master
from lbagent.model.observed import Observed
from lbagent.settings.config import Config

OLDEST = (2, 4)
READS_WHAT_IT_REFUSES = (3, 0)


def runtime_socket(config: Config, observed: Observed) -> list[Finding]:
    path = config.haproxy.socket
    if not observed.up:
        mend = f"look whether HAProxy runs, has `stats socket {path} level admin`, and lets this user connect"
        return [Finding("wrong", "runtime socket", observed.error, mend)]
    findings = []
    try:
        level = " ".join(admin_socket.channel(path).ask("show", "cli", "level")).strip()
    except HAProxyError as error:
        level = error.message
    if level == "admin":
        findings.append(Finding("ok", "runtime socket", f"{path}, level admin"))
    else:
        mend = f"write `level admin` behind `stats socket {path}` in HAProxy's global section, then reload HAProxy"
        findings.append(Finding("wrong", "runtime socket", f"{path} has level {level}", mend))
    if _version(observed) >= OLDEST:
        findings.append(Finding("ok", "version", f"HAProxy {observed.version}"))
    else:
        findings.append(Finding("wrong", "version", f"HAProxy {observed.version}", "2.4 or newer is needed"))
    return findings


def _version(observed: Observed) -> tuple[int, ...]:
    return tuple(int(part) for part in observed.version.split(".")[:2] if part.isdigit())


def uploads(config: Config, observed: Observed) -> list[Finding]:
    """Before 3.0, HAProxy needs Lua to let a client send all of what is refused."""
    if _version(observed) >= READS_WHAT_IT_REFUSES:
        return []
    try:
        loaded = "".join(admin_socket.channel(config.haproxy.socket).ask("show", "env", cfg_lines.UPLOAD_LOADED))
    except HAProxyError:
        return []
    if loaded.startswith(f"{cfg_lines.UPLOAD_LOADED}="):
        return [
            Finding("ok", "uploads", "a client that sends a large body to a closed service gets the answer, by Lua")
        ]
    mend = "run `lbctl haproxy adopt` again and reload HAProxy; an HAProxy without Lua has to be 3.0 or newer"
    return [
        Finding(
            "note", "uploads", "a client that sends a large body to a closed service may see a broken connection", mend
        )
    ]


def master(config: Config) -> Finding:
    path = config.haproxy.master_socket
    if path is None:
        mend = "start HAProxy with -W -S /run/haproxy-master.sock,mode,660,group,haproxy and set haproxy.master_socket"
        return Finding("note", "master socket", "none: workers that a reload left behind cannot be seen", mend)
    try:
        current, old = Master(path).workers()
    except HAProxyError as error:
        return Finding(
            "wrong", "master socket", error.message, "look whether HAProxy runs with -W -S and lets you connect"
        )
    return Finding("ok", "master socket", f"{path}: worker {current}, {len(old)} old")
