"""The answer of ``GET /v1/status`` as types: JSON, OpenAPI, lbctl's tables and the metrics are all made from these.

Plain data classes, so that lbctl can read them without loading the agent's libraries. Times are seconds since 1970;
counts of sessions are over every worker, and with a shared intent over every HAProxy. What stands behind a field is its
meaning in the manual's reference, which is written from here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    backend: str  # its backend
    server: str  # its name in HAProxy
    node: str | None  # its node; null: it belongs to none
    admin: str  # `ready`, `drain` or `maint`
    health: str  # `up`, `down`, or `none` where there is no check
    sessions: int  # requests that it works on or has queued
    foreign: bool  # somebody else than lbagent took it out of traffic
    used: bool  # HAProxy would give it a new request


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowStatus:
    id: str  # names the window in a command
    mode: str  # `down` or `read-only`
    start: int  # when it starts or started
    until: int | None  # when it is expected to end; null: no end was given
    reason: str  # why, in the operator's words
    by: str  # who asked for it
    overdue: bool  # its end has passed and the service is still closed
    reopen: bool  # HAProxy opens the service by its clock at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    name: str  # its name
    mode: str  # what its weakest backend does now: `up`, `read-only` or `down`
    asked: str  # the mode that was asked for
    open: list[str]  # backends that let more through than was asked for
    opening: bool  # it opens as soon as HAProxy has servers for it
    windows: list[WindowStatus]  # in force and ahead, the earliest first
    scheduled: str | None  # the mode of a window ahead, while the service is up
    start: int | None  # when the mode starts or started
    until: int | None  # when the mode is expected to end
    reason: str  # why, in the operator's words
    by: str  # who asked for the mode
    sessions: int  # requests that are open on its servers
    quiesced: bool  # it is closed, and no older request is left that the mode would refuse
    orphan: bool  # the configuration no longer has it, or not all of it
    frontends: list[str]  # its modes concern these alone; empty: all
    tcp: list[str]  # its backends in `mode tcp`, which can only be drained
    missing: list[str]  # configured backends that HAProxy does not have
    servers: list[ServerStatus]  # its servers


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    name: str  # its name
    state: str  # `ready`, `draining` or `drained`
    since: int | None  # when the drain was asked for
    deadline: int | None  # when the command stops waiting for the drain
    sessions: int  # requests that are open on its servers
    reason: str  # why it is drained, in the operator's words
    by: str  # who asked for the drain
    services: list[str]  # services whose servers on this node are drained
    returning: bool  # it waits for health checks before it takes traffic again
    orphans: list[str]  # drained servers that HAProxy no longer has


@dataclass(frozen=True, slots=True, kw_only=True)
class HAProxyStatus:
    up: bool  # it serves
    version: str  # its version
    pid: int  # the process of the current worker
    old_workers: int | None  # workers that a reload left behind; null: unknown, see `masterless`
    masterless: str  # why no master socket is used; empty: one is
    socket_used_up: bool  # every connection that its runtime socket takes is in use
    in_sync: bool  # HAProxy and its files hold what operators asked for
    guard: str  # `present`, `missing` (somewhere it should be) or `old`
    clients: int  # connections of clients, in every worker
    error: str  # why it is not up
    tick: float  # seconds between two looks at HAProxy: how old this may be


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """One HAProxy of those that share the intent."""

    node: str  # its node
    alive: bool  # it reports to etcd
    revision: int  # the newest intent that it has in force
    in_sync: bool  # its HAProxy holds that intent
    haproxy: bool  # its HAProxy answers
    sessions: int  # requests that are open in its HAProxy
    clients: int  # connections of clients to its HAProxy
    version: str  # its version of lbagent
    exceptions: list[str]  # services, and NODE/SERVICE of drains, that differ there by `--local`
    trouble: str  # what is wrong there; empty: nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    etcd: bool  # etcd answers
    alone_since: float | None  # since when etcd has not answered
    error: str  # why etcd does not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    node: str  # this agent's node
    version: str  # this agent's version of lbagent
    revision: int  # the number of the newest intent
    trouble: str  # what is wrong, in words; empty: nothing
    haproxy: HAProxyStatus  # the HAProxy beside this agent
    services: list[ServiceStatus]  # every service
    nodes: list[NodeStatus]  # every node
    agents: list[AgentStatus] | None = None  # every agent of the control plane; null without etcd
    store: StoreStatus | None = None  # how etcd is; null without etcd
