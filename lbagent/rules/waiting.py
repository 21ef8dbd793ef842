"""What a command waits for, in sentences that name the backend, the server and the count that is open. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from lbagent.cluster.members import View
from lbagent.model.intent import Drain, Intent, Mode, Opening, Phase
from lbagent.model.observed import Observed, Stream
from lbagent.model.servers import Admin
from lbagent.model.subject import Subject
from lbagent.rules.barrier import Key
from lbagent.rules.opening import without_servers
from lbagent.topology.resolve import Topology


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation is judged by."""

    intent: Intent
    observed: Observed
    barriers: Mapping[str, dict[Key, Stream] | None]  # None: not taken yet
    confirmed: int  # the revision that every worker was read back with at this tick; -1: not every one was
    failures: tuple[str, ...]
    down_for: float = math.inf  # seconds since HAProxy answered last
    unwritten: tuple[str, ...] = ()  # why files that HAProxy starts from are not on disk
    now: float  # by the wall clock, as windows are
    steady: float = -math.inf  # the time that deadlines are by; by default it is ``now``
    node: str = ""
    topology: Topology | None = None
    view: View | None = None  # what the other HAProxies report, where the intent is shared

    @property
    def waited(self) -> float:
        """The time to compare deadlines with."""
        return self.now if self.steady == -math.inf else self.steady


def open_lines(at: Situation) -> dict[str, tuple[str, ...]]:
    """What this HAProxy has open for each service and drain, whoever asked: subject → sentences."""
    found: dict[str, tuple[str, ...]] = {
        name: (*requests([name], at), *opening({name: Mode.UP}, at)[0]) for name in at.intent.services
    }
    for node, drains in at.intent.drains.items():
        for name, drain in drains.items():
            subject = [Subject(node, name)]
            lines = in_flight(subject, at) if drain.phase is Phase.HELD else returning(subject, at)[0]
            found[f"{node}/{name}"] = tuple(lines)
    return {subject: lines for subject, lines in found.items() if lines}


def requests(services: Iterable[str], at: Situation) -> list[str]:
    """Requests from before the mode of ``services`` that it would have refused."""
    lines = []
    for name in services:
        service = at.intent.services.get(name)
        if service is None or service.effective(at.now) is Mode.UP:
            continue
        lines += _unsteered(name, {key.rpartition("/")[2] for key in service.keys}, at)
        held = at.barriers.get(name)
        if held is None:
            lines.append(f"{name}: its older requests are being counted")
            continue
        places: dict[tuple[str, str], int] = {}
        for stream in held.values():
            place = f"{stream.backend}/{stream.server}" if stream.server not in ("", "<NONE>") else stream.backend
            old = "" if stream.pid == at.observed.pid else f" in old worker {stream.pid}"
            what = "upgraded connection (websocket)" if stream.upgraded else "request"
            places[place + old, what] = places.get((place + old, what), 0) + 1
        lines += [f"{name}: {place}: {_count(n, what)} from before" for (place, what), n in sorted(places.items())]
    return lines


def in_flight(drains: Iterable[Subject], at: Situation) -> list[str]:
    """Requests that drained servers still work on or have queued, in any worker."""
    lines = []
    for subject in drains:
        name = subject.service
        drain = at.intent.drain(subject.node, name)
        if drain is None:
            continue
        backends = {held.backend for held in drain.servers}
        lines += _unsteered(name, backends, at)
        for backend in sorted(backends):
            waiting = at.observed.queued(backend).items()
            lines += [f"{name}: {backend}: {_count(n, 'request')} queued in old worker {pid}" for pid, n in waiting]
        for held in drain.servers:
            if count := at.observed.sessions(held.ref):
                old = [w.pid for w in at.observed.old_workers or () if w.sessions.get(held.ref)]
                where = f", old worker {', '.join(map(str, old))}" if old else ""
                lines.append(f"{name}: {held.ref}: {_count(count, 'request')} open{where}")
            elif held.ref in at.observed.fed:
                lines.append(
                    f"{name}: {held.ref}: HAProxy still gives it requests, by a cookie, a stick rule or a table"
                )
        if drain.end_in_maint and not lines:
            lines.append(f"{name}: HAProxy is putting its servers in maint")
    return lines


def returning(drains: Iterable[Subject], at: Situation) -> tuple[list[str], list[str]]:
    """(what drains on their way back wait for, why one was given up)."""
    lines: list[str] = []
    gave_up: list[str] = []
    for subject in drains:
        drain = at.intent.drain(subject.node, subject.service)
        if drain is not None:
            waits, why = coming_back(subject.service, f" on {subject.node}", drain, at)
            lines += waits
            gave_up += why
    return lines, gave_up


def coming_back(name: str, where: str, drain: Drain, at: Situation) -> tuple[list[str], list[str]]:
    """The same for one drain: of service ``name``, ``where``: words that name its node."""
    lines: list[str] = []
    gave_up: list[str] = []
    for held in drain.servers:
        seen = at.observed.server(held.ref)
        if seen is None or not (seen.checked or seen.tracks) or held.foreign or held.was_down or seen.parked:
            continue
        if drain.phase is Phase.HELD:
            gave_up.append(f"{name}: {held.ref}: stays drained, its health is {seen.health}")
        elif drain.phase is Phase.RETURNING:
            lines.append(f"{name}: {held.ref}: waiting for health checks, now {seen.health}")
    if drain.phase is Phase.HELD and not gave_up:
        gave_up.append(f"{name}: stays drained{where}: another server of the node fails its health check")
    elif drain.phase is Phase.RELEASED or (drain.phase is Phase.RETURNING and not lines):
        lines.append(f"{name}: HAProxy is being told to use it again{where}")
    return lines, gave_up


def opening(modes: Mapping[str, Mode], at: Situation) -> tuple[list[str], list[str]]:
    """(what services that are to open wait for, which stay closed because no server was healthy in time)."""
    lines: list[str] = []
    gave_up: list[str] = []
    for name, mode in modes.items():
        service = at.intent.services.get(name)
        if mode is not Mode.UP or service is None or service.opening is Opening.NO:
            continue
        empty = without_servers(at.topology.services.get(name) if at.topology else None, at.observed)
        places = [f"{backend} ({_servers_of(backend, at)})" for backend in empty] or ["another HAProxy"]
        if service.opening is Opening.WAITING:
            lines += [f"{name}: waiting for a healthy server in {place}" for place in places]
        else:
            gave_up += [f"{name}: stays {service.mode}: no healthy server in {place}" for place in places]
    return lines, gave_up


def _servers_of(backend: str, at: Situation) -> str:
    """Each server of a backend and why HAProxy does not use it."""
    seen = at.observed.backends[backend].servers.values()
    return ", ".join(f"{s.ref.server} {s.admin if s.admin is not Admin.READY else s.health}" for s in seen) or "none"


def _unsteered(name: str, backends: set[str], at: Situation) -> list[str]:
    """Old workers whose late requests no guard of ``backends`` holds back: only their end helps."""
    http = [b for b in backends if b in at.observed.backends and at.observed.backends[b].http]
    bare = [b for b in http if at.observed.backends[b].guard is None]
    return [
        f"{name}: old worker {worker.pid} of HAProxy carries no guard, so late requests there are not held back; "
        "waiting for it to end"
        for worker in at.observed.old_workers or ()
        if http and (bare or worker.current_map is None)
    ]


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
