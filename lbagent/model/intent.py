"""What operators asked for: modes, drains, the intent that keeps both."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TypeVar

import msgspec

from lbagent.model.names import (
    Count,
    Identity,
    KeyText,
    Line,
    Name,
    NodeName,
    Reason,
    RefText,
    Seconds,
    SomeNode,
    SubjectText,
    Time,
)
from lbagent.model.servers import Admin, Ref
from lbagent.model.subject import Subject


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


WEIGHT = {Phase.RELEASED: 0, Phase.RETURNING: 1, Phase.HELD: 2}
"""Where two drains hold a server, the one that keeps it out more decides."""


class Opening(StrEnum):
    """Whether a closed service is to open as soon as HAProxy has servers for it."""

    NO = "no"
    WAITING = "waiting"
    WITHDRAWN = "withdrawn"  # no server was healthy in time


class ServiceIntent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A service that is, or will be, closed or restricted. A service that is up has none."""

    mode: Mode
    start: Time
    at_once: bool = True  # the map then carries start 0, so that no clock can delay it
    until: Time | None = None
    reason: Reason = ""
    by: Line = ""
    since: Time = 0  # when it was asked
    keys: tuple[KeyText, ...] = ()  # frontend@address/backend, frontend/backend or backend: what it resolved to
    deadline: Count | None = None  # how long the command waits for quiescence
    kill: bool = False  # what is left at the deadline is ended
    opening: Opening = Opening.NO
    opens_until: Count | None = None  # when an opening that waits is withdrawn

    def effective(self, now: float) -> Mode:
        """The mode that HAProxy enforces at ``now``."""
        return self.mode if self.at_once or now >= self.start else Mode.UP


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A server under our drain. ``foreign`` is what somebody else had set before: we give that back."""

    backend: Name
    server: Name
    foreign: Admin | None = None
    agent_check: bool = False  # was on; it is off while we hold the server, and on again after
    was_down: bool = False  # its checks failed before we took it out: `ready` does not wait for it

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
    deadline: Count | None = None
    reason: Reason = ""
    by: Line = ""
    since: Time = 0
    servers: tuple[Held, ...] = ()
    given_back: tuple[Name, ...] = ()  # services that came back by name, though the node was drained as a whole
    forced: bool = False  # given back without asking for its health
    given_up: bool = False  # it was to come back, and its health checks did not pass in time
    asked_at: SomeNode = ""  # the node whose agent was asked, which judges its timeout (a shared intent only)
    asked: Seconds = 0.0  # when, by that agent's clock, which ``deadline`` is by as well (a shared intent only)

    def step(self, phase: Phase, deadline: int | None = None) -> Drain:
        """The same drain in its next phase; ValueError for a step that the life cycle does not have."""
        if phase not in STEPS[self.phase]:
            raise ValueError(f"a drain cannot go from {self.phase} to {phase}")
        return msgspec.structs.replace(self, phase=phase, deadline=deadline, given_up=False)


class Stamp(msgspec.Struct, frozen=True, order=True):
    """One revision of the shared intent. Its id tells it from another history's revision of the same number."""

    revision: Count
    id: Identity


class Override(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One HAProxy was told ``--local`` to differ from the shared intent; ``service`` and ``drain`` are what that said.

    The fields' names in JSON are those of the first release.
    """

    revision: Count  # of the shared intent when it was told
    service: ServiceIntent | None = None
    drain: Drain | None = None
    store_was_away: bool = msgspec.field(default=False, name="alone")
    """Told while etcd could not be reached: a restriction is passed on to the others once it can."""
    compared: bool = msgspec.field(default=False, name="met")
    """The shared intent has been seen since, so the next command that names the subject ends this."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A server that lbagent keeps out of traffic: which drain keeps it, and what is remembered of the server."""

    reason: HoldReason
    subject: Subject
    drain: Drain
    server: Held

    @property
    def by(self) -> tuple[HoldReason, Subject]:
        """What tells one drain from every other."""
        return self.reason, self.subject


class HoldReason(StrEnum):
    """Why lbagent keeps a server out of traffic."""

    DRAIN = "drain"  # an operator drained its node
    GUARD = "guard"  # its service is down and the backend has lost its guard
    MOVED = "moved"  # it left a drained node, and has to pass its health check before it is used


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """Everything operators asked for; ``drains`` is by node, then service.

    One type serves the intent of one HAProxy and the intent that all HAProxies of a control plane share. ``trail`` has
    the last revisions of the shared one: its own, or those of the one that this follows. Only the shared intent has
    ``touched``; only an HAProxy's own intent has ``exceptions`` (by subject), ``guardless`` and ``moved``.
    """

    revision: Count = 0
    services: dict[Name, ServiceIntent] = {}
    drains: dict[NodeName, dict[Name, Drain]] = {}
    trail: tuple[Stamp, ...] = ()  # the newest at the end
    exceptions: dict[SubjectText, Override] = {}
    members: tuple[NodeName, ...] = ()  # whose HAProxies share it: a command misses none, whatever etcd has lost
    touched: dict[SubjectText, Count] = {}  # subject → revision of the last command that named it
    guardless: dict[Name, Drain] = {}  # service that is down → its servers whose backend has lost its guard
    moved: dict[RefText, Drain] = {}  # backend/server → how it comes back, its node having been drained when it left it

    @property
    def followed(self) -> Stamp | None:
        """The revision of the shared intent that this is, or follows."""
        return self.trail[-1] if self.trail else None

    def every_drain(self) -> Iterator[tuple[HoldReason, Subject, Drain]]:
        """Every drain with its reason: those of operators first."""
        for node, services in self.drains.items():
            for name, drain in services.items():
                yield HoldReason.DRAIN, Subject(node, name), drain
        for name, drain in self.guardless.items():
            yield HoldReason.GUARD, Subject("", name), drain
        for ref, drain in self.moved.items():
            yield HoldReason.MOVED, Subject.parse(ref), drain

    def held(self) -> dict[Ref, Hold]:
        """Every server under a drain. Where two hold the same server, the one that keeps it out more decides."""
        found: dict[Ref, Hold] = {}
        for reason, subject, drain in self.every_drain():
            for server in drain.servers:
                ref = server.ref
                if ref not in found or WEIGHT[drain.phase] > WEIGHT[found[ref].drain.phase]:
                    found[ref] = Hold(reason=reason, subject=subject, drain=drain, server=server)
        return found

    def drain(self, node: str, service: str) -> Drain | None:
        return self.drains.get(node, {}).get(service)

    def with_service(self, name: str, intent: ServiceIntent | None) -> Intent:
        return msgspec.structs.replace(self, services=_with(self.services, name, intent))

    def with_drain(self, node: str, service: str, drain: Drain | None) -> Intent:
        mine = _with(self.drains.get(node, {}), service, drain)
        return msgspec.structs.replace(self, drains=_with(self.drains, node, mine or None))

    def with_changed(self, reason: HoldReason, subject: Subject, drain: Drain | None) -> Intent:
        """With another drain in place of the one that :meth:`every_drain` names so; None ends it."""
        match reason:
            case HoldReason.DRAIN:
                return self.with_drain(subject.node, subject.service, drain)
            case HoldReason.GUARD:
                return msgspec.structs.replace(self, guardless=_with(self.guardless, subject.service, drain))
            case HoldReason.MOVED:
                return msgspec.structs.replace(self, moved=_with(self.moved, str(subject), drain))


def checked(intent: Intent) -> Intent:
    """The same, once all its names, sentences and numbers have been checked; msgspec.ValidationError."""
    return msgspec.convert(msgspec.to_builtins(intent), Intent)


T = TypeVar("T")


def _with(before: dict[str, T], key: str, value: T | None) -> dict[str, T]:
    after = {k: v for k, v in before.items() if k != key}
    return after if value is None else after | {key: value}
