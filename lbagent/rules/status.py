"""``lbctl status``: what is, and why, as the JSON of DESIGN §6. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lbagent import __version__
from lbagent.cluster.cluster import Member, View, sessions_elsewhere
from lbagent.guard import VERSION
from lbagent.model.intent import GUARD_GONE, Drain, Held, Intent, Mode, Phase
from lbagent.model.observed import Observed, Stream
from lbagent.model.servers import Admin, Health, NodeState, Ref
from lbagent.rules.barrier import Key
from lbagent.topology.resolve import Topology


def guard_state(topology: Topology, observed: Observed) -> str:
    """``present``, ``missing`` (somewhere it should be) or ``old``."""
    versions = [observed.backends[b].guard for s in topology.services.values() for b in s.http]
    if observed.table is None or not versions or None in versions:
        return "missing"
    return "old" if any(v is not None and v < VERSION for v in versions) else "present"


def node_state(
    node: str, intent: Intent, observed: Observed, elsewhere: Mapping[Ref, int] = MappingProxyType({})
) -> NodeState:
    """The servers that are held decide: drained once none has a request open, here or ``elsewhere``."""
    drains = intent.drains.get(node, {})
    held = [h for d in drains.values() if d.phase is not Phase.RELEASED for h in d.servers]
    if not drains or not held:
        return NodeState.READY
    busy = any(observed.sessions(h.ref) or elsewhere.get(h.ref) for h in held)
    out = all(s is None or s.admin is not Admin.READY for s in (observed.server(h.ref) for h in held))
    return NodeState.DRAINED if out and not busy and not observed.blind else NodeState.DRAINING


def sessions_of(refs: tuple[Ref, ...], observed: Observed, elsewhere: Mapping[Ref, int] = MappingProxyType({})) -> int:
    return sum(observed.sessions(ref) + elsewhere.get(ref, 0) for ref in refs)


def quiesced(name: str, intent: Intent, barriers: Mapping[str, dict[Key, Stream] | None], now: float) -> bool:
    """No request that the mode would refuse is held by any worker; an open service has none to wait for."""
    service = intent.services.get(name)
    if service is None or service.effective(now) is Mode.UP:
        return False
    return barriers.get(name) == {}


def status(  # noqa: PLR0913 what is shown comes from as many owners
    node: str,
    topology: Topology,
    intent: Intent,
    observed: Observed,
    barriers: Mapping[str, dict[Key, Stream] | None],
    *,
    in_sync: bool,
    trouble: str,
    now: float,
    revision: int | None = None,
    view: View | None = None,
) -> dict[str, Any]:
    """The whole answer of ``GET /v1/status``. With a ``view``, sessions and quiescence count over all HAProxies."""
    elsewhere = sessions_elsewhere(view, node)
    open_elsewhere = {
        subject
        for member in (view.others(node) if view else ())
        if view and member.node in view.alive
        for subject in member.open
    }
    old = observed.old_workers
    held, owner = intent.held(), topology.owner
    names = [*topology.services, *(n for n in intent.services if n not in topology.services)]
    nodes = [*topology.nodes, *(n for n in intent.drains if n not in topology.nodes and n != GUARD_GONE)]
    return {
        "node": node,
        "version": __version__,
        "revision": intent.revision if revision is None else revision,
        "trouble": "; ".join(filter(None, (trouble, _guard_gone(intent)))),
        "haproxy": {
            "up": observed.up,
            "version": observed.version,
            "pid": observed.pid,
            "old_workers": len(old) if old is not None else None,
            "in_sync": in_sync,
            "guard": guard_state(topology, observed),
            "clients": observed.connections,
            "error": observed.error,
        },
        "services": [
            _service(n, topology, intent, held, owner, observed, barriers, now, elsewhere, n in open_elsewhere)
            for n in names
        ],
        "nodes": [_node(n, topology, intent, observed, elsewhere) for n in nodes],
    }


def agents(view: View, node: str, own: Member, alone: bool) -> list[dict[str, Any]]:
    """Every HAProxy ever seen; this one as it is now. One that is ``alone`` sees no other alive."""
    shown = view.known() | {node: own}
    return [
        {
            "node": name,
            "alive": name == node or (name in view.alive and not alone),
            "revision": member.revision,
            "in_sync": member.in_sync and (name == node or (name in view.alive and not alone)),
            "haproxy": member.up,
            "sessions": sum(member.sessions.values()),
            "clients": member.clients,
            "version": member.version,
            "exceptions": list(member.exceptions),
            "trouble": member.trouble,
        }
        for name, member in sorted(shown.items())
    ]


def _guard_gone(intent: Intent) -> str:
    held = [name for name, d in intent.drains.get(GUARD_GONE, {}).items() if d.phase is Phase.HELD]
    if not held:
        return ""
    return (
        f"the guard is gone from HAProxy's configuration of {', '.join(held)}: kept closed by putting its servers "
        "in maint; run `lbctl haproxy adopt --write` on it and reload HAProxy"
    )


def _service(  # noqa: PLR0913, PLR0917 as above
    name: str,
    topology: Topology,
    intent: Intent,
    held: Mapping[Ref, tuple[str, str, Drain, Held]],
    owner: Mapping[Ref, str],
    observed: Observed,
    barriers: Mapping[str, dict[Key, Stream] | None],
    now: float,
    elsewhere: Mapping[Ref, int],
    open_elsewhere: bool,
) -> dict[str, Any]:
    known = topology.services.get(name)
    asked = intent.services.get(name)
    mode = asked.effective(now) if asked else Mode.UP
    servers = [
        _server(Ref(b, s), held, owner, observed, elsewhere)
        for b in (known.backends if known else ())
        for s in (observed.backends[b].servers if b in observed.backends else ())
    ]
    return {
        "name": name,
        "mode": mode,
        "scheduled": asked.mode if asked and mode is Mode.UP else None,
        "start": asked.start if asked else None,
        "until": asked.until if asked else None,
        "reason": asked.reason if asked else "",
        "by": asked.by if asked else "",
        "sessions": sum(s["sessions"] for s in servers),
        "quiesced": quiesced(name, intent, barriers, now) and not open_elsewhere,
        "orphan": known is None or bool(known.missing and asked),
        "frontends": list(known.config.frontends) if known else [],
        "tcp": list(known.tcp) if known else [],
        "missing": list(known.missing) if known else [],
        "servers": servers,
    }


def _server(
    ref: Ref,
    held: Mapping[Ref, tuple[str, str, Drain, Held]],
    owner: Mapping[Ref, str],
    observed: Observed,
    elsewhere: Mapping[Ref, int],
) -> dict[str, Any]:
    seen = observed.server(ref)
    entry = held.get(ref)
    return {
        "backend": ref.backend,
        "server": ref.server,
        "node": owner.get(ref),
        "admin": seen.admin if seen else Admin.READY,
        "health": seen.health if seen else Health.NONE,
        "sessions": observed.sessions(ref) + elsewhere.get(ref, 0),
        "foreign": bool(seen and seen.admin is not Admin.READY and (entry is None or entry[3].foreign is not None)),
    }


def _node(
    name: str, topology: Topology, intent: Intent, observed: Observed, elsewhere: Mapping[Ref, int]
) -> dict[str, Any]:
    drains = intent.drains.get(name, {})
    first = min(drains.values(), key=lambda d: d.since, default=None)
    deadlines = [d.deadline for d in drains.values() if d.deadline is not None]
    orphans = [str(h.ref) for d in drains.values() for h in d.servers if observed.up and not observed.server(h.ref)]
    held = tuple(h.ref for d in drains.values() for h in d.servers)
    state = node_state(name, intent, observed, elsewhere)
    return {
        "name": name,
        "state": state,
        "since": first.since if first else None,
        "deadline": max(deadlines) if deadlines and state is NodeState.DRAINING else None,
        "sessions": sessions_of(tuple(dict.fromkeys((*topology.nodes.get(name, ()), *held))), observed, elsewhere),
        "reason": first.reason if first else "",
        "by": first.by if first else "",
        "services": sorted(drains),
        "returning": any(d.phase is not Phase.HELD for d in drains.values()),
        "orphans": orphans,
    }
