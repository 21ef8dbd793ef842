"""What operators asked for: modes, drains, the intent that keeps both."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from lbagent.model.servers import Admin, Ref


class Mode(StrEnum):
    """What a service lets through."""

    UP = "up"
    READ_ONLY = "read-only"
    DOWN = "down"


class Phase(StrEnum):
    """The life of a drain. An illegal step raises and changes nothing.

    ::

        drain ──► HELD ──ready──► RETURNING ──every check passed──► RELEASED ──seen ready──► (gone)
                    ▲                │
                    └──timeout───────┘
    """

    HELD = "held"  # kept out of traffic
    RETURNING = "returning"  # still out of traffic, waiting for fresh health checks
    RELEASED = "released"  # HAProxy is being told to use it again


STEPS: dict[Phase, frozenset[Phase]] = {
    Phase.HELD: frozenset({Phase.HELD, Phase.RETURNING}),
    Phase.RETURNING: frozenset({Phase.RETURNING, Phase.HELD, Phase.RELEASED}),
    Phase.RELEASED: frozenset({Phase.RELEASED, Phase.HELD}),
}


GUARD_GONE = "=guard"
"""Holds, in place of a node's name, the servers of closed services whose backends lost their guard (DESIGN §7)."""


WEIGHT = {Phase.RELEASED: 0, Phase.RETURNING: 1, Phase.HELD: 2}
"""Where two drains hold a server, the one that keeps it out more decides."""


class ServiceIntent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A service that is, or will be, closed or restricted. A service that is up has none."""

    mode: Mode
    start: int
    at_once: bool = True  # the map then carries start 0, so that no clock can delay it
    until: int | None = None
    reason: str = ""
    by: str = ""
    since: int = 0  # when it was asked
    keys: tuple[str, ...] = ()  # frontend@address/backend, frontend/backend or backend: what it resolved to
    deadline: int | None = None  # how long the command waits for quiescence

    def effective(self, now: float) -> Mode:
        """The mode that HAProxy enforces at ``now``."""
        return self.mode if self.at_once or now >= self.start else Mode.UP


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A server under our drain. ``foreign`` is what somebody else had set before: we give that back."""

    backend: str
    server: str
    foreign: Admin | None = None
    agent_check: bool = False  # was on; it is off while we hold the server, and on again after

    @property
    def ref(self) -> Ref:
        return Ref(self.backend, self.server)


class Drain(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node's servers of one service, kept out of traffic."""

    phase: Phase = Phase.HELD
    admin: Admin = Admin.DRAIN  # what they are held in; backends with stickiness are held in maint anyway
    end_in_maint: bool = False
    kill: bool = False
    whole: bool = False  # the node was drained, not only some of its services: its virtual address leaves as well
    deadline: int | None = None
    reason: str = ""
    by: str = ""
    since: int = 0
    servers: tuple[Held, ...] = ()
    forced: bool = False  # given back without asking for its health
    asked_at: str = ""  # the node whose agent was asked, which judges its timeout (a shared intent only)
    asked: float = 0.0  # when, by that agent's clock, which ``deadline`` is by as well (a shared intent only)

    def step(self, phase: Phase, deadline: int | None = None) -> Drain:
        """The same drain in its next phase; ValueError for a step that the life cycle does not have."""
        if phase not in STEPS[self.phase]:
            raise ValueError(f"a drain cannot go from {self.phase} to {phase}")
        return msgspec.structs.replace(self, phase=phase, deadline=deadline)


class Stamp(msgspec.Struct, frozen=True, order=True):
    """One revision of the shared intent. Its id tells it from another history's revision of the same number."""

    revision: int
    id: str


class Exceptional(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where one HAProxy was told ``--local`` to differ from the shared intent, and what that said then."""

    revision: int
    service: ServiceIntent | None = None
    drain: Drain | None = None
    alone: bool = False  # made while the shared store could not be reached: to be shared if it restricts
    met: bool = False  # the shared intent was in sight then or since: what names the subject from now on ends it


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """Everything operators asked for; ``drains`` is by node, then service.

    ``trail`` has the last revisions of the shared intent, where there is one: its own, or the one that this follows.
    ``exceptions`` (by subject: ``service`` or ``node/service``) belong to an HAProxy that follows a shared intent;
    ``members`` are the nodes whose HAProxies do, so that a command misses none of them whatever etcd has lost.
    """

    revision: int = 0
    services: dict[str, ServiceIntent] = {}
    drains: dict[str, dict[str, Drain]] = {}
    trail: tuple[Stamp, ...] = ()  # the newest at the end
    exceptions: dict[str, Exceptional] = {}
    members: tuple[str, ...] = ()

    @property
    def followed(self) -> Stamp | None:
        """The revision of the shared intent that this is, or follows."""
        return self.trail[-1] if self.trail else None

    def held(self) -> dict[Ref, tuple[str, str, Drain, Held]]:
        """Every server under a drain: ref → (node, service, drain, held).

        Where two services share a backend, the drain that keeps the server out more wins.
        """
        found: dict[Ref, tuple[str, str, Drain, Held]] = {}
        for node, services in self.drains.items():
            for service, drain in services.items():
                for held in drain.servers:
                    if held.ref not in found or WEIGHT[drain.phase] > WEIGHT[found[held.ref][2].phase]:
                        found[held.ref] = (node, service, drain, held)
        return found

    def with_service(self, name: str, intent: ServiceIntent | None) -> Intent:
        services = {k: v for k, v in self.services.items() if k != name}
        if intent is not None:
            services[name] = intent
        return msgspec.structs.replace(self, services=services)

    def with_drain(self, node: str, service: str, drain: Drain | None) -> Intent:
        mine = {k: v for k, v in self.drains.get(node, {}).items() if k != service}
        if drain is not None:
            mine[service] = drain
        drains = {k: v for k, v in self.drains.items() if k != node}
        if mine:
            drains[node] = mine
        return msgspec.structs.replace(self, drains=drains)


class Shared(Intent, frozen=True, kw_only=True):
    """The intent of a whole control plane: one for every HAProxy."""

    touched: dict[str, int] = {}  # subject → revision of the last command that named it
