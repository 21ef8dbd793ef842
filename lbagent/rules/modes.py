"""``down``, ``read-only`` and ``up``: what becomes of the modes of services. Pure; refusals are raised."""

from __future__ import annotations

from collections.abc import Iterable

from lbagent.errors import LbagentError
from lbagent.model import times
from lbagent.model.intent import Intent, Mode, ServiceIntent
from lbagent.rules import protections
from lbagent.rules.opening import waiting, without_servers
from lbagent.rules.request import Request, unknown


def with_modes(request: Request) -> tuple[Intent, list[str], list[str]]:
    """(the intent with the modes asked for, services whose servers come back from maint, notes)."""
    change, intent = request.change, request.before
    strange = [n for n in change.services if n not in request.topology.services and n not in intent.services]
    if strange:
        raise LbagentError("unknown_service", unknown("service", strange, request.topology.services))
    closing = sorted(name for name, wanted in change.services.items() if wanted.mode is not Mode.UP)
    window = _window(request)
    if not closing and any(window):
        raise LbagentError("bad_request", "for, until and at belong to down and read-only only")
    notes = protections.refuse_what_cannot_close(request, closing)
    reopened = []
    out = intent
    for name, wanted in change.services.items():
        if wanted.mode is Mode.UP:
            out, waits = _opened(request, out, name)
            notes += waits
            if name in request.here.guardless:
                reopened.append(name)
        else:
            out = out.with_service(name, closed(request, name, wanted.mode, intent, *window))
    return out, reopened, notes


def _opened(request: Request, intent: Intent, name: str) -> tuple[Intent, list[str]]:
    """The intent with the service open, or to open as soon as it has servers; and notes."""
    service = intent.services.get(name)
    closed_now = service is not None and service.effective(request.now) is not Mode.UP
    empty = without_servers(request.topology.services.get(name), request.observed)
    elsewhere = request.elsewhere.empty.get(name, ())
    if service is None or not closed_now or name in request.here.guardless or not (empty or elsewhere):
        return intent.with_service(name, None), []
    if request.change.force:
        return intent.with_service(name, None), [
            f"forced: {name} opens though {', '.join((*empty, *elsewhere))} has no usable server"
        ]
    return intent.with_service(name, waiting(service, request.timeout)), []


def close_short(request: Request, after: Intent, names: Iterable[str]) -> tuple[Intent, list[str]]:
    """``--last down``: close the services that would lose their last server."""
    names = list(names)
    notes = protections.refuse_what_cannot_close(request, names)
    for name in names:
        after = after.with_service(name, closed(request, name, Mode.DOWN, after, None, None))
    notes.append(f"closed, as no ready server is left: {', '.join(names)}; `lbctl up` opens them again")
    return after, notes


def closed(
    request: Request, name: str, mode: Mode, intent: Intent, start: int | None, until: int | None
) -> ServiceIntent:
    """The service in ``mode`` from ``start`` (None: now) until ``until``; LbagentError where a window is in the way."""
    before = intent.services.get(name)
    current = before is not None and before.effective(request.now) is not Mode.UP
    if start is not None and before is not None and current:
        raise LbagentError(
            "window_open",
            f"{name} is {before.mode} now: a window that starts later would open it until then. "
            f"Run `lbctl up {name}` first, or leave --at out to change it at once",
        )
    same = before if before is not None and before.mode is mode and current and start is None else None
    keys = request.service(name).keys(unseen=not request.observed.up)
    return ServiceIntent(
        mode=mode,
        start=same.start if same else start or request.now,
        at_once=start is None,
        until=until if until is not None or same is None else same.until,
        reason=request.change.reason or (same.reason if same else ""),
        by=request.by,
        since=same.since if same else request.now,
        keys=tuple(dict.fromkeys((*keys, *(same.keys if same else ())))),
        deadline=request.deadline,
        kill=request.change.kill,
    )


def _window(request: Request) -> tuple[int | None, int | None]:
    """(start if it lies ahead, end), seconds since 1970."""
    change, now = request.change, request.now
    start = times.moment(change.at, "at") if change.at is not None else None
    if start is not None and start <= now:
        raise LbagentError("bad_request", f"at: {change.at} is in the past; leave it out to start now")
    if change.for_ is not None and change.until is not None:
        raise LbagentError("bad_request", "for and until say the same thing twice: give one")
    until = times.moment(change.until, "until") if change.until is not None else None
    if change.for_ is not None:
        until = (start or now) + times.duration(change.for_, "for")
    if until is not None and until <= (start or now):
        why = "not after its start" if start else "in the past"
        raise LbagentError("bad_request", f"until: {change.until} is {why}")
    return start, until
