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
    Measure("build_info", "1, with the version of lbagent that runs", ("version",), lambda *_: [((__version__,), 1.0)]),
    Measure("haproxy_up", "1 while HAProxy serves", (), _one(lambda s, _: s.haproxy.up)),
    Measure(
        "runtime_socket_exhausted",
        "1 while every connection that HAProxy's runtime socket takes is in use",
        (),
        _one(lambda s, _: s.haproxy.socket_used_up),
    ),
    Measure(
        "haproxy_in_sync",
        "1 while HAProxy and its files hold what operators asked for",
        (),
        _one(lambda s, _: s.haproxy.in_sync),
    ),
    Measure(
        "haproxy_guard",
        "Whether HAProxy's configuration has the guard",
        ("state",),
        lambda status, _: [((g,), float(status.haproxy.guard == g)) for g in ("present", "missing", "old")],
    ),
    Measure(
        "haproxy_old_workers",
        "Workers that a reload left behind; absent without a master socket",
        (),
        _one(lambda s, _: s.haproxy.old_workers),
    ),
    Measure(
        "haproxy_reloads",
        "Reloads of HAProxy, by the new workers that were seen",
        (),
        _one(lambda _, c: c.reloads),
        "counter",
    ),
    Measure(
        "reconcile_errors",
        "Comparisons of HAProxy with the intent, or repairs, that failed",
        (),
        _one(lambda _, c: c.errors),
        "counter",
    ),
    Measure(
        "drift_repaired",
        "Repairs of what somebody else had changed in HAProxy",
        (),
        _one(lambda _, c: c.repaired),
        "counter",
    ),
    Measure(
        "haproxy_clients",
        "Connections of clients to HAProxy, in every worker",
        (),
        _one(lambda s, _: s.haproxy.clients),
    ),
    Measure(
        "tick_seconds",
        "Seconds between two looks at HAProxy: how old the other metrics may be",
        (),
        _one(lambda s, _: s.haproxy.tick),
    ),
    Measure(
        "store_up",
        "1 while etcd answers; absent without etcd",
        (),
        _one(lambda s, _: s.store.etcd if s.store else None),
    ),
    Measure("agent_alive", "1 while the agent reports to etcd", ("agent",), _agents(lambda a: a.alive)),
    Measure(
        "agent_in_sync",
        "1 while the HAProxy of the agent holds the newest intent that the agent has",
        ("agent",),
        _agents(lambda a: a.in_sync),
    ),
    Measure(
        "agent_revision",
        "Number of the newest intent that is in force at the HAProxy of the agent",
        ("agent",),
        _agents(lambda a: a.revision),
    ),
    Measure(
        "service_mode",
        "The mode of the service that is in force",
        ("service", "mode"),
        lambda status, _: [((s.name, mode), float(s.mode == mode)) for s in status.services for mode in Mode],
    ),
    Measure(
        "service_window_start_timestamp_seconds",
        "When the mode of the service starts or started, in seconds since 1970",
        ("service",),
        _services(lambda s: s.start),
    ),
    Measure(
        "service_window_end_timestamp_seconds",
        "When the mode of the service is expected to end, in seconds since 1970",
        ("service",),
        _services(lambda s: s.until),
    ),
    Measure(
        "service_sessions",
        "Requests that are open on the servers of the service",
        ("service",),
        _services(lambda s: s.sessions),
    ),
    Measure(
        "service_quiesced",
        "1 while the service is closed and no older request is left that the mode would refuse",
        ("service",),
        _services(lambda s: s.quiesced),
    ),
    Measure(
        "service_overdue",
        "1 while the announced end has passed and the service is still closed",
        ("service",),
        _services(lambda s: any(window.overdue for window in s.windows)),
    ),
    Measure(
        "service_open_backends",
        "Backends of the service that let through more than was asked",
        ("service",),
        _services(lambda s: len(s.open)),
    ),
    Measure(
        "node_state",
        "The state of the node",
        ("node", "state"),
        lambda status, _: [((n.name, state), float(n.state == state)) for n in status.nodes for state in NodeState],
    ),
    Measure(
        "node_drain_started_timestamp_seconds",
        "When the drain was asked for, in seconds since 1970",
        ("node",),
        _nodes(lambda n: n.since),
    ),
    Measure(
        "node_drain_deadline_timestamp_seconds",
        "When the command stops waiting for the drain, in seconds since 1970",
        ("node",),
        _nodes(lambda n: n.deadline),
    ),
    Measure(
        "server_sessions",
        "Requests that the server works on or has queued, in every worker",
        SERVER,
        lambda status, _: [(key, float(s.sessions)) for key, s in _servers(status)],
    ),
    Measure(
        "server_admin_state",
        "The admin state of the server",
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
            "lbagent_commands",
            "Commands, by verb and by what became of them",
            ["command", "result"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "lbagent_reconcile_duration_seconds",
            "Seconds that a comparison of HAProxy with the intent took, repairs included",
            registry=self.registry,
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
