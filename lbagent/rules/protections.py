"""The rules that may refuse a command, one function each, with the sentences that they refuse it with. Pure."""

from __future__ import annotations

from lbagent.errors import LbagentError
from lbagent.haproxy_cfg.scopes import scope_problems
from lbagent.model.intent import Intent, Mode, Phase
from lbagent.rules.request import Request
from lbagent.topology.resolve import Service


def refuse_what_cannot_close(request: Request, names: list[str]) -> list[str]:
    """Every rule about closing the services ``names``; returns notes."""
    services = [request.service(name) for name in names]
    notes = _tcp_backend(request, services)
    _guard_missing(request, [s for s in services if s.http or s.missing])
    _scope(request, services)
    return notes


def _tcp_backend(request: Request, services: list[Service]) -> list[str]:
    mixed = [s for s in services if s.tcp]
    if not mixed:
        return []
    named = "; ".join(f"{s.name} has {', '.join(s.tcp)}" for s in mixed)
    forced = request.overrides("tcp_backend")
    if not forced or any(not s.http for s in mixed):
        raise LbagentError(
            "tcp_backend",
            f"backends in mode tcp cannot be closed, only drained: {named}. "
            "Drain its nodes instead" + ("" if forced else ", or --force to close the http part alone"),
        )
    return [f"overridden: tcp_backend: stays open, mode tcp: {named}"]


def _guard_missing(request: Request, services: list[Service]) -> None:
    observed = request.observed
    if not observed.up:
        return
    bare = [
        f"{s.name} ({', '.join(b for b in s.http if observed.backends[b].guard is None)})"
        for s in services
        if any(observed.backends[b].guard is None for b in s.http)
    ]
    bare += [f"{s.name} (no such backend: {', '.join(s.missing)})" for s in services if s.missing]
    bare += [
        f"{s.name} (on {', '.join(nodes)})"
        for s in services
        if (nodes := request.elsewhere.bare.get(s.name)) and request.change.services.get(s.name) is not None
    ]
    if bare:
        raise LbagentError(
            "guard_missing",
            f"no guard in HAProxy's configuration for {'; '.join(bare)}: run `lbctl haproxy adopt --write` "
            "on it and reload HAProxy",
        )


def _scope(request: Request, services: list[Service]) -> None:
    """A mode that is restricted to what HAProxy does not listen on would close nothing."""
    observed = request.observed
    if not observed.up and observed.written is None:
        return
    running = observed.frontends if observed.up else None
    found = [p for s in services for p in scope_problems(s.config.frontends, s.http, observed.written, running)]
    if found:
        raise LbagentError("scope", f"a mode would not be what `frontends` says: {'; '.join(found)}")


def max_unavailable(request: Request, after: Intent) -> list[str]:
    """Refuse to drain more nodes together than the configuration allows; returns notes."""
    most = request.config.most_drained
    out, was = set(_drained(after)), set(_drained(request.before))
    if most is None or not out - was or len(out) <= most:
        return []
    new, there = ", ".join(sorted(out - was)), ", ".join(sorted(was))
    what = f"{new} would be drained beside {there}" if was else f"{new} would be drained together"
    if request.overrides("max_unavailable"):
        return [f"overridden: max_unavailable: {what}, and max_unavailable is {most}"]
    do = f"bring {there if len(was) == 1 else 'others'} back first (`lbctl ready`)" if was else "take fewer"
    raise LbagentError("max_unavailable", f"{what}, and max_unavailable is {most}: {do}, or --force")


def short_of_servers(request: Request, after: Intent) -> dict[str, list[str]]:
    """Services that ``after`` leaves with fewer servers than they need, and than they have now: name → sentences.

    What counts is which servers HAProxy would use: backups where nothing else is left, trackers with what they track,
    none without a weight. A backend that has no server before the command does not stand in its way.
    """
    held = set(after.held())
    out = {ref for ref, hold in request.before.held().items() if hold.drain.phase is not Phase.RELEASED}
    touched = {ref.backend for ref in request.newly_held(after)}
    sick = request.elsewhere.sick
    short: dict[str, list[str]] = {}
    for name, service in sorted(request.topology.services.items()):
        closed = after.services.get(name)
        if closed is not None and closed.effective(request.now) is Mode.DOWN:
            continue
        for backend in service.backends:
            if backend not in touched:
                continue
            seen = request.observed.backends[backend]
            ready = [server.ref for server in seen.used(out)]
            now = [ref for ref in ready if str(ref) not in sick]
            left = [server.ref for server in seen.used(held | out) if str(server.ref) not in sick]
            if len(left) < service.config.min_ready and len(left) < len(now):
                seen_from = "".join(
                    f", {ref} is not ready as seen from {', '.join(sick[str(ref)])}"
                    for ref in ready
                    if str(ref) in sick
                )
                short.setdefault(name, []).append(
                    f"{backend} would keep {len(left)} of {service.config.min_ready}{seen_from}"
                )
    return short


def not_kept(request: Request, after: Intent) -> list[str]:
    """Refuse a drain that HAProxy would forget at its next reload; returns notes."""
    observed = request.observed
    keeps = observed.written.keeps if observed.written is not None else frozenset()
    lost = sorted({ref.backend for ref in request.newly_held(after)} - keeps)
    if not lost:
        return []
    why = "these backends do not load lbagent's server-state file"
    if observed.written is None:
        why = f"its configuration cannot be read ({observed.unread})"
    what = f"HAProxy would forget this drain at its next reload in {', '.join(lost)}: {why}"
    if request.change.until_reload:
        return [f"{what}. It is repeated as soon as the agent sees that"]
    if request.overrides("not_kept"):
        return [f"overridden: not_kept: {what}"]
    file = " ".join(request.config.haproxy.config)
    raise LbagentError(
        "not_kept",
        f"{what}. Run `lbctl haproxy adopt {file} --write` and reload HAProxy, or accept it with --until-reload",
    )


def last_server(short: dict[str, list[str]]) -> LbagentError:
    """The refusal of a command that leaves the services of :func:`short_of_servers`."""
    named = "; ".join(f"{name}: {', '.join(why)} ready" for name, why in short.items())
    return LbagentError(
        "last_server",
        f"this would take the last ready server of {', '.join(short)} ({named}). Bring another node back first, "
        "or --last down to close these services with a 503, or --force",
    )


def _drained(intent: Intent) -> list[str]:
    """Nodes with a drain that is not being given back."""
    return [n for n, drains in intent.drains.items() if any(d.phase is not Phase.RELEASED for d in drains.values())]
