"""``--local``: where one HAProxy was told to differ from the shared intent, and when that ends. Pure.

An override ends in one of two ways. The next command for all that names its subject ends it. And a restriction that
was made while etcd was away is passed on to the others as soon as etcd answers (:func:`to_pass_on`).

A command given elsewhere while this HAProxy was alone may be older or newer than the override; no clock can say. Until
the two have been compared the stricter one counts, so that nothing opens by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from lbagent.model.intent import Drain, Intent, Mode, Override, Phase, ServiceIntent
from lbagent.model.subject import Subject

STRICTNESS = {Mode.UP: 0, Mode.READ_ONLY: 1, Mode.DOWN: 2}


def strictness(service: ServiceIntent | None) -> int:
    return STRICTNESS[service.mode] if service is not None else 0


def is_held(drain: Drain | None) -> bool:
    return drain is not None and drain.phase is Phase.HELD


def subjects(intent: Intent) -> set[Subject]:
    """Every subject that ``intent`` restricts."""
    drains = {Subject(node, name) for node, services in intent.drains.items() for name in services}
    return {Subject("", name) for name in intent.services} | drains


def restricts_more(subject: Subject, mine: Intent, shared: Intent) -> bool:
    """``mine`` keeps out more of ``subject`` than ``shared`` does."""
    node, name = subject.node, subject.service
    if node:
        return is_held(mine.drain(node, name)) and not is_held(shared.drain(node, name))
    return strictness(mine.services.get(name)) > strictness(shared.services.get(name))


def in_force(subject: Subject, mine: Intent, shared: Intent) -> bool:
    """This HAProxy was told ``--local`` to differ, and no command for all has named the subject since."""
    override = mine.exceptions.get(str(subject))
    if override is None:
        return False
    if not override.compared and restricts_more(subject, mine, shared):
        return True
    return shared.touched.get(str(subject), 0) <= override.revision


def to_pass_on(subject: Subject, mine: Intent, shared: Intent) -> bool:
    """A restriction made ``--local`` while etcd was away, which the others do not have by this HAProxy's doing yet.

    It stays to be passed on even where ``shared`` says the same: that may be an older intent, about to be replaced.
    """
    override = mine.exceptions.get(str(subject))
    if override is None or not override.store_was_away or not in_force(subject, mine, shared):
        return False
    if subject.node:
        return is_held(mine.drain(subject.node, subject.service))
    service = strictness(mine.services.get(subject.service))
    return service > 0 and service >= strictness(shared.services.get(subject.service))


def passed_on(mine: Intent, subject: Subject) -> Intent:
    """After the restriction of ``subject`` was stored for all."""
    override = mine.exceptions.get(str(subject))
    if override is None:
        return mine
    return replace(mine, exceptions=mine.exceptions | {str(subject): replace(override, store_was_away=False)})


def compare(mine: Intent, named: Iterable[Subject]) -> Intent:
    """Before a command for all that was given to this agent: it knows the overrides, so the command ends them."""
    texts = {str(subject) for subject in named}
    after = {text: replace(o, compared=True) if text in texts else o for text, o in mine.exceptions.items()}
    return replace(mine, exceptions=after) if after != mine.exceptions else mine


def kept(subject: Subject, mine: Intent, shared: Intent, live: bool) -> Override:
    """The override of ``subject`` with what ``shared`` says by now; ``live``: ``shared`` is what the store holds."""
    override = mine.exceptions[str(subject)]
    if not live:
        return override
    return Override(
        revision=override.revision if override.compared else shared.revision,
        store_was_away=override.store_was_away,
        compared=True,
        service=None if subject.node else shared.services.get(subject.service),
        drain=shared.drain(subject.node, subject.service) if subject.node else None,
    )
