"""``drain`` and ``ready``: what becomes of the servers of a node. Pure; refusals are raised."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from lbagent.errors import LbagentError
from lbagent.model.intent import Drain, Held, Intent, Phase
from lbagent.model.servers import Admin, Ref
from lbagent.model.subject import Subject
from lbagent.rules.request import Request, unknown
from lbagent.topology.covered import with_notes


def with_nodes(request: Request, intent: Intent) -> tuple[Intent, list[Subject], list[Subject], list[str]]:
    """(the intent with the nodes as asked for, what is drained, what comes back, notes)."""
    drains: list[Subject] = []
    returns: list[Subject] = []
    notes: list[str] = []
    for node, wanted in request.change.nodes.items():
        if node not in request.topology.nodes and node not in request.before.drains:
            raise LbagentError("unknown_node", unknown("node", [node], request.topology.nodes))
        change, done = (_drained, drains) if wanted.state == "drained" else (_returning, returns)
        intent, names, said = change(request, intent, node, wanted.services)
        done += [Subject(node, name) for name in names]
        notes += said
    return intent, drains, returns, notes


def _drained(request: Request, intent: Intent, node: str, only: list[str]) -> tuple[Intent, list[str], list[str]]:
    of_node = request.topology.node_services(node)
    _refuse_unknown_services(node, only, of_node)
    if not of_node and node not in intent.drains:
        raise LbagentError("unknown_node", f"node {node} has no servers in any service that lbagent knows")
    names = [name for name in of_node if not only or name in only]
    notes: list[str] = []
    for name in names:
        drain, said = _one_drained(request, intent, Subject(node, name), of_node[name], whole=not only)
        intent = intent.with_drain(node, name, drain)
        notes += said
    if left := () if only else request.topology.stays.get(node, ()):
        notes.append(f"stays in traffic, as no service lists it: {', '.join(map(str, left))}")
    return intent, names, notes


def _one_drained(
    request: Request, intent: Intent, subject: Subject, refs: tuple[Ref, ...], whole: bool
) -> tuple[Drain, list[str]]:
    change = request.change
    before = intent.drain(subject.node, subject.service)
    known = {held.ref: held for held in before.servers} if before else {}
    notes: list[str] = []
    servers: list[Held] = []
    for ref in refs:
        held = known.get(ref) or (request.held[ref].server if ref in request.held else None)
        if held is None:
            held = with_notes(ref, request.observed)
            if held.foreign:
                notes.append(
                    f"{ref} is in {held.foreign} already, set by somebody else: it stays so after `lbctl ready`"
                )
        servers.append(held)
    drain = replace(
        before.step(Phase.HELD) if before else Drain(since=request.now),
        forced=False,
        admin=Admin.MAINT if before and before.admin is Admin.MAINT and change.maint else Admin.DRAIN,
        end_in_maint=change.maint,
        kill=change.kill,
        whole=whole or bool(before and before.whole),
        given_back=() if whole or before is None else before.given_back,
        deadline=request.deadline,
        reason=change.reason or (before.reason if before else ""),
        by=request.by,
        # Servers that are gone from the configuration stay held until `ready`.
        servers=(*servers, *(held for ref, held in known.items() if ref not in refs)),
    )
    return drain, notes


def _returning(request: Request, intent: Intent, node: str, only: list[str]) -> tuple[Intent, list[str], list[str]]:
    drains = intent.drains.get(node, {})
    _refuse_unknown_services(node, only, {**request.topology.node_services(node), **drains})
    names = [name for name in drains if not only or name in only]
    notes: list[str] = []
    for name in names:
        notes += _stays(request, drains[name])
        intent = intent.with_drain(node, name, _on_its_way_back(request, drains[name]))
    for name in drains if only else ():
        if name not in names and drains[name].whole:
            came_back = tuple(dict.fromkeys((*drains[name].given_back, *names)))
            intent = intent.with_drain(node, name, replace(drains[name], given_back=came_back))
    overridden = (Subject.parse(text) for text in request.elsewhere.exceptions)
    names += [
        s.service for s in overridden if s.node == node and s.service not in names and (not only or s.service in only)
    ]
    if not names:
        notes += _not_ours(request, node)
    return intent, names, notes


def _on_its_way_back(request: Request, drain: Drain) -> Drain:
    if drain.phase is Phase.RELEASED:
        return drain
    # While HAProxy is down nothing can prove itself: it waits for as long as that takes.
    drain = drain.step(Phase.RETURNING, request.timeout if request.observed.up else None)
    return replace(drain.step(Phase.RELEASED), forced=True) if request.change.force else drain


def _stays(request: Request, drain: Drain) -> list[str]:
    """What of the node does not come back by this command, and why."""
    notes = []
    for held in drain.servers:
        seen = request.observed.server(held.ref)
        if seen is None:
            continue
        if held.foreign and seen.admin is not Admin.READY:
            notes.append(f"{held.ref} stays in {held.foreign}: somebody else put it there")
        elif seen.parked:
            notes.append(f"{held.ref} stays out: it is disabled in HAProxy's configuration")
        elif not seen.weight:
            notes.append(f"{held.ref} has weight 0: HAProxy gives it no requests")
        elif held.was_down and not seen.healthy:
            notes.append(f"{held.ref} was down before the drain: it is not waited for")
    return notes


def _not_ours(request: Request, node: str) -> list[str]:
    return [
        f"{ref} stays in {seen.admin}: somebody else put it there"
        for refs in request.topology.node_services(node).values()
        for ref in refs
        if (seen := request.observed.server(ref)) and seen.admin is not Admin.READY
    ]


def _refuse_unknown_services(node: str, only: list[str], known: Iterable[str]) -> None:
    strange = [name for name in only if name not in known]
    if strange:
        raise LbagentError("unknown_service", unknown(f"service on {node}", strange, known))
