"""Doctor on the running HAProxy: its runtime socket, its version, its master, uploads."""

from __future__ import annotations

from lbagent.doctor.finding import Finding, Verdict
from lbagent.errors import HAProxyError
from lbagent.guard import cfg_lines
from lbagent.haproxy import admin_socket
from lbagent.model.observed import Observed
from lbagent.settings.config import Config
from lbagent.topology.resolve import Topology

OLDEST = (2, 4)
READS_WHAT_IT_REFUSES = (3, 0)


def runtime_socket(config: Config, observed: Observed) -> list[Finding]:
    path = config.haproxy.socket
    if observed.alive:
        found, _, mend = observed.error.partition(". ")
        return [Finding("wrong", "runtime socket", found, mend)]
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


def stickiness(observed: Observed, known: Topology) -> list[Finding]:
    """A drained server keeps the clients that a stick rule binds to it, unless lbagent knows of the rule."""
    owned = [name for service in known.services.values() for name in service.backends if name in observed.backends]
    unknown = [name for name in dict.fromkeys(owned) if not observed.backends[name].sticky_known]
    if not unknown:
        return []
    found = f"cannot tell whether {', '.join(unknown)} have stick rules: they are not in the files of haproxy.config"
    mend = "name every file that HAProxy loads in haproxy.config, and let lbagent's user read them"
    return [Finding("warning", "stickiness", found, mend)]


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


def master(config: Config, observed: Observed, agents: str | None) -> Finding:
    """``agents`` is why the agent uses no master socket, None where no agent answers: it runs as another user."""
    why = observed.masterless if agents is None else agents
    if not why:
        count = len(observed.old_workers or ())
        return Finding("ok", "master socket", f"in use; {count} old worker{'' if count == 1 else 's'}")
    found, _, mend = why.partition(": ")
    verdict: Verdict = "warning" if config.haproxy.master_socket else "note"
    return Finding(verdict, "master socket", f"{found}; workers that a reload left behind cannot be seen", mend)
