"""Whether a command is in force on every HAProxy, and what is still open elsewhere. Pure.

Each agent reports the newest revision of the shared intent that every worker of its HAProxy was read back with. A
report may be of another history, which etcd has lost since: then its number says nothing, and its stamp is not in the
trail of the intent that is stored. So a report counts only if its stamp is there.
"""

from __future__ import annotations

from collections.abc import Iterable

from lbagent.cluster.members import Member, View
from lbagent.cluster.revisions import descends
from lbagent.model.intent import Intent, Stamp
from lbagent.model.subject import Subject


def reached(member: Member, shared: Intent, mine: Intent, asked: Stamp) -> bool:
    """The member's HAProxy has ``asked`` in force, or what came of it; ``mine`` follows ``shared``.

    Where ``asked`` itself was lost, what :func:`lbagent.cluster.share.mend` has put in its place has to be in force.
    """
    if member.followed not in shared.trail:
        return False
    lost = asked not in shared.trail and asked.revision >= shared.trail[0].revision
    least = mine.followed if lost and mine.followed else asked
    return member.revision >= least.revision


def pending(
    view: View, me: str, mine: Intent, asked: Stamp | None, named: Iterable[Subject]
) -> tuple[list[str], list[str]]:
    """(what the other HAProxies have open, where it will not be in force) for a command stored as ``asked``.

    ``mine`` is what the HAProxy of ``me`` has in force; that one was told of the command.
    """
    if view.trouble:
        return [f"what the other HAProxies do cannot be seen: {view.trouble}"], []
    shared = view.intent
    if shared is None or not descends(shared, mine):
        return ["etcd has lost what is in force here: it is being put back"], []
    if mine.followed != shared.followed:  # which may say something else about what was asked
        return [f"{me}: revision {shared.revision} is not in force there yet"], []
    texts = [str(subject) for subject in named]
    waiting, away = [], []
    for member in view.others(me):
        if member.node not in view.alive:
            away.append(
                f"{member.node} is away; it follows when its agent is back; "
                f"if it is gone for good: lbctl forget {member.node}"
            )
        elif not member.up:
            away.append(f"{member.node}: its HAProxy is down; it will be in force there the moment it starts")
        elif asked is not None and not reached(member, shared, mine, asked):
            why = f": {member.trouble}" if member.trouble else ""
            waiting.append(f"{member.node}: revision {asked.revision} is not in force there yet{why}")
        elif differing := sorted(set(texts) & set(member.exceptions)):
            away.append(
                f"{member.node}: {', '.join(differing)} differs there by --local; the same command given again ends it"
            )
        else:
            waiting += [f"{member.node}: {line}" for text in texts for line in member.open.get(text, ())]
    return waiting, away
