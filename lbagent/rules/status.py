"""``lbctl status``: what is, and why, worked out from what HAProxy does and what was asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from lbagent import __version__
from lbagent.cluster.members import Member, View, sessions_elsewhere
from lbagent.guard import VERSION
from lbagent.model.intent import Intent, Mode, Opening, Phase, ServiceIntent
from lbagent.model.observed import Observed, Stream
from lbagent.model.servers import Admin, Health, NodeState, Ref
from lbagent.model.status import (
    AgentStatus,
    HAProxyStatus,
    NodeStatus,
    ServerStatus,
    ServiceStatus,
    Status,
    StoreStatus,
    WindowStatus,
)
from lbagent.rules.barrier import Key
from lbagent.rules.in_force import Table, node_state, tables, weakest
from lbagent.topology.resolve import Topology


class Report:
    """Everything that a status is made of; ``view`` is what the other HAProxies report, None without any."""

    def __init__(
        self,
        node: str,
        topology: Topology,
        intent: Intent,
        observed: Observed,
        barriers: Mapping[str, dict[Key, Stream] | None],
        now: float,
        view: View | None = None,
    ) -> None:
        self.node, self.topology, self.intent, self.observed = node, topology, intent, observed
        self.barriers, self.now, self.view = barriers, now, view

    @cached_property
    def elsewhere(self) -> Mapping[Ref, int]:
        """Requests that the other HAProxies have open, by server."""
        return sessions_elsewhere(self.view, self.node)

    @cached_property
    def open_elsewhere(self) -> set[str]:
        """Subjects for which another HAProxy still waits."""
        view = self.view
        alive = [m for m in view.others(self.node) if m.node in view.alive] if view else []
        return {subject for member in alive for subject in member.open}

    def make(
        self,
        *,
        in_sync: bool,
        trouble: str,
        revision: int,
        tick: float,
        agents: list[AgentStatus] | None = None,
        store: StoreStatus | None = None,
    ) -> Status:
        topology, intent, observed = self.topology, self.intent, self.observed
        old = observed.old_workers
        unasked = observed.error if observed.alive else ""
        names = [*topology.services, *(n for n in intent.services if n not in topology.services)]
        nodes = [*topology.nodes, *(n for n in intent.drains if n not in topology.nodes)]
        return Status(
            node=self.node,
            version=__version__,
            revision=revision,
            trouble="; ".join(dict.fromkeys(filter(None, (trouble, unasked, _without_guard(intent))))),
            haproxy=HAProxyStatus(
                up=observed.up or observed.alive,
                version=observed.version,
                pid=observed.pid,
                old_workers=len(old) if old is not None else None,
                masterless=observed.masterless,
                socket_used_up=observed.socket_used_up,
                in_sync=in_sync,
                guard=guard_state(topology, observed),
                clients=observed.connections,
                error=observed.error,
                tick=tick,
            ),
            services=[self._service(name) for name in names],
            nodes=[self._node(name) for name in nodes],
            agents=agents,
            store=store,
        )

    # ---------------------------------------------------------------------------------------- services

    def _service(self, name: str) -> ServiceStatus:
        known, asked = self.topology.services.get(name), self.intent.services.get(name)
        wanted = asked.effective(self.now) if asked else Mode.UP
        mode, opened = weakest(known, asked, self.observed, self._tables, self.now) if asked else (wanted, [])
        backends = self.observed.backends
        servers = [
            self._server(Ref(b, s))
            for b in (known.backends if known else ())
            for s in (backends[b].servers if b in backends else ())
        ]
        return ServiceStatus(
            name=name,
            mode=mode,
            asked=wanted,
            open=opened,
            opening=asked is not None and asked.opening is Opening.WAITING,
            windows=[_window(asked, self.now)] if asked else [],
            scheduled=asked.mode if asked and wanted is Mode.UP else None,
            start=asked.start if asked else None,
            until=asked.until if asked else None,
            reason=asked.reason if asked else "",
            by=asked.by if asked else "",
            sessions=sum(server.sessions for server in servers),
            quiesced=not opened
            and quiesced(name, self.intent, self.barriers, self.now)
            and name not in self.open_elsewhere,
            orphan=known is None or bool(known.missing and asked),
            frontends=list(known.config.frontends) if known else [],
            tcp=list(known.tcp) if known else [],
            missing=list(known.missing) if known else [],
            servers=servers,
        )

    @cached_property
    def _tables(self) -> list[Table]:
        return tables(self.observed)

    @cached_property
    def _used(self) -> set[Ref]:
        """Servers that HAProxy would give a new request."""
        return {server.ref for backend in self.observed.backends.values() for server in backend.used()}

    @cached_property
    def _held(self) -> Mapping[Ref, bool]:
        """Servers that lbagent holds, and whether somebody else had taken them out before."""
        return {ref: hold.server.foreign is not None for ref, hold in self.intent.held().items()}

    def _server(self, ref: Ref) -> ServerStatus:
        seen = self.observed.server(ref)
        return ServerStatus(
            backend=ref.backend,
            server=ref.server,
            node=self.topology.owner.get(ref),
            admin=seen.admin if seen else Admin.READY,
            health=seen.health if seen else Health.NONE,
            sessions=self.observed.sessions(ref) + self.elsewhere.get(ref, 0),
            foreign=bool(seen and seen.admin is not Admin.READY and self._held.get(ref, True)),
            used=ref in self._used,
        )

    # ------------------------------------------------------------------------------------------- nodes

    def _node(self, name: str) -> NodeStatus:
        drains = self.intent.drains.get(name, {})
        first = min(drains.values(), key=lambda d: d.since, default=None)
        deadlines = [d.deadline for d in drains.values() if d.deadline is not None]
        held = [h.ref for d in drains.values() for h in d.servers]
        state = node_state(name, self.intent, self.observed, self.topology, self.elsewhere)
        refs = dict.fromkeys((*self.topology.nodes.get(name, ()), *held))
        return NodeStatus(
            name=name,
            state=state,
            since=first.since if first else None,
            deadline=max(deadlines) if deadlines and state is NodeState.DRAINING else None,
            sessions=sum(self.observed.sessions(ref) + self.elsewhere.get(ref, 0) for ref in refs),
            reason=first.reason if first else "",
            by=first.by if first else "",
            services=sorted(drains),
            returning=any(d.phase is not Phase.HELD for d in drains.values()),
            orphans=[str(ref) for ref in held if self.observed.up and not self.observed.server(ref)],
        )


def guard_state(topology: Topology, observed: Observed) -> str:
    """``present`` (wherever it should be), ``missing`` (somewhere it should be) or ``old``."""
    versions = [observed.backends[b].guard for s in topology.services.values() for b in s.http]
    if topology.services and not versions:  # nothing but mode tcp: there is no request to guard
        return "present"
    unread = observed.table is None and not observed.alive
    if unread or not versions or None in versions:
        return "missing"
    return "old" if any(v is not None and v < VERSION for v in versions) else "present"


def quiesced(name: str, intent: Intent, barriers: Mapping[str, dict[Key, Stream] | None], now: float) -> bool:
    """No request that the mode would refuse is held by any worker; an open service has none to wait for."""
    service = intent.services.get(name)
    if service is None or service.effective(now) is Mode.UP:
        return False
    return barriers.get(name) == {}


def agents(view: View, node: str, own: Member, alone: bool) -> list[AgentStatus]:
    """Every HAProxy ever seen; this one as it is now. One that is ``alone`` sees no other alive."""
    shown = view.known() | {node: own}
    alive = {name: name == node or (name in view.alive and not alone) for name in shown}
    return [
        AgentStatus(
            node=name,
            alive=alive[name],
            revision=member.revision,
            in_sync=member.in_sync and alive[name],
            haproxy=member.up,
            sessions=sum(member.sessions.values()),
            clients=member.clients,
            version=member.version,
            exceptions=list(member.exceptions),
            trouble=member.trouble,
        )
        for name, member in sorted(shown.items())
    ]


def _window(asked: ServiceIntent, now: float) -> WindowStatus:
    return WindowStatus(
        id=f"{asked.start}",
        mode=asked.mode,
        start=asked.start,
        until=asked.until,
        reason=asked.reason,
        by=asked.by,
        overdue=asked.until is not None and now >= asked.until,
        reopen=False,
    )


def _without_guard(intent: Intent) -> str:
    held = [name for name, drain in intent.guardless.items() if drain.phase is Phase.HELD]
    if not held:
        return ""
    return (
        f"the guard is gone from HAProxy's configuration of {', '.join(held)}: kept closed by putting its servers "
        "in maint; run `lbctl haproxy adopt --write` on it and reload HAProxy"
    )
