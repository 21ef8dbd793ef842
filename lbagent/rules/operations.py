"""A command under way: when it has ended, and how. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from lbagent.cluster.confirm import pending
from lbagent.errors import Exit
from lbagent.model.intent import Mode, Opening, Phase, Stamp
from lbagent.model.subject import Subject
from lbagent.rules import waiting
from lbagent.rules.change import Decision
from lbagent.rules.waiting import Situation

PATIENCE = 5  # seconds without an answer before HAProxy is taken for down: a new worker may be starting slowly
GRACE = 10  # seconds after --kill's deadline for the cut sessions to be gone


class State(StrEnum):
    """What has become of an operation; every state but the first is an end."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DEADLINE = "deadline"  # the deadline or timeout passed; what was asked stays as far as it came
    PENDING = "pending"  # kept, and not yet in force everywhere


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
    drains: tuple[Subject, ...] = ()
    returns: tuple[Subject, ...] = ()
    reopened: tuple[str, ...] = ()  # services whose servers come back from the maint that replaced their guard
    deadline: int | None = None
    notes: tuple[str, ...] = ()
    state: State = State.RUNNING
    open: tuple[str, ...] = ()
    exit: int | None = None
    ended: float | None = None
    local: bool = False  # about this HAProxy alone
    stamp: Stamp | None = None  # the shared revision that it was stored as

    @property
    def running(self) -> bool:
        return self.state is State.RUNNING

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(subject.node for subject in (*self.drains, *self.returns)))

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return (*(Subject("", name) for name in self.services), *self.drains, *self.returns)


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
    """The operation of a decision that was stored as ``revision``."""
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
        reopened=decision.reopened,
        notes=decision.notes,
        deadline=decision.deadline,
    )


def judge(operation: Operation, at: Situation) -> Operation:
    """The operation as it stands: still running with what is open, or ended."""
    if not operation.running:
        return operation
    elsewhere, away = _elsewhere(operation, at)
    if not at.observed.up:
        return _while_down(operation, at, elsewhere, away)
    if overtaken := _overtaken(operation, at):
        return _end(operation, State.FAILED, Exit.FAILED, overtaken, at)
    here = _unconfirmed(operation, at)
    if not here:
        here = (*waiting.requests(operation.services, at), *waiting.in_flight(operation.drains, at))
    returning, gave_up = waiting.returning(operation.returns, at)
    reopening = _reopening(operation, at)
    opening, closed = waiting.opening(operation.modes, at)
    gave_up += closed
    if gave_up:
        return _end(operation, State.DEADLINE, Exit.DEADLINE, tuple(gave_up), at)
    left = (*here, *returning, *reopening, *opening, *elsewhere)
    if not left and away:
        return _end(operation, State.PENDING, Exit.NOT_YET_IN_FORCE, tuple(away), at)
    if not left:
        return _end(operation, State.DONE, Exit.DONE, (), at)
    kills = any(d.kill for s in operation.drains if (d := at.intent.drain(s.node, s.service)))
    kills = kills or any(s.kill for name in operation.services if (s := at.intent.services.get(name)))
    grace = GRACE if kills or returning or opening else 0
    if operation.deadline is not None and at.waited >= operation.deadline + grace:
        return _end(operation, State.DEADLINE, Exit.DEADLINE, left, at)
    return replace(operation, open=left)


def _elsewhere(operation: Operation, at: Situation) -> tuple[list[str], list[str]]:
    """(what the other HAProxies have open, which are away)."""
    if at.view is None or operation.local:
        return [], []
    return pending(at.view, at.node, at.intent, operation.stamp, operation.subjects)


def _reopening(operation: Operation, at: Situation) -> list[str]:
    """Services that were opened, whose servers come back from the maint that replaced their guard."""
    back = ((name, drain) for name in operation.reopened if (drain := at.intent.guardless.get(name)))
    return [line for name, drain in back for line in waiting.coming_back(name, "", drain, at)[0]]


def _while_down(operation: Operation, at: Situation, elsewhere: list[str], away: list[str]) -> Operation:
    """Kept and said to be pending, unless the files that HAProxy starts from are not there."""
    if at.unwritten:
        return _end(operation, State.FAILED, Exit.FAILED, at.unwritten, at)
    if at.down_for < PATIENCE:
        return replace(operation, open=(at.observed.error,))
    if elsewhere and (operation.deadline is None or at.waited < operation.deadline):
        return replace(operation, open=(at.observed.error, *elsewhere))
    then = "it can be used" if at.observed.alive else "HAProxy starts"
    why = f"{at.observed.error}; it will be in force the moment {then}"
    return _end(operation, State.PENDING, Exit.NOT_YET_IN_FORCE, (why, *elsewhere, *away), at)


def _overtaken(operation: Operation, at: Situation) -> tuple[str, ...]:
    """What somebody else has undone meanwhile: to call that done would let a migration start on an open service."""
    lines = []
    for name, mode in operation.modes.items():
        service = at.intent.services.get(name)
        if mode is Mode.UP and service is not None and service.opening is not Opening.NO:
            continue  # it waits for its servers, or has waited in vain
        if (service.mode if service else Mode.UP) is not mode:
            lines.append(f"{name}: somebody changed it to {service.mode if service else Mode.UP} meanwhile")
    for subject in operation.drains:
        drain = at.intent.drain(subject.node, subject.service)
        if drain is None or drain.phase is not Phase.HELD:
            lines.append(f"{subject.service}: somebody made {subject.node} ready meanwhile")
    for subject in operation.returns:
        drain = at.intent.drain(subject.node, subject.service)
        if drain is not None and drain.phase is Phase.HELD and not drain.given_up:
            lines.append(f"{subject.service}: somebody drained {subject.node} again meanwhile")
    return tuple(lines)


def _end(operation: Operation, state: State, code: Exit, left: tuple[str, ...], at: Situation) -> Operation:
    return replace(operation, state=state, exit=int(code), open=left, ended=at.now)


def _unconfirmed(operation: Operation, at: Situation) -> tuple[str, ...]:
    if at.confirmed >= operation.revision:
        return ()
    return at.failures or ("not every worker of HAProxy has confirmed the change yet: a reload is under way",)
