"""What HAProxy does now, whatever was asked: the mode of a backend, and whether a node can be given a request. Pure.

Status never repeats what a command said. A service counts as closed only while every backend that it owns is closed in
every worker; a node counts as drained only while no worker can give a request to any of its servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lbagent.cluster.overrides import STRICTNESS
from lbagent.guard import guard_map
from lbagent.model.intent import Intent, Mode, Phase, ServiceIntent
from lbagent.model.observed import Observed
from lbagent.model.servers import Admin, NodeState, Ref
from lbagent.topology.resolve import Service, Topology

Table = Mapping[str, str]


def tables(observed: Observed) -> list[Table]:
    """The guard's map in each worker; an empty one where it is not loaded."""
    found = [observed.table, *(worker.current_map for worker in observed.old_workers or ())]
    return [dict(table or ()) for table in found]


def weakest(
    known: Service | None, asked: ServiceIntent, observed: Observed, workers: Iterable[Table], now: float
) -> tuple[Mode, list[str]]:
    """(the mode of the backend that lets most through, the backends that let through more than was asked)."""
    wanted = asked.effective(now)
    if not observed.up or wanted is Mode.UP:
        return wanted, []
    keys: dict[str, list[str]] = {}
    for key in (*asked.keys, *(known.keys() if known else ())):
        keys.setdefault(key.rpartition("/")[2], []).append(key)
    workers = list(workers)
    found = {b: _mode(b, ks, observed, workers, now) for b, ks in keys.items() if b in observed.backends}
    found |= dict.fromkeys(known.tcp if known else (), Mode.UP)
    if not found:
        return wanted, []
    opened = sorted(b for b, mode in found.items() if STRICTNESS[mode] < STRICTNESS[wanted])
    mode = min((*found.values(), wanted), key=STRICTNESS.__getitem__)
    return mode, opened


def _mode(backend: str, keys: list[str], observed: Observed, workers: list[Table], now: float) -> Mode:
    seen = observed.backends[backend]
    if seen.guard is None:
        return Mode.UP if seen.used() else Mode.DOWN  # it was closed by taking its servers out
    modes = (guard_map.mode_in(table, key, now) for table in workers for key in keys)
    return min(modes, key=STRICTNESS.__getitem__, default=Mode.UP)


def node_state(
    node: str,
    intent: Intent,
    observed: Observed,
    topology: Topology | None = None,
    elsewhere: Mapping[Ref, int] | None = None,
) -> NodeState:
    """Ready, draining, or drained: no worker, here or ``elsewhere``, can give a request to a server of the node."""
    drains = intent.drains.get(node, {})
    held = [h.ref for d in drains.values() if d.phase is not Phase.RELEASED for h in d.servers]
    if not held:
        return NodeState.READY
    whole = any(drain.whole for drain in drains.values()) and topology is not None
    given_back = {name for drain in drains.values() for name in drain.given_back}
    services = topology.node_services(node) if topology is not None and whole else {}
    owned = [ref for name, refs in services.items() if name not in given_back for ref in refs]
    refs = dict.fromkeys((*held, *owned))
    busy = any((elsewhere or {}).get(ref) for ref in refs) or any(in_use(ref, observed) for ref in refs)
    return NodeState.DRAINING if busy or observed.blind else NodeState.DRAINED


def in_use(ref: Ref, observed: Observed) -> bool:
    """Some worker works on a request for this server, or can give it one."""
    seen = observed.server(ref)
    if seen is None:
        return bool(observed.sessions(ref))
    if seen.admin is Admin.READY and seen.usable:
        return True
    return bool(observed.sessions(ref) or observed.queued(ref.backend) or ref in observed.fed)
