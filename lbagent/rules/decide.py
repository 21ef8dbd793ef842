"""From what an operator asks for to the next intent. Pure: refusals are raised, nothing is done."""

from __future__ import annotations

from lbagent.cluster.members import Elsewhere
from lbagent.errors import LbagentError
from lbagent.guard import guard_map
from lbagent.model.intent import Intent, Mode
from lbagent.rules import protections
from lbagent.rules.change import Change, Decision
from lbagent.rules.modes import close_short, with_modes
from lbagent.rules.nodes import with_nodes
from lbagent.rules.request import Request, Site, request

LONGEST_ENTRY = 12000  # bytes: HAProxy silently splits a line of a map that is longer than its buffer


def decide(
    site: Site,
    intent: Intent,
    change: Change,
    now: float,
    by: str,
    elsewhere: Elsewhere | None = None,
    steady: float | None = None,
) -> Decision:
    """The intent after ``change``; LbagentError says why not, and names every service and backend concerned.

    ``elsewhere`` is what the other HAProxies report, where ``intent`` is the one that all of them share. ``steady`` is
    the time that deadlines are by, ``now`` the one that windows are by.
    """
    if change.if_revision is not None and change.if_revision != intent.revision:
        raise LbagentError(
            "revision",
            f"the intent is at revision {intent.revision}, the change was made for {change.if_revision}",
        )
    asked = request(site, intent, change, now, by, elsewhere, steady)
    out, reopened, notes = with_modes(asked)
    out, drains, returns, said = with_nodes(asked, out)
    notes += said
    notes += protections.max_unavailable(asked, out)
    out, said = _keep_serving(asked, out)
    notes += said + protections.not_kept(asked, out) + _stickiness_unknown(asked, out)
    notes += _clients_to_be_cut(asked, {s.node for s in drains if not change.nodes[s.node].services})
    if any(len(key) + len(value) > LONGEST_ENTRY for key, value in guard_map.entries(site.config, out)):
        raise LbagentError(
            "bad_request", f"the names and the reason make more than {LONGEST_ENTRY} bytes of one answer"
        )
    closes = any(wanted.mode is not Mode.UP for wanted in change.services.values())
    opens = any(wanted.mode is Mode.UP for wanted in change.services.values())
    if site.observed.up and site.observed.old_workers is None and (drains or closes):
        notes.append(f"requests in workers that a reload left behind cannot be seen: {site.observed.masterless}")
    modes = {name: wanted.mode for name, wanted in change.services.items()}
    modes |= {n: s.mode for n, s in out.services.items() if n not in modes and s != intent.services.get(n)}
    return Decision(
        intent=out,
        command=change.command,
        services=tuple(modes),
        modes=modes,
        drains=tuple(drains),
        returns=tuple(returns),
        reopened=tuple(reopened),
        notes=tuple(notes),
        deadline=asked.timeout if (returns or opens) and not drains and not closes else asked.deadline,
    )


def _keep_serving(asked: Request, after: Intent) -> tuple[Intent, list[str]]:
    """Refuse to leave a service with fewer ready servers than it needs, or close it first if told to."""
    short = protections.short_of_servers(asked, after)
    if not short or asked.overrides("last_server"):
        return after, [f"overridden: last_server: {name}: {', '.join(why)} ready" for name, why in short.items()]
    if asked.change.last == "down":
        return close_short(asked, after, short)
    raise protections.last_server(short)


def _stickiness_unknown(asked: Request, after: Intent) -> list[str]:
    """A drained server keeps the clients that a cookie or a stick rule binds to it, unless lbagent knows of those."""
    seen = asked.observed.backends
    drained = {ref.backend for ref in asked.newly_held(after)}
    unknown = sorted(b for b in drained if b in seen and not seen[b].sticky_known)
    if not unknown:
        return []
    why = asked.observed.unread or "they are not in the files of haproxy.config"
    return [f"cannot tell whether {', '.join(unknown)} have stick rules, so a drained server may get requests: {why}"]


def _clients_to_be_cut(asked: Request, nodes: set[str]) -> list[str]:
    """A drain empties a node's servers, not the HAProxy on it: say who would be cut by patching that."""
    clients = dict(asked.elsewhere.clients)
    if not asked.shared and asked.observed.up:
        moves = asked.config.haproxy.vip_track_file is not None
        clients[asked.config.node] = (asked.observed.connections, moves)
    notes = []
    for node in sorted(nodes & set(clients)):
        count, moves = clients[node]
        how = (
            "keepalived is told to move its virtual address"
            if moves
            else "Move its virtual address first, for example with `systemctl stop keepalived` there "
            "(with haproxy.vip_track_file set, keepalived is told by itself)"
        )
        if count:
            notes.append(
                f"{node}'s own HAProxy has {count} client connection{'' if count == 1 else 's'}, "
                f"which patching {node} would cut. {how}"
            )
    return notes
