"""What a command waits for, line by line, and how it ends. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from lbagent.cluster.cluster import View, pending
from lbagent.errors import Exit
from lbagent.model.intent import Intent, Mode, Phase, Stamp
from lbagent.model.observed import Observed, Stream
from lbagent.rules.barrier import Key
from lbagent.rules.changes import Decision

PATIENCE = 5  # seconds without an answer before HAProxy is taken for down: a new worker may be starting slowly
GRACE = 10  # seconds after --kill's deadline for the cut sessions to be gone


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A command under way or ended; ``open`` says what it waits for, ``exit`` is lbctl's exit code once it ended."""

    id: str
    command: str
    by: str
    reason: str
    revision: int
    started: float
    services: tuple[str, ...] = ()
    modes: dict[str, Mode] = {}  # what was asked of them
    drains: tuple[tuple[str, str], ...] = ()
    returns: tuple[tuple[str, str], ...] = ()
    deadline: int | None = None
    notes: tuple[str, ...] = ()
    state: str = "running"  # running, done, failed, deadline, pending
    open: tuple[str, ...] = ()
    exit: int | None = None
    ended: float | None = None
    local: bool = False  # about this HAProxy alone
    stamp: Stamp | None = None  # the shared revision that it was stored as

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(node for node, _ in (*self.drains, *self.returns)))

    @property
    def subjects(self) -> tuple[str, ...]:
        """What it is about: ``service`` or ``node/service``."""
        return (*self.services, *(f"{node}/{name}" for node, name in (*self.drains, *self.returns)))


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation is judged by."""

    intent: Intent
    observed: Observed
    barriers: Mapping[str, dict[Key, Stream] | None]  # None: not taken yet
    confirmed: int  # the revision that every worker was read back with at this tick; -1: not every one was
    failures: tuple[str, ...]
    down_for: float = math.inf  # seconds since HAProxy answered last
    unwritten: tuple[str, ...] = ()  # why files that HAProxy starts from are not on disk
    now: float
    node: str = ""
    view: View | None = None  # what the other HAProxies report, where the intent is shared


def begin(
    number: str,
    decision: Decision,
    revision: int,
    by: str,
    reason: str,
    now: float,
    local: bool = False,
    stamp: Stamp | None = None,
) -> Operation:
    return Operation(
        local=local,
        stamp=stamp,
        id=number,
        command=decision.command,
        by=by,
        reason=reason,
        revision=revision,
        started=now,
        services=decision.services,
        modes=decision.modes,
        drains=decision.drains,
        returns=decision.returns,
        notes=decision.notes,
        deadline=decision.deadline,
    )


def judge(operation: Operation, at: Situation) -> Operation:
    """The operation as it stands: still running with what is open, or ended."""
    if operation.state != "running":
        return operation
    elsewhere, away = _elsewhere(operation, at)
    if not at.observed.up:
        return _while_down(operation, at, elsewhere, away)
    if overtaken := _overtaken(operation, at):
        return _end(operation, "failed", Exit.FAILED, overtaken, at)
    waiting = _unconfirmed(operation, at) or (*_requests(operation, at), *_drains(operation, at))
    returning, gave_up = _returns(operation, at)
    if gave_up:
        return _end(operation, "deadline", Exit.DEADLINE, gave_up, at)
    waiting = (*waiting, *returning, *elsewhere)
    if not waiting and away:
        return _end(operation, "pending", Exit.NOT_YET_IN_FORCE, tuple(away), at)
    if not waiting:
        return _end(operation, "done", Exit.DONE, (), at)
    kills = any(d.kill for n, s in operation.drains if (d := at.intent.drains.get(n, {}).get(s)))
    if operation.deadline is not None and at.now >= operation.deadline + (GRACE if kills or returning else 0):
        return _end(operation, "deadline", Exit.DEADLINE, waiting, at)
    return replace(operation, open=waiting)


def _elsewhere(operation: Operation, at: Situation) -> tuple[list[str], list[str]]:
    """(what the other HAProxies have open, which are away)."""
    if at.view is None or operation.local:
        return [], []
    return pending(at.view, at.node, at.intent, operation.stamp, operation.subjects)


def open_lines(at: Situation) -> dict[str, tuple[str, ...]]:
    """What this HAProxy has open for each service and drain, whoever asked: subject → sentences."""
    everything = Operation(id="", command="", by="", reason="", revision=0, started=0.0)
    found: dict[str, tuple[str, ...]] = {}
    for name in at.intent.services:
        found[name] = tuple(_requests(replace(everything, services=(name,)), at))
    for node, drains in at.intent.drains.items():
        for name, drain in drains.items():
            pair = ((node, name),)
            if drain.phase is Phase.HELD:
                found[f"{node}/{name}"] = tuple(_drains(replace(everything, drains=pair), at))
            else:
                lines, _ = _returns(replace(everything, returns=pair), at)
                found[f"{node}/{name}"] = tuple(lines)
    return {subject: lines for subject, lines in found.items() if lines}


def _while_down(operation: Operation, at: Situation, elsewhere: list[str], away: list[str]) -> Operation:
    """Kept and said to be pending, unless the files that HAProxy starts from are not there."""
    if at.unwritten:
        return _end(operation, "failed", Exit.FAILED, at.unwritten, at)
    if at.down_for < PATIENCE:
        return replace(operation, open=(at.observed.error,))
    if elsewhere and (operation.deadline is None or at.now < operation.deadline):
        return replace(operation, open=(at.observed.error, *elsewhere))
    why = f"{at.observed.error}; it will be in force the moment HAProxy starts"
    return _end(operation, "pending", Exit.NOT_YET_IN_FORCE, (why, *elsewhere, *away), at)


def _overtaken(operation: Operation, at: Situation) -> tuple[str, ...]:
    """What somebody else has undone meanwhile: to call that done would let a migration start on an open service."""
    lines = []
    for name, mode in operation.modes.items():
        service = at.intent.services.get(name)
        if (service.mode if service else Mode.UP) is not mode:
            lines.append(f"{name}: overtaken, it was changed to {service.mode if service else Mode.UP} meanwhile")
    for node, name in operation.drains:
        drain = at.intent.drains.get(node, {}).get(name)
        if drain is None or drain.phase is not Phase.HELD:
            lines.append(f"{name}: overtaken, {node} was made ready meanwhile")
    for node, name in operation.returns:
        drain = at.intent.drains.get(node, {}).get(name)
        # One that was given up for want of health has no deadline, a command's drain always has.
        if drain is not None and drain.phase is Phase.HELD and drain.deadline is not None:
            lines.append(f"{name}: overtaken, {node} was drained again meanwhile")
    return tuple(lines)


def _end(operation: Operation, state: str, code: Exit, waiting: tuple[str, ...], at: Situation) -> Operation:
    return replace(operation, state=state, exit=int(code), open=waiting, ended=at.now)


def _unconfirmed(operation: Operation, at: Situation) -> tuple[str, ...]:
    if at.confirmed >= operation.revision:
        return ()
    return at.failures or ("not every worker of HAProxy was read back yet: a reload is under way",)


def _requests(operation: Operation, at: Situation) -> list[str]:
    """What the barrier of a closing service still holds."""
    lines = []
    for name in operation.services:
        service = at.intent.services.get(name)
        if service is None or service.effective(at.now) is Mode.UP:
            continue
        lines += _unsteered(name, {key.rpartition("/")[2] for key in service.keys}, at)
        held = at.barriers.get(name)
        if held is None:
            lines.append(f"{name}: its requests have not been counted yet")
            continue
        places: dict[str, int] = {}
        for stream in held.values():
            place = f"{stream.backend}/{stream.server}" if stream.server not in ("", "<NONE>") else stream.backend
            old = "" if stream.pid == at.observed.pid else f" in old worker {stream.pid}"
            places[place + old] = places.get(place + old, 0) + 1
        lines += [f"{name}: {place}: {_requests_of(n)} from before" for place, n in sorted(places.items())]
    return lines


def _unsteered(name: str, backends: set[str], at: Situation) -> list[str]:
    """Old workers whose late requests no guard of ``backends`` holds back: they have to end by themselves."""
    http = [b for b in backends if b in at.observed.backends and at.observed.backends[b].http]
    bare = [b for b in http if at.observed.backends[b].guard is None]
    return [
        f"{name}: old worker {worker.pid} carries no guard, late requests there are not held back; it has to end"
        for worker in at.observed.old_workers or ()
        if http and (bare or worker.current_map is None)
    ]


def _drains(operation: Operation, at: Situation) -> list[str]:
    lines = []
    for node, name in operation.drains:
        drain = at.intent.drains.get(node, {}).get(name)
        lines += _unsteered(name, {held.backend for held in drain.servers}, at) if drain else []
        for held in drain.servers if drain else ():
            if count := at.observed.sessions(held.ref):
                old = [w.pid for w in at.observed.old_workers or () if w.sessions.get(held.ref)]
                where = f", old worker {', '.join(map(str, old))}" if old else ""
                lines.append(f"{name}: {held.ref}: {_requests_of(count)} open{where}")
        if drain and drain.end_in_maint and not lines:
            lines.append(f"{name}: going to maint")
    return lines


def _returns(operation: Operation, at: Situation) -> tuple[list[str], tuple[str, ...]]:
    """(what is open, why it was given up)."""
    lines, gave_up = [], []
    for node, name in operation.returns:
        drain = at.intent.drains.get(node, {}).get(name)
        if drain is None:
            continue
        for held in drain.servers:
            seen = at.observed.server(held.ref)
            if seen is None or not seen.checked or held.foreign:
                continue
            if drain.phase is Phase.HELD:
                gave_up.append(f"{name}: {held.ref}: stays drained, its health is {seen.health}")
            elif drain.phase is Phase.RETURNING:
                lines.append(f"{name}: {held.ref}: waiting for its health checks, now {seen.health}")
        if drain.phase is Phase.HELD and not gave_up:
            gave_up.append(f"{name}: stays drained on {node}: another server of the node did not get well")
        elif drain.phase is Phase.RELEASED or (drain.phase is Phase.RETURNING and not lines):
            lines.append(f"{name}: taking traffic again on {node}")
    return lines, tuple(gave_up)


def _requests_of(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"
