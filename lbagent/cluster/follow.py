"""From the shared intent to this HAProxy's own: what each agent does with what all were asked. Pure.

Each agent lives by an intent of its own, stored beside its HAProxy. That is why a mode outlives etcd, and why an agent
that cannot reach etcd goes on. :func:`follow` makes the own intent from the shared one. It adds what only this HAProxy
knows: its own backends and servers, how far a drain has come here, and what was told ``--local``.
"""

from __future__ import annotations

from msgspec.structs import replace

from lbagent.cluster import overrides
from lbagent.cluster.revisions import descends
from lbagent.model.intent import Drain, Intent, Override, Phase, ServiceIntent
from lbagent.model.observed import Observed
from lbagent.model.servers import Admin
from lbagent.model.subject import Subject
from lbagent.topology.covered import whole_nodes, with_notes
from lbagent.topology.resolve import Topology


def follow(
    mine: Intent, shared: Intent, topology: Topology, observed: Observed, now: float, live: bool = True
) -> Intent:
    """This HAProxy's own intent once it follows ``shared``; the same object when it does already.

    ``live``: ``shared`` is what the store holds, not only what was seen there last.
    """
    forked = mine.followed is not None and not descends(shared, mine)
    if forked and mine.exceptions:
        mine = replace(mine, exceptions=_after_a_fork(mine, shared))
    shared = whole_nodes(shared, topology)
    out = mine
    kept: dict[str, Override] = {}
    named = {Subject.parse(text) for text in mine.exceptions}
    for subject in sorted(overrides.subjects(mine) | overrides.subjects(shared) | named):
        if overrides.to_pass_on(subject, mine, shared):
            kept[str(subject)] = overrides.kept(subject, mine, shared, live)
        if _differs(subject, mine, shared, out):
            kept[str(subject)] = overrides.kept(subject, mine, shared, live)
        elif not subject.node:
            out = _with_service(out, subject.service, shared, topology)
        else:
            fresh = forked or mine.followed is None
            fresh = fresh or shared.touched.get(str(subject), 0) > mine.trail[-1].revision
            out = _with_drain(out, subject, shared, fresh, topology, observed, now)
    out = replace(out, trail=shared.trail, exceptions=kept, members=shared.members)
    return mine if out == mine else out


def _after_a_fork(mine: Intent, shared: Intent) -> dict[str, Override]:
    """Of another history the commands may be older than the overrides, or newer: only restrictions are kept."""
    return {
        text: replace(override, compared=False)
        for text, override in mine.exceptions.items()
        if overrides.restricts_more(Subject.parse(text), mine, shared)
    }


def _differs(subject: Subject, mine: Intent, shared: Intent, out: Intent) -> bool:
    """An override is in force for ``subject``, and makes a difference."""
    if not overrides.in_force(subject, mine, shared):
        return False
    node, name = subject.node, subject.service
    if node:
        return overrides.is_held(shared.drain(node, name)) is not overrides.is_held(out.drain(node, name))
    return overrides.strictness(shared.services.get(name)) != overrides.strictness(out.services.get(name))


def _with_service(out: Intent, name: str, shared: Intent, topology: Topology) -> Intent:
    """With the keys that this HAProxy's own topology adds, and those that the mode covered here before."""
    asked, before = shared.services.get(name), out.services.get(name)
    if asked is None:
        return out.with_service(name, None)
    known = topology.services.get(name)
    own = known.keys() if known else ()
    had = before.keys if before is not None and before.mode is asked.mode else ()
    made: ServiceIntent = replace(asked, keys=tuple(dict.fromkeys((*asked.keys, *own, *had))))
    if before is not None and before.mode is asked.mode and before.start == asked.start and before.at_once:
        made = replace(made, at_once=True)  # it was seen to begin: no clock ends that
    return out.with_service(name, made)


def _with_drain(
    out: Intent, subject: Subject, shared: Intent, fresh: bool, topology: Topology, observed: Observed, now: float
) -> Intent:
    wanted, held = shared.drain(subject.node, subject.service), out.drain(subject.node, subject.service)
    if wanted is None or wanted.phase is Phase.RETURNING or (wanted.phase is Phase.RELEASED and not wanted.forced):
        # Back, or on its way, for everyone else: here as soon as its own checks have passed.
        after = held.step(Phase.RETURNING) if held is not None and held.phase is Phase.HELD else held
    elif wanted.phase is Phase.RELEASED:
        released = held is None or held.phase is Phase.RELEASED
        after = held if held is None or released else held.step(Phase.RETURNING).step(Phase.RELEASED)
    elif held is not None and not fresh:
        after = held if held.phase is Phase.HELD else replace(held.step(Phase.HELD), given_up=wanted.given_up)
    else:
        after = _drained_anew(wanted, held, subject, topology, observed, out, now)
    if after is not None and wanted is not None:
        after = replace(after, given_back=wanted.given_back)  # else what came back by name would be covered anew
    return out.with_drain(subject.node, subject.service, after)


def _drained_anew(
    wanted: Drain,
    held: Drain | None,
    subject: Subject,
    topology: Topology,
    observed: Observed,
    out: Intent,
    now: float,
) -> Drain:
    known = {h.ref: h for h in held.servers} if held is not None else {}
    own = topology.node_services(subject.node).get(subject.service, ())
    refs = dict.fromkeys(
        (*(h.ref for h in wanted.servers if topology.owner.get(h.ref, subject.node) == subject.node), *own)
    )
    ours = out.held()
    return replace(
        held.step(Phase.HELD) if held is not None else Drain(),
        admin=Admin.MAINT if held is not None and held.admin is Admin.MAINT and wanted.end_in_maint else Admin.DRAIN,
        end_in_maint=wanted.end_in_maint,
        kill=wanted.kill,
        whole=wanted.whole,
        given_back=wanted.given_back,
        # By this clock: a kill must not come early because the asker's clock is ahead.
        deadline=int(now + max(0.0, wanted.deadline - wanted.asked)) if wanted.deadline is not None else None,
        reason=wanted.reason,
        by=wanted.by,
        since=wanted.since,
        asked_at=wanted.asked_at,
        asked=0.0,
        forced=False,
        servers=(
            *(known.get(ref) or (ours[ref].server if ref in ours else with_notes(ref, observed)) for ref in refs),
            *(h for ref, h in known.items() if ref not in refs),
        ),
    )
