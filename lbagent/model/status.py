"""The answer of ``GET /v1/status`` as types: JSON, OpenAPI, lbctl's tables and the metrics are all made from these.

Plain data classes, so that lbctl can read them without loading the agent's libraries. Times are seconds since 1970;
counts of sessions are over every worker, and with a shared intent over every HAProxy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    backend: str
    server: str
    node: str | None  # None: it belongs to no node
    admin: str  # ready, drain or maint
    health: str  # up, down, or none where there is no check
    sessions: int  # requests that it works on or has queued
    foreign: bool  # somebody else than lbagent took it out
    used: bool  # HAProxy would give it a new request


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowStatus:
    id: str
    mode: str
    start: int
    until: int | None  # None: no end was given
    reason: str
    by: str
    overdue: bool  # its end has passed and the service is still closed
    reopen: bool  # it opens by the clock at its end


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    name: str
    mode: str  # what the weakest backend of the service does now
    asked: str  # what was asked
    open: list[str]  # backends that do less than was asked
    opening: bool  # it is to open as soon as HAProxy has servers for it
    windows: list[WindowStatus]  # in force and ahead, the first first
    scheduled: str | None  # the mode of a window ahead, while the service is up
    start: int | None
    until: int | None
    reason: str
    by: str
    sessions: int
    quiesced: bool  # closed, and no request from before is left that the mode would refuse
    orphan: bool  # the configuration no longer has it, or not all of it
    frontends: list[str]  # its modes concern these alone; empty: all
    tcp: list[str]  # backends that can only be drained
    missing: list[str]  # configured backends that HAProxy does not have
    servers: list[ServerStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    name: str
    state: str  # ready, draining or drained
    since: int | None
    deadline: int | None  # when the drain gives up waiting
    sessions: int
    reason: str
    by: str
    services: list[str]  # those that are drained
    returning: bool
    orphans: list[str]  # drained servers that the configuration no longer has


@dataclass(frozen=True, slots=True, kw_only=True)
class HAProxyStatus:
    up: bool
    version: str
    pid: int
    old_workers: int | None  # None: unknown, there is no master socket
    in_sync: bool
    guard: str  # present, missing or old
    clients: int  # connections of clients
    error: str  # why it is not up
    tick: float  # seconds between two looks: how old this may be


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """One HAProxy of those that share the intent."""

    node: str
    alive: bool
    revision: int  # the newest intent that it has in force
    in_sync: bool
    haproxy: bool  # its HAProxy is up
    sessions: int
    clients: int
    version: str
    exceptions: list[str]  # subjects that differ there by --local
    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    etcd: bool  # it answers
    alone_since: float | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    node: str
    version: str
    revision: int
    trouble: str
    haproxy: HAProxyStatus
    services: list[ServiceStatus]
    nodes: list[NodeStatus]
    agents: list[AgentStatus] | None = None  # only with a shared store
    store: StoreStatus | None = None  # likewise
