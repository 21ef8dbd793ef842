"""``lbctl doctor``: looks at HAProxy, its configuration and lbagent's files, and says how to mend what is not right."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Literal

import msgspec

from lbagent import files
from lbagent.errors import HAProxyError, StoreError
from lbagent.guard import VERSION, cfg_lines, file_names
from lbagent.haproxy.instance import FILES, HAProxy
from lbagent.haproxy.master import Master
from lbagent.haproxy.runtime import AdminSocket
from lbagent.haproxy_cfg import reading
from lbagent.haproxy_cfg.reading import Reading, Route
from lbagent.model.observed import Observed
from lbagent.settings.config import Config
from lbagent.topology import discovery
from lbagent.topology.resolve import Service, Topology, topology

OLDEST = (2, 4)
READS_WHAT_IT_REFUSES = (3, 0)

Verdict = Literal["ok", "note", "warning", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """One check: what was looked at, what was found, and the mend where one is needed."""

    verdict: Verdict
    about: str
    found: str
    mend: str = ""


def examine(config: Config) -> list[Finding]:
    """Every check, whatever the ones before it found."""
    balancer = HAProxy(config.haproxy)
    observed = balancer.observe()
    reading, findings = read_configuration(config)
    findings = [*_haproxy(config, observed), *findings]
    if observed.up:
        known = topology(config, observed.backends)
        findings += _guard(config, observed, known, reading)
        findings += _services(config, observed, known)
        findings += _uploads(config, observed)
        if reading is not None:
            findings += [_public(name, service, reading.routes) for name, service in known.services.items()]
    if reading is not None:
        findings += _settings(config, reading)
    return [*findings, *_state_dir(config), _master(config), *_etcd(config)]


def read_configuration(config: Config) -> tuple[Reading | None, list[Finding]]:
    """HAProxy's configuration files, None with the reason when they cannot be read."""
    texts = []
    for name in config.haproxy.config:
        try:
            texts += [(str(file), files.text(file)) for file in files.configuration(Path(name))]
        except OSError as error:
            mend = "name the files in haproxy.config, and let lbagent's user read them"
            return None, [Finding("warning", "configuration", f"{name} cannot be read: {error.strerror}", mend)]
    return reading.read(texts), []


def _haproxy(config: Config, observed: Observed) -> list[Finding]:
    path = config.haproxy.socket
    if not observed.up:
        mend = f"is HAProxy running, does it have `stats socket {path} level admin`, may this user connect to it?"
        return [Finding("wrong", "runtime socket", observed.error, mend)]
    findings = []
    try:
        level = " ".join(AdminSocket(path).run("show cli level")).strip()
    except HAProxyError as error:
        level = error.message
    if level == "admin":
        findings.append(Finding("ok", "runtime socket", f"{path}, level admin"))
    else:
        mend = f"write `level admin` behind `stats socket {path}` in HAProxy's global section and reload"
        findings.append(Finding("wrong", "runtime socket", f"{path} has level {level}", mend))
    if _version(observed) >= OLDEST:
        findings.append(Finding("ok", "version", f"HAProxy {observed.version}"))
    else:
        findings.append(Finding("wrong", "version", f"HAProxy {observed.version}", "2.4 or newer is needed"))
    return findings


def _version(observed: Observed) -> tuple[int, ...]:
    return tuple(int(part) for part in observed.version.split(".")[:2] if part.isdigit())


def _guard(config: Config, observed: Observed, known: Topology, reading: Reading | None) -> list[Finding]:
    findings = []
    named = " ".join(config.haproxy.config)
    wanted = [b for s in known.services.values() for b in s.http]
    bare = [b for b in wanted if observed.backends[b].guard is None]
    old = [b for b in wanted if (v := observed.backends[b].guard) is not None and v < VERSION]
    written = reading.guards if reading else {}
    unloaded = [b for b in bare if b in written]
    absent = [b for b in bare if b not in written]
    if unloaded:
        mend = "reload HAProxy"
        findings.append(Finding("wrong", "guard", f"in the file but not running: {', '.join(unloaded)}", mend))
    if absent:
        mend = f"lbctl haproxy adopt {named} --write, then reload HAProxy"
        findings.append(Finding("wrong", "guard", f"missing in {', '.join(absent)}", mend))
    if old:
        mend = f"lbctl haproxy adopt {named} --write, then reload HAProxy, at leisure"
        findings.append(Finding("warning", "guard", f"an older version in {', '.join(old)}; it goes on working", mend))
    if wanted and not bare and not old:
        findings.append(Finding("ok", "guard", f"in every backend of every service ({len(wanted)})"))
    if reading is not None and reading.dirs - {config.haproxy.seen_dir}:
        others = ", ".join(sorted(reading.dirs - {config.haproxy.seen_dir}))
        mend = "adopt again, or set haproxy.state_dir (in a container: state_dir_in_haproxy) to that folder"
        findings.append(Finding("wrong", "guard", f"reads {others}, lbagent writes {config.haproxy.seen_dir}", mend))
    unread = [n for n in file_names.LISTS if n not in observed.lists] + (
        [file_names.MAP] if observed.table is None else []
    )
    if wanted and len(bare) < len(wanted):
        if unread:
            mend = "HAProxy loads them from the guard's lines: adopt again and reload"
            findings.append(Finding("wrong", "maps", f"not loaded: {', '.join(unread)}", mend))
        else:
            findings.append(Finding("ok", "maps", f"the map and {len(file_names.LISTS)} lists are loaded"))
    return findings


def _services(config: Config, observed: Observed, known: Topology) -> list[Finding]:
    findings = []
    source = "configured" if config.services else "discovered"
    if not known.services:
        findings.append(Finding("warning", "services", "none: no http backend has servers"))
    for name, service in known.services.items():
        why = (
            "" if config.services else ", " + "; ".join(dict.fromkeys(discovery.service_of(b)[1] for b in service.http))
        )
        preset = f"preset {service.config.preset}"
        findings.append(Finding("ok", "service", f"{name} ({source}{why}): {', '.join(service.backends)}; {preset}"))
    for node, refs in known.nodes.items():
        names = ", ".join(dict.fromkeys(ref.server for ref in refs))
        findings.append(Finding("ok", "node", f"{node}: {len(refs)} servers, by name or address: {names}"))
    if not known.nodes:
        findings.append(Finding("warning", "nodes", "none: no service has a server"))
    for name, service in known.services.items():
        if service.missing:
            mend = f"mend $.services.{name}.backends, or HAProxy's configuration"
            findings.append(Finding("wrong", "services", f"{name}: not in HAProxy: {', '.join(service.missing)}", mend))
        absent = [f for f in service.config.frontends if f.partition("@")[0] not in observed.frontends]
        if absent:
            mend = f"mend $.services.{name}.frontends"
            findings.append(Finding("wrong", "services", f"{name}: no such frontend: {', '.join(absent)}", mend))
        if service.tcp:
            findings.append(Finding("note", "services", f"{name}: mode tcp, drain only: {', '.join(service.tcp)}"))
    owned = {b for s in known.services.values() for b in s.backends}
    strays = [n for n, b in observed.backends.items() if b.http and b.servers and n not in owned]
    if strays:
        mend = "no mode and no drain touches them; list them under services if they should be part of it"
        findings.append(Finding("note", "services", f"http backends that no service owns: {', '.join(strays)}", mend))
    return findings


def _uploads(config: Config, observed: Observed) -> list[Finding]:
    """Before 3.0, HAProxy needs Lua to let a client send all of what is refused."""
    if _version(observed) >= READS_WHAT_IT_REFUSES:
        return []
    try:
        loaded = "".join(AdminSocket(config.haproxy.socket).run(f"show env {cfg_lines.UPLOAD_LOADED}"))
    except HAProxyError:
        return []
    if loaded.startswith(f"{cfg_lines.UPLOAD_LOADED}="):
        return [Finding("ok", "uploads", "large ones to a closed service end in a readable answer, by Lua")]
    mend = "adopt again and reload, or write the lines yourself (haproxy/global.cfg); with no Lua in HAProxy, take 3.0"
    return [Finding("note", "uploads", "large ones to a closed service may end in a broken connection", mend)]


def _public(name: str, service: Service, routes: tuple[Route, ...]) -> Finding:
    """Which frontends a mode could be restricted to, so that internal traffic stays open."""
    if service.config.frontends:
        return Finding("ok", "frontends", f"{name}: modes concern {', '.join(service.config.frontends)} only")
    reached = [r for r in routes if set(r.backends) & set(service.http)]
    public = [r.frontend for r in reached if discovery.is_public(r.frontend)]
    inside = [r.frontend for r in reached if not discovery.is_public(r.frontend)]
    binds = list(dict.fromkeys(bind for r in reached for bind in r.binds))
    if public and inside:
        mend = f"to leave {', '.join(inside)} open: services: {{{name}: {{frontends: [{', '.join(public)}]}}}}"
        return Finding(
            "note", "frontends", f"{name}: modes concern every frontend; public by name: {', '.join(public)}", mend
        )
    if len(reached) == 1 and len(binds) > 1:
        at = f"{reached[0].frontend}@ADDRESS"
        mend = f'to leave the internal one open: services: {{{name}: {{frontends: ["{at}"]}}}}, with the public address'
        return Finding("note", "frontends", f"{name}: cannot tell which of {', '.join(binds)} is public", mend)
    if any(r.dynamic for r in routes) and not reached:
        return Finding("note", "frontends", f"{name}: routed by a map, cannot tell which frontends lead there")
    return Finding("note", "frontends", f"{name}: cannot tell a public from an internal frontend; modes concern all")


def _settings(config: Config, reading: Reading) -> list[Finding]:
    findings = []
    ours = f"{config.haproxy.seen_dir}/{file_names.STATE}"
    if reading.state_file == ours:
        findings.append(Finding("ok", "server-state file", ours))
    else:
        mend = "lbctl haproxy adopt names it in the global section; without it a reload of HAProxy ends every drain"
        findings.append(Finding("wrong", "server-state file", reading.state_file or "none is named", mend))
    if reading.hard_stop_after:
        findings.append(Finding("ok", "hard-stop-after", reading.hard_stop_after))
    else:
        mend = "write e.g. `hard-stop-after 30m` into HAProxy's global section"
        findings.append(
            Finding("note", "hard-stop-after", "not set: a worker left over by a reload may live for ever", mend)
        )
    return findings


def _state_dir(config: Config) -> list[Finding]:
    folder = Path(config.haproxy.state_dir)
    if not folder.is_dir():
        mend = "lbctl haproxy adopt --write makes it, or start lbagent"
        return [Finding("wrong", "state_dir", f"{folder} does not exist", mend)]
    findings = []
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        mend = "lbagent puts them back within a second while it runs; HAProxy cannot start without them"
        findings.append(Finding("wrong", "state_dir", f"missing in {folder}: {', '.join(missing)}", mend))
    closed = [n for n in FILES if (folder / n).is_file() and not (folder / n).stat().st_mode & 0o004]
    if closed or not folder.stat().st_mode & 0o001:
        mend = f"chmod -R o+rX {folder}"
        findings.append(Finding("warning", "state_dir", f"HAProxy may not read {', '.join(closed) or folder}", mend))
    if not os.access(folder, os.W_OK):
        findings.append(Finding("note", "state_dir", f"this user may not write {folder}; lbagent's has to"))
    return findings or [Finding("ok", "state_dir", f"{folder}, {len(FILES)} files")]


def _master(config: Config) -> Finding:
    path = config.haproxy.master_socket
    if path is None:
        mend = "start HAProxy with -W -S /run/haproxy-master.sock,mode,660,group,haproxy and set haproxy.master_socket"
        return Finding("note", "master socket", "none: workers left over by a reload cannot be seen", mend)
    try:
        current, old = Master(path).workers()
    except HAProxyError as error:
        return Finding("wrong", "master socket", error.message, "is HAProxy started with -W -S, may this user connect?")
    return Finding("ok", "master socket", f"{path}: worker {current}, {len(old)} old")


def _etcd(config: Config) -> list[Finding]:
    """Every endpoint by itself: failover hides one that is wrong until it is needed."""
    if config.store.etcd is None:
        return []
    from lbagent.store.etcd.store import EtcdStore  # noqa: PLC0415 requests takes its time, and one HAProxy alone needs none of it

    findings = []
    for endpoint in config.store.etcd.endpoints:
        only = msgspec.structs.replace(config.store.etcd, endpoints=(endpoint,))
        store = EtcdStore(only, config.node)
        try:
            view = asyncio.run(store.look())
        except StoreError as error:
            mend = "is that member running, can it be reached, are store.etcd.ca, cert, key and user right?"
            findings.append(Finding("wrong", "etcd", error.message, mend))
            continue
        finally:
            store.close()
        revision = view.intent.revision if view.intent else "none"
        away = sorted(set(view.known()) - view.alive)
        findings.append(Finding("ok", "etcd", f"{endpoint}: shared intent {revision}, {len(view.known())} agents"))
        if away and len(findings) == 1:
            mend = "start them, or `lbctl forget NODE` for one that is gone for good: until then commands end with 7"
            findings.append(Finding("warning", "agents", f"away: {', '.join(away)}", mend))
    return findings
