"""What Prometheus scrapes: the last tick's view; a scrape never talks to HAProxy. Names: DESIGN §6."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from lbagent import __version__
from lbagent.agent.agent import Agent
from lbagent.model.intent import Mode
from lbagent.model.servers import Admin, NodeState


class Metrics(Collector):
    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._commands = Counter(
            "lbagent_commands", "Commands by what became of them", ["command", "result"], registry=self.registry
        )
        self._durations = Histogram(
            "lbagent_reconcile_duration_seconds", "How long a tick took", registry=self.registry
        )

    def command(self, command: str, result: str) -> None:
        self._commands.labels(command, result).inc()

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes([web.get("/metrics", self._serve)])
        return application

    async def _serve(self, _: web.Request) -> web.Response:
        while self._agent.durations:
            self._durations.observe(self._agent.durations.pop())
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def collect(self) -> Iterator[Metric]:
        agent = self._agent
        status = agent.status()
        haproxy = status["haproxy"]
        yield _gauge("build_info", "What runs", ["version"], [((__version__,), 1)])
        yield _gauge("haproxy_up", "HAProxy answers on its runtime socket", [], [((), haproxy["up"])])
        yield _gauge("haproxy_in_sync", "HAProxy and its files hold the intent", [], [((), haproxy["in_sync"])])
        yield _gauge(
            "haproxy_guard",
            "Whether HAProxy's configuration carries the guard",
            ["state"],
            [((state,), haproxy["guard"] == state) for state in ("present", "missing", "old")],
        )
        old = haproxy["old_workers"]
        yield _gauge(
            "haproxy_old_workers",
            "Workers left over by a reload; absent without a master socket",
            [],
            [((), old)] if old is not None else [],
        )
        yield _counter("haproxy_reloads", "New workers seen", agent.reloads)
        yield _counter("reconcile_errors", "Ticks or actions that failed", agent.errors)
        yield _counter("drift_repaired", "Actions that put right what somebody else had changed", agent.repaired)
        yield _gauge("haproxy_clients", "Connections of clients, in every worker", [], [((), haproxy["clients"])])
        yield from self._agents(status)
        yield from self._services(status["services"])
        yield from self._nodes(status["nodes"])
        servers = [s for service in status["services"] for s in service["servers"]]
        unique = {(s["backend"], s["server"], s["node"] or ""): s for s in servers}
        labels = ["backend", "server", "node"]
        yield _gauge(
            "server_sessions",
            "Requests a server works on or has queued, in every worker",
            labels,
            [(k, s["sessions"]) for k, s in unique.items()],
        )
        yield _gauge(
            "server_admin_state",
            "A server's administrative state",
            [*labels, "state"],
            [((*k, a), s["admin"] == a) for k, s in unique.items() for a in Admin],
        )

    def _agents(self, status: dict[str, Any]) -> Iterator[Metric]:
        """Where the intent is shared: the store, and every HAProxy's agent as it is seen there."""
        if "agents" not in status:
            return
        yield _gauge("store_up", "etcd answers", [], [((), status["store"]["etcd"])])
        for name, text in (("alive", "Its lease is renewed"), ("in_sync", "Its HAProxy holds its newest intent")):
            yield _gauge(f"agent_{name}", text, ["agent"], [((a["node"],), a[name]) for a in status["agents"]])
        yield _gauge(
            "agent_revision",
            "Newest revision of the intent that is in force there",
            ["agent"],
            [((a["node"],), a["revision"]) for a in status["agents"]],
        )

    def _services(self, services: list[dict[str, Any]]) -> Iterator[Metric]:
        label = ["service"]
        yield _gauge(
            "service_mode",
            "The mode in force",
            ["service", "mode"],
            [((s["name"], mode), s["mode"] == mode) for s in services for mode in Mode],
        )
        for name, key, text in (
            ("service_window_start_timestamp_seconds", "start", "When the mode starts or started"),
            ("service_window_end_timestamp_seconds", "until", "When the mode is expected to end"),
        ):
            yield _gauge(name, text, label, [((s["name"],), s[key]) for s in services if s[key]])
        yield _gauge(
            "service_sessions", "Requests its servers work on", label, [((s["name"],), s["sessions"]) for s in services]
        )
        yield _gauge(
            "service_quiesced",
            "No request that the mode would refuse is left",
            label,
            [((s["name"],), s["quiesced"]) for s in services],
        )

    def _nodes(self, nodes: list[dict[str, Any]]) -> Iterator[Metric]:
        yield _gauge(
            "node_state",
            "What a node's servers do",
            ["node", "state"],
            [((n["name"], state), n["state"] == state) for n in nodes for state in NodeState],
        )
        for name, key, text in (
            ("node_drain_started_timestamp_seconds", "since", "When its drain was asked for"),
            ("node_drain_deadline_timestamp_seconds", "deadline", "When its drain gives up waiting"),
        ):
            yield _gauge(name, text, ["node"], [((n["name"],), n[key]) for n in nodes if n[key]])


def _gauge(name: str, text: str, labels: list[str], samples: list[tuple[tuple[object, ...], Any]]) -> Metric:
    family = GaugeMetricFamily(f"lbagent_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric([str(v) for v in values], float(value))
    return family


def _counter(name: str, text: str, value: int) -> Metric:
    family = CounterMetricFamily(f"lbagent_{name}", text)
    family.add_metric([], value)
    return family
