"""One intent on every HAProxy: what each does with the shared one, and what all of them together have done. Pure.

Each agent goes on living by an intent of its own, stored beside its HAProxy: that is why a mode outlives etcd. What is
shared is what operators asked for; here one is made from the other::

    shared ── follow ──► the HAProxy's own intent ── plan, life ──► HAProxy
      ▲                                                              │
      └── step (health, releases) ◄── members' reports ◄── report ◄──┘

*Only a command opens*: a shared intent that is missing, older than what is followed, or of another history opens
nothing; :func:`mend` puts back what is closed (the stricter of both wins).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from lbagent.model.intent import GUARD_GONE, Drain, Exceptional, Held, Intent, Mode, Phase, ServiceIntent, Shared, Stamp
from lbagent.model.observed import Observed
from lbagent.model.servers import Admin, Ref
from lbagent.topology.resolve import Topology

TRAIL = 64  # revisions by which one history is told from another
STRICT = {Mode.UP: 0, Mode.READ_ONLY: 1, Mode.DOWN: 2}


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an agent reports of its HAProxy."""

    node: str
    followed: Stamp | None = None  # newest shared revision that every worker was read back with
    in_sync: bool = False
    up: bool = False
    version: str = ""
    time: float = 0.0  # its clock when it reported
    sessions: dict[str, int] = {}  # backend/server → requests, where there are any
    clients: int = 0  # connections of clients
    moves_address: bool = False  # its keepalived is told of a drain
    trouble: str = ""  # why its newest intent is not in force
    open: dict[str, tuple[str, ...]] = {}  # subject → what it still waits for
    well: tuple[str, ...] = ()  # nodes whose returning servers have all passed their checks
    holding: tuple[str, ...] = ()  # drains, as node/service, that it has not given back
    bare: tuple[str, ...] = ()  # services with a backend that carries no guard there
    exceptions: tuple[str, ...] = ()  # subjects that differ there by --local

    @property
    def revision(self) -> int:
        return self.followed.revision if self.followed else -1

    def important(self) -> Member:
        """Without the figures that change all the time."""
        return replace(self, time=0.0, sessions={}, clients=0)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the shared store held at one moment."""

    intent: Shared | None = None
    members: dict[str, Member] = {}
    alive: frozenset[str] = frozenset()
    sick: dict[str, tuple[str, ...]] = {}  # node → backend/server that takes no requests there, not by our drain
    trouble: str = ""  # why it is not known what the store holds by now

    def known(self) -> dict[str, Member]:
        """Every member, those whose report etcd has lost as well."""
        joined = self.intent.members if self.intent else ()
        return {name: self.members.get(name, Member(node=name)) for name in sorted({*joined, *self.members})}

    def others(self, me: str) -> list[Member]:
        return [member for name, member in self.known().items() if name != me]

    def present(self) -> list[Member]:
        """Those whose agent is alive and whose HAProxy is up."""
        return [m for name, m in sorted(self.members.items()) if name in self.alive and m.up]


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """What a command has to know of the other HAProxies before it may be carried out."""

    sick: dict[str, tuple[str, ...]] = {}  # backend/server → nodes whose HAProxy finds it not ready
    bare: dict[str, tuple[str, ...]] = {}  # service → nodes whose HAProxy has no guard for it
    clients: dict[str, tuple[int, bool]] = {}  # node → connections of clients, whether its address moves by itself
    here: Intent = Intent()  # what the asked HAProxy holds for us already
    exceptions: tuple[str, ...] = ()  # subjects that differ somewhere by --local


def elsewhere(view: View, me: str, here: Intent) -> Elsewhere:
    sick: dict[str, tuple[str, ...]] = {}
    for node in sorted(view.alive - {me}):
        for ref in view.sick.get(node, ()) if node in view.members and view.members[node].up else ():
            sick[ref] = (*sick.get(ref, ()), node)
    bare: dict[str, tuple[str, ...]] = {}
    for member in view.others(me):
        for name in member.bare if member.node in view.alive and member.up else ():
            bare[name] = (*bare.get(name, ()), member.node)
    clients = {m.node: (m.clients, m.moves_address) for m in view.present()}
    exceptions = {s for m in view.others(me) for s in m.exceptions} | set(here.exceptions)
    return Elsewhere(sick=sick, bare=bare, clients=clients, here=here, exceptions=tuple(sorted(exceptions)))


# ------------------------------------------------------------------------------------------- following


def descends(newer: Intent, older: Intent) -> bool:
    """``newer`` came out of the revision that ``older`` has; one too old to be remembered is taken for such."""
    if older.followed is None or newer.followed is None:
        return False
    if older.followed in newer.trail:
        return True
    return newer.trail[0].revision > older.followed.revision


def newer(one: Intent, other: Intent) -> bool:
    """Of the same history, ``one`` is the later."""
    return one.followed is not None and one.followed.revision > (other.followed.revision if other.followed else -1)


def subjects(intent: Intent) -> set[str]:
    drains = {f"{node}/{name}" for node, d in intent.drains.items() if node != GUARD_GONE for name in d}
    return set(intent.services) | drains


def restricts(subject: str, mine: Intent, shared: Intent) -> bool:
    """``mine`` keeps out more than ``shared`` does."""
    node, slash, name = subject.rpartition("/")
    if slash:
        return _out(mine.drains.get(node, {}).get(name)) and not _out(shared.drains.get(node, {}).get(name))
    return _strict(mine.services.get(name)) > _strict(shared.services.get(name))


def unshared(subject: str, mine: Intent, shared: Shared) -> bool:
    """Restricted here ``--local`` while etcd was away, and not taken up for all yet.

    Though the shared intent say the same by now: it may be an older one, that is put back in a moment.
    """
    exception = mine.exceptions.get(subject)
    if exception is None or not exception.alone or not excepted(subject, mine, shared):
        return False
    node, slash, name = subject.rpartition("/")
    if slash:
        return _out(mine.drains.get(node, {}).get(name))
    strictness = _strict(mine.services.get(name))
    return strictness > 0 and strictness >= _strict(shared.services.get(name))


def taken_up(mine: Intent, subject: str) -> Intent:
    """An exception that the shared intent says for all by now."""
    exception = mine.exceptions.get(subject)
    ended = {subject: replace(exception, alone=False)} if exception is not None else {}
    return replace(mine, exceptions=mine.exceptions | ended)


def _strict(service: ServiceIntent | None) -> int:
    return STRICT[service.mode] if service is not None else 0


def excepted(subject: str, mine: Intent, shared: Shared) -> bool:
    """This HAProxy was told ``--local`` to differ, and no command has named the subject since.

    A command that was given elsewhere while this HAProxy was alone may be older or newer: then the stricter wins.
    """
    exception = mine.exceptions.get(subject)
    if exception is None:
        return False
    if not exception.met and restricts(subject, mine, shared):
        return True
    return shared.touched.get(subject, 0) <= exception.revision


def follow(
    mine: Intent, shared: Shared, topology: Topology, observed: Observed, now: float, live: bool = True
) -> Intent:
    """This HAProxy's own intent once it follows ``shared``; the same object when it does already.

    ``live``: ``shared`` is what the store holds, not only what was seen there last.
    """
    forked = mine.followed is not None and not descends(shared, mine)
    if forked and mine.exceptions:
        # Another history: its commands may be older than the exceptions, or newer, so the stricter of both wins.
        unmet = {s: replace(e, met=False) for s, e in mine.exceptions.items() if restricts(s, mine, shared)}
        mine = replace(mine, exceptions=unmet)
    out = mine
    kept: dict[str, Exceptional] = {}
    for subject in sorted(subjects(mine) | subjects(shared) | set(mine.exceptions)):
        node, slash, name = subject.rpartition("/")
        differs = excepted(subject, mine, shared)
        if unshared(subject, mine, shared):
            kept[subject] = _kept(subject, mine, shared, live)
        if not slash:
            asked = shared.services.get(name)
            before = out.services.get(name)
            if differs and _strict(asked) != _strict(before):
                kept[subject] = _kept(subject, mine, shared, live)
                continue
            out = out.with_service(name, _service_here(name, asked, before, topology))
        else:
            wanted, held = shared.drains.get(node, {}).get(name), out.drains.get(node, {}).get(name)
            if differs and _out(wanted) is not _out(held):
                kept[subject] = _kept(subject, mine, shared, live)
                continue
            fresh = forked or mine.followed is None or shared.touched.get(subject, 0) > mine.followed.revision
            drain = _drain_here(wanted, held, fresh, subject, topology, observed, out, now)
            out = out.with_drain(node, name, drain)
    out = replace(out, trail=shared.trail, exceptions=kept, members=shared.members)
    return mine if out == mine else out


def _kept(subject: str, mine: Intent, shared: Shared, live: bool) -> Exceptional:
    """The exception, with what the shared intent says by now."""
    node, slash, name = subject.rpartition("/")
    exception = mine.exceptions[subject]
    if not live:
        return exception
    return Exceptional(
        revision=exception.revision if exception.met else shared.revision,
        alone=exception.alone,
        met=True,
        service=None if slash else shared.services.get(name),
        drain=shared.drains.get(node, {}).get(name) if slash else None,
    )


def meet(mine: Intent, named: Iterable[str]) -> Intent:
    """Before a command that was given to this HAProxy's agent: it knows of its exceptions, so they end by it."""
    met = {s: replace(e, met=True) if s in named else e for s, e in mine.exceptions.items()}
    return replace(mine, exceptions=met) if met != mine.exceptions else mine


def _out(drain: Drain | None) -> bool:
    return drain is not None and drain.phase is Phase.HELD


def _service_here(
    name: str, asked: ServiceIntent | None, before: ServiceIntent | None, topology: Topology
) -> ServiceIntent | None:
    """With the keys that this HAProxy's own topology adds."""
    if asked is None:
        return None
    known = topology.services.get(name)
    own = known.keys() if known else ()
    had = before.keys if before is not None and before.mode is asked.mode else ()
    return replace(asked, keys=tuple(dict.fromkeys((*asked.keys, *own, *had))))


def _drain_here(
    wanted: Drain | None,
    held: Drain | None,
    fresh: bool,
    subject: str,
    topology: Topology,
    observed: Observed,
    mine: Intent,
    now: float,
) -> Drain | None:
    if wanted is None or (wanted.phase is Phase.RELEASED and not wanted.forced):
        # Back for everyone else: here as soon as its own checks have passed.
        return held.step(Phase.RETURNING) if held is not None and held.phase is Phase.HELD else held
    if wanted.phase is Phase.RETURNING:
        return held.step(Phase.RETURNING) if held is not None and held.phase is Phase.HELD else held
    if wanted.phase is Phase.RELEASED:
        if held is None or held.phase is Phase.RELEASED:
            return held
        return held.step(Phase.RETURNING).step(Phase.RELEASED)
    if held is not None and not fresh:
        return held if held.phase is Phase.HELD else held.step(Phase.HELD)
    node, _, service = subject.rpartition("/")
    refs = dict.fromkeys((*(h.ref for h in wanted.servers), *topology.node_services(node).get(service, ())))
    known = {h.ref: h for h in held.servers} if held is not None else {}
    ours = mine.held()
    return replace(
        held.step(Phase.HELD) if held is not None else Drain(),
        admin=Admin.MAINT if held is not None and held.admin is Admin.MAINT and wanted.end_in_maint else Admin.DRAIN,
        end_in_maint=wanted.end_in_maint,
        kill=wanted.kill,
        whole=wanted.whole,
        # By this clock: a kill must not come early because the asker's clock is ahead.
        deadline=int(now + max(0.0, wanted.deadline - wanted.asked)) if wanted.deadline is not None else None,
        reason=wanted.reason,
        by=wanted.by,
        since=wanted.since,
        asked_at=wanted.asked_at,
        asked=0.0,
        forced=False,
        servers=(
            *(known.get(ref) or (ours[ref][3] if ref in ours else hold(ref, observed)) for ref in refs),
            *(h for ref, h in known.items() if ref not in refs),
        ),
    )


def hold(ref: Ref, observed: Observed) -> Held:
    """A server that we begin to hold, with what it has to be given back as."""
    seen = observed.server(ref)
    foreign = seen.admin if seen and seen.admin is not Admin.READY else None
    return Held(backend=ref.backend, server=ref.server, foreign=foreign, agent_check=bool(seen and seen.agent))


def together(mine: Intent, shared: Shared | None) -> frozenset[tuple[str, str]]:
    """Drains that come back on every HAProxy at once, or stay: none may release them for itself."""
    return frozenset(
        (node, name)
        for node, drains in (shared.drains if shared else {}).items()
        for name, drain in drains.items()
        if drain.phase is Phase.RETURNING and shared and not excepted(f"{node}/{name}", mine, shared)
    )


# --------------------------------------------------------------------------------------------- sharing


def share(intent: Intent, base: Shared, named: Iterable[str], node: str, now: float) -> Shared:
    """``intent`` as it is stored for all: without what only one HAProxy knows. ``named`` are the command's subjects."""
    number = base.revision + 1
    drains = {
        n: {name: _shared_drain(d, node, now, f"{n}/{name}" in named) for name, d in of_node.items()}
        for n, of_node in intent.drains.items()
        if n != GUARD_GONE
    }
    known = subjects(intent) | set(named)
    touched = {s: r for s, r in base.touched.items() if s in known or number - r < TRAIL}
    return Shared(
        revision=base.revision,
        services=intent.services,
        drains=drains,
        trail=base.trail,
        touched=touched | dict.fromkeys(sorted(named), number),
        members=tuple(sorted({*intent.members, *filter(None, (node,))})),
    )


def _shared_drain(drain: Drain, node: str, now: float, named: bool) -> Drain:
    """Without what one HAProxy alone knows. Who was asked about it, and when by that clock, stays unless ``named``."""
    servers = tuple(Held(backend=held.backend, server=held.server) for held in drain.servers)
    return replace(
        drain,
        servers=servers,
        admin=Admin.DRAIN,
        asked_at=node if named else drain.asked_at,
        asked=now if named or not drain.asked else drain.asked,  # what is held by itself has its deadline by this clock
    )


def from_own(mine: Intent, now: float) -> Shared:
    """The shared intent that ``mine`` followed, for the day etcd has lost it."""
    out: Intent = replace(mine, drains={n: d for n, d in mine.drains.items() if n != GUARD_GONE})
    for subject, exception in mine.exceptions.items():
        node, slash, name = subject.rpartition("/")
        out = out.with_drain(node, name, exception.drain) if slash else out.with_service(name, exception.service)
    for node, drains in out.drains.items():
        for name, drain in drains.items():
            if drain.phase is not Phase.HELD:  # a command has ended it; who still holds it gives it back by itself
                out = out.with_drain(node, name, None)
    made = share(out, Shared(), (), "", now)
    return replace(made, revision=mine.followed.revision if mine.followed else 0, trail=mine.trail)


def stricter(one: Shared, other: Shared) -> Shared:
    """``one`` with every restriction that only ``other`` has."""
    out = replace(one, members=tuple(sorted({*one.members, *other.members})))
    for name, service in other.services.items():
        if _strict(service) > _strict(out.services.get(name)):
            out = out.with_service(name, service)  # type: ignore[assignment]  # replace() keeps the type
    for node, drains in other.drains.items():
        for name, drain in drains.items():
            if drain.phase is Phase.HELD and node != GUARD_GONE and not _out(out.drains.get(node, {}).get(name)):
                out = out.with_drain(node, name, drain)  # type: ignore[assignment]
    return out


def mend(stored: Shared | None, mine: Intent, now: float) -> tuple[Shared, str] | None:
    """The shared intent that has to be stored in place of ``stored``, and why; None when ``stored`` can be followed."""
    own = from_own(mine, now)
    if mine.followed is None:
        if stored is None:
            return own, "no shared intent is stored yet"
        merged = stricter(stored, own)
        return None if merged == stored else (merged, "this HAProxy brings restrictions of its own")
    if stored is None:
        return own, f"etcd has lost the shared intent, revision {mine.followed.revision} is put back"
    if descends(stored, mine):
        return None
    if descends(own, stored):
        return own, f"etcd went back to revision {stored.revision}, {own.revision} is put back"
    merged = replace(stricter(stored, own), revision=max(stored.revision, own.revision))
    if merged == stored:
        return None
    return merged, f"etcd's revision {stored.revision} comes from another history: what is closed stays closed"


# -------------------------------------------------------------------------------------------- together


def step(shared: Shared, view: View, now: float) -> Shared:
    """The shared intent after what every HAProxy reports; the same object when nothing moved."""
    out = shared
    present = view.present()
    agreed = bool(present) and all(m.followed == shared.followed for m in present)
    for node, drains in shared.drains.items():
        well = agreed and all(node in m.well for m in present)
        for name, drain in drains.items():
            after: Drain | None = drain
            if drain.phase is Phase.RETURNING:
                if well:
                    after = drain.step(Phase.RELEASED)
                elif drain.deadline is not None and now >= drain.deadline:
                    after = drain.step(Phase.HELD)
            elif drain.phase is Phase.RELEASED and agreed and not any(f"{node}/{name}" in m.holding for m in present):
                after = None
            if after != drain:
                out = out.with_drain(node, name, after)  # type: ignore[assignment]  # replace() keeps the type
    return out


def steps_here(shared: Shared, view: View, me: str) -> bool:
    """One agent moves the shared intent on: the one that was asked while it is alive, else the first of them."""
    asked = [d.asked_at for drains in shared.drains.values() for d in drains.values() if d.phase is not Phase.HELD]
    alive = [node for node in asked if node in view.alive]
    return bool(asked) and me == (alive[0] if alive else min(view.alive, default=me))


def joined(shared: Shared, nodes: Iterable[str]) -> Shared:
    """With ``nodes`` among those that a command waits for; the same object when they are."""
    members = tuple(sorted({*shared.members, *nodes}))
    return shared if members == shared.members else replace(shared, members=members)


def without(shared: Shared, node: str) -> Shared:
    return replace(shared, members=tuple(name for name in shared.members if name != node))


def reached(member: Member, shared: Shared, mine: Intent, asked: Stamp) -> bool:
    """The member's HAProxy has ``asked`` in force, or what came of it; ``mine`` follows ``shared``.

    A report may be of another history, which etcd has lost since: its number says nothing. Where it is ``asked`` that
    was lost, what :func:`mend` has put in its place has to be in force.
    """
    if member.followed not in shared.trail:
        return False
    lost = asked not in shared.trail and asked.revision >= shared.trail[0].revision
    least = mine.followed if lost and mine.followed else asked
    return member.revision >= least.revision


def pending(
    view: View, me: str, mine: Intent, asked: Stamp | None, named: Iterable[str]
) -> tuple[list[str], list[str]]:
    """(what the other HAProxies have open, where it will not be in force) for a command stored as ``asked``.

    ``mine`` is what the HAProxy of ``me`` has in force, which was told of it.
    """
    if view.trouble:
        return [f"what the other HAProxies do cannot be seen: {view.trouble}"], []
    shared = view.intent
    if shared is None or not descends(shared, mine):
        return ["etcd has lost what is in force here: it is being put back"], []
    if mine.followed != shared.followed:  # which may say something else about what was asked
        return [f"{me}: revision {shared.revision} is not in force there yet"], []
    waiting, away = [], []
    for member in view.others(me):
        if member.node not in view.alive:
            away.append(
                f"{member.node} is away: it follows as soon as its agent is back; "
                f"if it is gone for good: lbctl forget {member.node}"
            )
        elif not member.up:
            away.append(f"{member.node}: its HAProxy is down; it will be in force there the moment it starts")
        elif asked is not None and not reached(member, shared, mine, asked):
            why = f": {member.trouble}" if member.trouble else ""
            waiting.append(f"{member.node}: revision {asked.revision} is not in force there yet{why}")
        elif differing := sorted(set(named) & set(member.exceptions)):
            away.append(
                f"{member.node}: {', '.join(differing)} differs there by --local; the same command given again ends it"
            )
        else:
            waiting += [f"{member.node}: {line}" for subject in named for line in member.open.get(subject, ())]
    return waiting, away


def sick(intent: Intent, observed: Observed) -> tuple[str, ...]:
    """Servers that take no requests here for other reasons than a drain of ours."""
    held = {ref for ref, (_, _, d, _) in intent.held().items()}
    return tuple(
        sorted(
            str(server.ref)
            for backend in observed.backends.values()
            for server in backend.servers.values()
            if not server.ready and server.ref not in held
        )
    )


def sessions_elsewhere(view: View | None, me: str) -> Mapping[Ref, int]:
    """Requests that the other live HAProxies have open, by server."""
    found: dict[Ref, int] = {}
    alive = [m for m in view.others(me) if m.node in view.alive] if view else []
    for member in alive:
        for name, count in member.sessions.items():
            backend, _, server = name.partition("/")
            ref = Ref(backend, server)
            found[ref] = found.get(ref, 0) + count
    return found


def skewed(before: Mapping[str, float], view: View, me: str, now: float) -> dict[str, float]:
    """Nodes whose report has come since ``before`` (node → time of its report), and how far their clock is ahead."""
    fresh = (m for m in view.others(me) if m.node in view.alive and before.get(m.node, m.time) != m.time)
    return {m.node: m.time - now for m in fresh}
