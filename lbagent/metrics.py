"""What Prometheus scrapes: the last view of the agent; a scrape never talks to HAProxy. The names are a contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from lbagent import __version__
from lbagent.agent.agent import Agent
from lbagent.model.intent import Mode
from lbagent.model.servers import Admin, NodeState
from lbagent.model.status import AgentStatus, NodeStatus, ServerStatus, ServiceStatus, Status

Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Counts:
    """What the agent has counted since its start."""

    reloads: int
    errors: int
    repaired: int


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric: its name without ``lbagent_``, what it says, its labels, and its samples for a status."""

    name: str
    text: str
    labels: tuple[str, ...]
    samples: Callable[[Status, Counts], Iterable[Sample]]
    kind: Literal["gauge", "counter"] = "gauge"

    def family(self, status: Status, counts: Counts) -> Metric:
        make = GaugeMetricFamily if self.kind == "gauge" else CounterMetricFamily
        family = make(f"lbagent_{self.name}", self.text, labels=self.labels)
        for values, value in self.samples(status, counts):
            family.add_metric(values, float(value))
        return family


def _one(value: Callable[[Status, Counts], float | None]) -> Callable[[Status, Counts], Iterable[Sample]]:
    def samples(status: Status, counts: Counts) -> Iterable[Sample]:
        found = value(status, counts)
        return [] if found is None else [((), float(found))]

    return samples


def _services(value: Callable[[ServiceStatus], float | None]) -> Callable[[Status, Counts], Iterable[Sample]]:
    return lambda status, _: [((s.name,), float(v)) for s in status.services if (v := value(s)) is not None]


def _nodes(value: Callable[[NodeStatus], float | None]) -> Callable[[Status, Counts], Iterable[Sample]]:
    return lambda status, _: [((n.name,), float(v)) for n in status.nodes if (v := value(n)) is not None]


def _agents(value: Callable[[AgentStatus], float]) -> Callable[[Status, Counts], Iterable[Sample]]:
    return lambda status, _: [((a.node,), float(value(a))) for a in status.agents or ()]


def _servers(status: Status) -> list[tuple[tuple[str, str, str], ServerStatus]]:
    """Each server once, though two services may share its backend."""
    unique = {(s.backend, s.server, s.node or ""): s for service in status.services for s in service.servers}
    return list(unique.items())


SERVER = ("backend", "server", "node")

MEASURES: tuple[Measure, ...] = (
    Measure("build_info", "What runs", ("version",), lambda *_: [((__version__,), 1.0)]),
    Measure("haproxy_up", "HAProxy answers on its runtime socket", (), _one(lambda s, _: s.haproxy.up)),
    Measure("haproxy_in_sync", "HAProxy and its files hold the intent", (), _one(lambda s, _: s.haproxy.in_sync)),
    Measure(
        "haproxy_guard",
        "Whether HAProxy's configuration carries the guard",
        ("state",),
        lambda status, _: [((g,), float(status.haproxy.guard == g)) for g in ("present", "missing", "old")],
    ),
    Measure(
        "haproxy_old_workers",
        "Workers left over by a reload; absent without a master socket",
        (),
        _one(lambda s, _: s.haproxy.old_workers),
    ),
    Measure("haproxy_reloads", "New workers seen", (), _one(lambda _, c: c.reloads), "counter"),
    Measure("reconcile_errors", "Ticks or actions that failed", (), _one(lambda _, c: c.errors), "counter"),
    Measure(
        "drift_repaired",
        "Actions that put right what somebody else had changed",
        (),
        _one(lambda _, c: c.repaired),
        "counter",
    ),
    Measure("haproxy_clients", "Connections of clients, in every worker", (), _one(lambda s, _: s.haproxy.clients)),
    Measure(
        "tick_seconds", "Seconds between two looks: how old the view may be", (), _one(lambda s, _: s.haproxy.tick)
    ),
    Measure("store_up", "etcd answers", (), _one(lambda s, _: s.store.etcd if s.store else None)),
    Measure("agent_alive", "Its lease is renewed", ("agent",), _agents(lambda a: a.alive)),
    Measure("agent_in_sync", "Its HAProxy holds its newest intent", ("agent",), _agents(lambda a: a.in_sync)),
    Measure(
        "agent_revision",
        "Newest revision of the intent that is in force there",
        ("agent",),
        _agents(lambda a: a.revision),
    ),
    Measure(
        "service_mode",
        "The mode in force",
        ("service", "mode"),
        lambda status, _: [((s.name, mode), float(s.mode == mode)) for s in status.services for mode in Mode],
    ),
    Measure(
        "service_window_start_timestamp_seconds",
        "When the mode starts or started",
        ("service",),
        _services(lambda s: s.start),
    ),
    Measure(
        "service_window_end_timestamp_seconds",
        "When the mode is expected to end",
        ("service",),
        _services(lambda s: s.until),
    ),
    Measure("service_sessions", "Requests its servers work on", ("service",), _services(lambda s: s.sessions)),
    Measure(
        "service_quiesced",
        "No request that the mode would refuse is left",
        ("service",),
        _services(lambda s: s.quiesced),
    ),
    Measure(
        "node_state",
        "What a node's servers do",
        ("node", "state"),
        lambda status, _: [((n.name, state), float(n.state == state)) for n in status.nodes for state in NodeState],
    ),
    Measure(
        "node_drain_started_timestamp_seconds", "When its drain was asked for", ("node",), _nodes(lambda n: n.since)
    ),
    Measure(
        "node_drain_deadline_timestamp_seconds",
        "When its drain gives up waiting",
        ("node",),
        _nodes(lambda n: n.deadline),
    ),
    Measure(
        "server_sessions",
        "Requests a server works on or has queued, in every worker",
        SERVER,
        lambda status, _: [(key, float(s.sessions)) for key, s in _servers(status)],
    ),
    Measure(
        "server_admin_state",
        "A server's administrative state",
        (*SERVER, "state"),
        lambda status, _: [((*key, a), float(s.admin == a)) for key, s in _servers(status) for a in Admin],
    ),
)


class Metrics(Collector):
    """Counts commands and ticks from its start; shows an agent's status from :meth:`watch` on."""

    def __init__(self) -> None:
        self._agent: Agent | None = None
        self.registry = CollectorRegistry()
        self._commands = Counter(
            "lbagent_commands", "Commands by what became of them", ["command", "result"], registry=self.registry
        )
        self._durations = Histogram(
            "lbagent_reconcile_duration_seconds", "How long a tick took", registry=self.registry
        )
        self.registry.register(self)

    def watch(self, agent: Agent) -> None:
        self._agent = agent

    def ticked(self, seconds: float) -> None:
        self._durations.observe(seconds)

    def command(self, command: str, result: str) -> None:
        self._commands.labels(command, result).inc()

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes([web.get("/metrics", self._serve)])
        return application

    async def _serve(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def collect(self) -> Iterator[Metric]:
        if self._agent is None:
            return
        status, reconciler = self._agent.status(), self._agent.reconciler
        counts = Counts(reconciler.reloads, reconciler.errors, reconciler.repaired)
        for measure in MEASURES:
            yield measure.family(status, counts)
