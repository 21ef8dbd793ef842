"""From intent to actions: what HAProxy and its files should hold, and the steps that get them there. Pure.

``desired`` knows of the present only the time; ``plan`` is the difference. On a converged system it is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from lbagent.guard import acl_lists, file_names, guard_map, server_state, state_files
from lbagent.model.actions import (
    Action,
    CutSessions,
    ProveHealth,
    ReplaceList,
    ReplaceMap,
    SetAdmin,
    SetAgentCheck,
    WriteFile,
)
from lbagent.model.intent import Drain, Held, Intent, Phase
from lbagent.model.observed import Observed, ServerSeen
from lbagent.model.servers import FORCED_DRAIN, FORCED_MAINT, MAINT_BITS, Admin, Ref
from lbagent.settings.config import Config
from lbagent.topology.resolve import Topology


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    table: tuple[tuple[str, str], ...]
    lists: dict[str, tuple[str, ...]]
    files: dict[str, str]


def desired(
    config: Config,
    intent: Intent,
    topology: Topology,
    observed: Observed,
    digest: str | None = None,
    now: float = 0.0,
) -> Desired:
    """What should be there. ``digest`` is that of the bypass secret, None without one."""
    overdue = {name for name, service in intent.services.items() if service.until and service.until <= now}
    table = guard_map.entries(config, intent, _steer(intent, observed), overdue)
    lists = acl_lists.lists(config, {n: s.config for n, s in topology.services.items()}, digest)
    files = state_files.fixed_files(config) | {name: acl_lists.list_text(p) for name, p in lists.items()}
    files[file_names.MAP] = guard_map.map_text(table)
    files[file_names.STATE] = server_state.state_text(_state_rows(intent, observed))
    return Desired(table=table, lists=lists, files=files)


def plan(want: Desired, intent: Intent, observed: Observed, proved: Set[Ref], now: float) -> list[Action]:
    """The steps from ``observed`` to ``want``, files first: a worker that starts meanwhile starts right.

    ``proved`` are the servers whose checks began afresh at our word (:class:`ProveHealth`).
    """
    actions: list[Action] = [
        WriteFile(name, text) for name, text in sorted(want.files.items()) if observed.files.get(name) != text
    ]
    if not observed.up:
        return actions
    if observed.table is not None and observed.table != want.table:
        actions.append(ReplaceMap(want.table))
    actions += [
        ReplaceMap(want.table, worker.pid)
        for worker in observed.old_workers or ()
        if worker.current_map is not None and worker.current_map != want.table
    ]
    actions += [
        ReplaceList(name, patterns)
        for name, patterns in sorted(want.lists.items())
        if name in observed.lists and observed.lists[name] != patterns
    ]
    for ref, hold in sorted(intent.held().items()):
        seen = observed.server(ref)
        if seen is None:
            continue
        match hold.drain.phase:
            case Phase.HELD:
                actions += _hold(seen, hold.drain, observed, now)
            case Phase.RETURNING:
                actions += _prove(seen, hold.server, proved, busy=bool(observed.sessions(ref)))
            case Phase.RELEASED:
                actions += _release(seen, hold.server)
    return actions


AWAY, HOME = "1\n", "0\n"  # what keepalived's track_file says


def leaves(node: str, intent: Intent) -> bool:
    """The node was drained as a whole and is not back yet: its virtual address should be elsewhere."""
    return any(drain.whole and drain.phase is not Phase.RELEASED for drain in intent.drains.get(node, {}).values())


def address(config: Config, intent: Intent, observed: Observed, in_force: bool) -> list[WriteFile]:
    """What keepalived has to be told: to let the address go at once, to take it only once all is ``in_force`` here.

    An HAProxy that was away may not know yet what is closed: the address must not come before that.
    """
    track = config.haproxy.vip_track_file
    away = leaves(config.node, intent)
    text = AWAY if away else HOME
    if track is None or observed.files.get(track) == text or not (away or in_force):
        return []
    return [WriteFile(track, text)]


def admin_for(drain: Drain, ref: Ref, observed: Observed) -> Admin:
    """Stickiness beats drain: where a cookie or a stick table is, only maint moves the clients.

    Where maint would end the requests that are open (``on-marked-down shutdown-sessions``), the server is emptied in
    drain first.
    """
    backend, seen = observed.backends.get(ref.backend), observed.server(ref)
    if drain.admin is not Admin.MAINT and not (backend and backend.sticky):
        return Admin.DRAIN
    in_maint = seen is not None and seen.admin is Admin.MAINT
    return Admin.MAINT if in_maint or not observed.cuts(ref.backend) or not observed.sessions(ref) else Admin.DRAIN


def may_return(seen: ServerSeen | None, held: Held, proved: Set[Ref]) -> bool:
    """It may take traffic again: fresh checks have passed. One that is gone keeps nobody waiting."""
    if seen is None or seen.parked or left_alone(seen, held) or seen.mask & MAINT_BITS & ~FORCED_MAINT:
        return True
    if seen.admin is not Admin.DRAIN:
        return False
    if seen.checked:
        return seen.ref in proved and (seen.healthy or held.was_down)
    return not seen.tracks or seen.healthy or held.was_down


def left_alone(seen: ServerSeen, held: Held) -> bool:
    """Somebody else had taken it out before us, and it is still out: theirs to give back."""
    return held.foreign is not None and seen.admin is not Admin.READY


def _hold(seen: ServerSeen, drain: Drain, observed: Observed, now: float) -> list[Action]:
    actions: list[Action] = []
    if seen.agent:  # an agent-check that answers "ready" would cancel the drain
        actions.append(SetAgentCheck(seen.ref, False))
    want = admin_for(drain, seen.ref, observed)
    if seen.admin is Admin.READY or (want is Admin.MAINT and seen.admin is Admin.DRAIN):
        actions.append(SetAdmin(seen.ref, want))
    elif drain.kill and drain.deadline is not None and now >= drain.deadline and observed.sessions(seen.ref):
        # The room that a cut makes in an old worker would go to a request that waits there, and begin on this server.
        actions.append(CutSessions(seen.ref, old_workers=not observed.queued(seen.ref.backend)))
    return actions


def _prove(seen: ServerSeen, held: Held, proved: Set[Ref], busy: bool) -> list[Action]:
    """A server that works on requests is not called down: that may end them (``on-marked-down``)."""
    if seen.parked or left_alone(seen, held):
        return []
    if seen.checked and (seen.ref not in proved or seen.mask & FORCED_MAINT) and not busy:
        return [ProveHealth(seen.ref)]
    ours = seen.mask & (FORCED_MAINT | FORCED_DRAIN)
    return [SetAdmin(seen.ref, Admin.DRAIN)] if ours != FORCED_DRAIN else []


def _release(seen: ServerSeen, held: Held) -> list[Action]:
    actions: list[Action] = []
    if held.foreign is Admin.DRAIN and seen.mask & FORCED_MAINT:
        actions.append(SetAdmin(seen.ref, Admin.DRAIN))
    elif held.foreign is None and seen.mask & (FORCED_MAINT | FORCED_DRAIN) and not seen.parked:
        actions.append(SetAdmin(seen.ref, Admin.READY))
    if held.agent_check and seen.agent_configured and not seen.agent:
        actions.append(SetAgentCheck(seen.ref, True))
    return actions


def _state_rows(intent: Intent, observed: Observed) -> dict[Ref, str]:
    """Lines of the server-state file; a server that HAProxy does not show now keeps the line it had."""
    before = server_state.state_rows(observed.files.get(file_names.STATE, ""))
    rows = {}
    for ref, hold in intent.held().items():
        seen = observed.server(ref)
        if hold.drain.phase is Phase.RELEASED:
            continue
        if seen is not None:
            theirs = hold.server.foreign if left_alone(seen, hold.server) else None
            rows[ref] = server_state.state_row(seen, theirs or admin_for(hold.drain, ref, observed))
        elif ref in before:
            rows[ref] = before[ref]
    return rows


def _steer(intent: Intent, observed: Observed) -> Mapping[str, str]:
    """For each backend with a drained server, one that is ready: late requests of old workers go there."""
    held = intent.held()
    steer = {}
    for name in sorted({ref.backend for ref, hold in held.items() if hold.drain.phase is not Phase.RELEASED}):
        backend = observed.backends.get(name)
        used = backend.used(set(held)) if backend else []
        if used:
            steer[name] = used[0].ref.server
    return steer
