"""From this HAProxy's own intent to the shared one: what is stored for all, and what replaces one that etcd lost. Pure.

*Only a command opens.* A shared intent that is missing, older than what is followed, or of another history opens
nothing: :func:`mend` says what has to be stored in its place, and where two histories meet the stricter of both wins.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from lbagent.cluster.overrides import is_held, strictness, subjects
from lbagent.cluster.revisions import TRAIL, descends
from lbagent.model.intent import Drain, Held, Intent, Phase
from lbagent.model.servers import Admin
from lbagent.model.subject import Subject


def share(intent: Intent, base: Intent, named: Iterable[Subject], node: str, now: float) -> Intent:
    """``intent`` as it is stored for all, in place of ``base``: without what only one HAProxy knows.

    ``named`` are the command's subjects; ``node`` is where it was given, ``now`` the time there.
    """
    number = base.revision + 1
    named = set(named)
    drains = {
        n: {name: _shared_drain(d, node, now, Subject(n, name) in named) for name, d in services.items()}
        for n, services in intent.drains.items()
    }
    known = {str(subject) for subject in subjects(intent) | named}
    touched = {s: r for s, r in base.touched.items() if s in known or number - r < TRAIL}
    return Intent(
        revision=base.revision,
        services=intent.services,
        drains=drains,
        trail=base.trail,
        touched=touched | dict.fromkeys(sorted(map(str, named)), number),
        members=tuple(sorted({*intent.members, *filter(None, (node,))})),
    )


def _shared_drain(drain: Drain, node: str, now: float, named: bool) -> Drain:
    """Without what one HAProxy alone knows. Who was asked, and when by that clock, stays unless ``named``."""
    servers = tuple(Held(backend=held.backend, server=held.server) for held in drain.servers)
    return replace(
        drain,
        servers=servers,
        admin=Admin.DRAIN,
        asked_at=node if named else drain.asked_at,
        # The deadline of a drain that was held here alone is by this clock.
        asked=now if named or not drain.asked else drain.asked,
    )


def joined(shared: Intent, nodes: Iterable[str]) -> Intent:
    """With ``nodes`` among those that a command waits for; the same object when they are."""
    members = tuple(sorted({*shared.members, *nodes}))
    return shared if members == shared.members else replace(shared, members=members)


def without(shared: Intent, node: str) -> Intent:
    """Without ``node`` among those that a command waits for."""
    return replace(shared, members=tuple(name for name in shared.members if name != node))


# ------------------------------------------------------------------------------------ what etcd has lost


def from_own(mine: Intent, now: float) -> Intent:
    """The shared intent that ``mine`` followed, for the day etcd has lost it."""
    out = mine
    for text, override in mine.exceptions.items():
        subject = Subject.parse(text)
        if subject.node:
            out = out.with_drain(subject.node, subject.service, override.drain)
        else:
            out = out.with_service(subject.service, override.service)
    for node, drains in out.drains.items():
        for name, drain in drains.items():
            if drain.phase is not Phase.HELD:  # a command has ended it; who still holds it gives it back by itself
                out = out.with_drain(node, name, None)
    made = share(out, Intent(), (), "", now)
    return replace(made, revision=mine.followed.revision if mine.followed else 0, trail=mine.trail)


def stricter(one: Intent, other: Intent) -> Intent:
    """``one`` with every restriction that only ``other`` has."""
    out = replace(one, members=tuple(sorted({*one.members, *other.members})))
    for name, service in other.services.items():
        if strictness(service) > strictness(out.services.get(name)):
            out = out.with_service(name, service)
    for node, drains in other.drains.items():
        for name, drain in drains.items():
            if drain.phase is Phase.HELD and not is_held(out.drain(node, name)):
                out = out.with_drain(node, name, drain)
    return out


def mend(stored: Intent | None, mine: Intent, now: float) -> tuple[Intent, str] | None:
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
