"""A small HAProxy in memory, for the tests of the pure part: what it looks like, and what an action makes of it.

It knows only what ``plan`` reasons with: masks, operational states, the map, the lists, the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lbagent.guard import file_names
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
from lbagent.model.intent import Drain, Held, Intent, Mode, Phase, ServiceIntent
from lbagent.model.observed import BackendSeen, Observed, ServerSeen, Worker
from lbagent.model.servers import FORCED_DRAIN, FORCED_MAINT, Admin, Ref
from lbagent.model.written import Written
from lbagent.rules.drains import advance
from lbagent.rules.plan import desired, plan
from lbagent.settings.config import Config
from lbagent.topology.resolve import topology

NOW = 1_795_402_611  # 2026-11-23T02:56:51Z
NODES = ("ctl1", "ctl2", "ctl3")


def examples(count: int) -> settings:
    """So many examples of a property, however busy the machine is."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# ------------------------------------------------------------------------------------------ how it looks


def server(backend: str = "nova", name: str = "ctl1", **facts: object) -> ServerSeen:
    """A checked server in good health, unless ``facts`` say otherwise."""
    number = name[-1] if name[-1].isdigit() else "9"
    line = f"3 {backend} {number} {name} 10.0.0.{number} 2 0 1 1 260 6 3 4 6 0 0 0 - 8774 - 0 0 - - 0"
    seen = ServerSeen(
        ref=Ref(backend, name),
        mask=0,
        op=2,
        weight=1,
        address=f"10.0.0.{number}",
        port=8774,
        sessions=0,
        checked=True,
        agent=False,
        agent_configured=False,
        backup=False,
        tracks="",
        line=tuple(line.split()),
    )
    return replace(seen, **facts)


def backend(name: str, *servers: ServerSeen, **facts: object) -> BackendSeen:
    """A guarded http backend; without ``servers`` it has one on each of three nodes."""
    servers = servers or tuple(server(name, node) for node in NODES)
    seen = BackendSeen(name=name, http=True, sticky=False, guard=1, servers={s.ref.server: s for s in servers})
    return replace(seen, **facts)


def haproxy(*backends: BackendSeen, **facts: object) -> Observed:
    """A running HAProxy with an empty map; without ``backends`` it has nova and keystone on three nodes."""
    backends = backends or (backend("nova"), backend("keystone"))
    seen = Observed(
        up=True,
        version="2.6.12",
        pid=100,
        frontends=frozenset({"public", "internal"}),
        backends={b.name: b for b in backends},
        table=(),
        lists=dict.fromkeys(file_names.LISTS, ()),
        old_workers=(),
        written=Written(frontends={}, keeps=frozenset(b.name for b in backends), cuts=frozenset(), sticky={}),
    )
    return replace(seen, **facts)


def with_server(observed: Observed, ref: Ref, **facts: object) -> Observed:
    """The same HAProxy, with one server that looks different."""
    old = observed.backends[ref.backend]
    new = replace(old, servers={**old.servers, ref.server: replace(old.servers[ref.server], **facts)})
    return replace(observed, backends={**observed.backends, ref.backend: new})


# ------------------------------------------------------------------------------------- what actions do


def perform(observed: Observed, actions: Iterable[Action]) -> Observed:
    """HAProxy and its files after ``actions``."""
    for action in actions:
        match action:
            case WriteFile(name, text):
                observed = replace(observed, files={**observed.files, name: text})
            case ReplaceMap(entries, None):
                observed = replace(observed, table=entries)
            case ReplaceMap(entries, pid):
                workers = (replace(w, current_map=entries) if w.pid == pid else w for w in observed.old_workers or ())
                observed = replace(observed, old_workers=tuple(workers))
            case ReplaceList(name, patterns):
                observed = replace(observed, lists={**observed.lists, name: patterns})
            case SetAdmin(ref, admin):
                observed = with_server(observed, ref, **_set(observed, ref, admin))
            case ProveHealth(ref):
                observed = with_server(observed, ref, **_set(observed, ref, Admin.DRAIN) | {"op": 0})
            case SetAgentCheck(ref, on):
                observed = with_server(observed, ref, agent=on)
            case CutSessions(ref):
                workers = (replace(w, sessions=_without(w.sessions, ref)) for w in observed.old_workers or ())
                observed = replace(with_server(observed, ref, sessions=0), old_workers=tuple(workers))
            case _:
                raise TypeError(f"not an action: {action!r}")
    return observed


def _set(observed: Observed, ref: Ref, admin: Admin) -> dict[str, int]:
    """Only the two forced bits move; a server that leaves maint is taken for healthy until a check fails."""
    seen = observed.backends[ref.backend].servers[ref.server]
    forced = {Admin.READY: 0, Admin.DRAIN: FORCED_DRAIN, Admin.MAINT: FORCED_MAINT}[admin]
    mask = seen.mask & ~(FORCED_MAINT | FORCED_DRAIN) | forced
    if admin is Admin.MAINT:
        return {"mask": mask, "op": 0}
    return {"mask": mask, "op": 2 if seen.mask & FORCED_MAINT else seen.op}


def _without(sessions: Mapping[Ref, int], ref: Ref) -> dict[Ref, int]:
    return {other: count for other, count in sessions.items() if other != ref}


class Loop:
    """The agent's loop without the agent: advance, plan, perform, look again."""

    def __init__(self, config: Config, intent: Intent, observed: Observed, now: float = NOW) -> None:
        self.config, self.intent, self.observed, self.now = config, intent, observed, now
        self.proved: set[Ref] = set()
        self.settled = False
        self.done: list[Action] = []
        self.ever_held = set(intent.held())

    def actions(self) -> list[Action]:
        where = topology(self.config, self.observed.backends)
        want = desired(self.config, self.intent, where, self.observed)
        return plan(want, self.intent, self.observed, self.proved, self.now)

    def tick(self) -> Loop:
        """At most four rounds, as many as the agent takes; AssertionError when something is left to do."""
        for _ in range(4):
            self.intent = advance(self.intent, self.observed, self.proved, self.now, self.settled)
            self.ever_held |= set(self.intent.held())
            self.settled = False
            actions = self.actions()
            if not actions:
                break
            self.done += actions
            self.observed = perform(self.observed, actions)
            self.proved |= {a.ref for a in actions if isinstance(a, ProveHealth)}
        left = self.actions()
        assert not left, f"never settles: {left}"
        self.settled = True
        return self

    def settle(self) -> Loop:
        """Ticks until time alone moves nothing; ``done`` is all that was performed."""
        self.tick()
        for _ in range(6):
            before = self.intent
            if self.tick().intent == before:
                return self
        raise AssertionError(f"never settles: {self.intent}")


# -------------------------------------------------------------------------- any intent, any HAProxy

REASONS = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\n"), max_size=40)
MAYBE_TIME = st.none() | st.integers(NOW - 600, NOW + 600)
BACKENDS = ("nova", "keystone")


@st.composite
def servers(draw: st.DrawFn, backend_name: str, name: str) -> ServerSeen:
    configured = draw(st.booleans())
    return server(
        backend_name,
        name,
        mask=draw(st.sampled_from((0, 0, FORCED_MAINT, FORCED_DRAIN))),
        op=draw(st.sampled_from((0, 1, 2, 2))),
        weight=draw(st.sampled_from((0, 1))),
        sessions=draw(st.integers(0, 2)),
        checked=draw(st.booleans()),
        agent_configured=configured,
        agent=configured and draw(st.booleans()),
        backup=draw(st.booleans()),
    )


@st.composite
def haproxies(draw: st.DrawFn) -> Observed:
    """An HAProxy in any state, with whatever left in its map and files, perhaps an old worker beside it."""
    stale = st.just(()) | st.just((("nova", "what stood here before"),))
    seen = haproxy(
        *(
            backend(
                b, *(draw(servers(b, n)) for n in NODES), sticky=draw(st.booleans()), guard=draw(st.none() | st.just(1))
            )
            for b in BACKENDS
        ),
        table=draw(st.none() | stale),
        lists={name: draw(st.just(()) | st.just(("old",))) for name in file_names.LISTS if draw(st.booleans())},
        files={name: "old" for name in (file_names.MAP, file_names.STATE, file_names.PAGE) if draw(st.booleans())},
    )
    old = Worker(pid=99, sessions={Ref("nova", "ctl1"): 1}, current_map=draw(st.none() | stale))
    return replace(seen, old_workers=draw(st.sampled_from((None, (), (old,)))))


@st.composite
def service_intents(draw: st.DrawFn, name: str) -> ServiceIntent:
    return ServiceIntent(
        mode=draw(st.sampled_from((Mode.READ_ONLY, Mode.DOWN))),
        start=draw(st.integers(NOW - 600, NOW + 600)),
        at_once=draw(st.booleans()),
        until=draw(MAYBE_TIME),
        reason=draw(REASONS),
        by=draw(st.sampled_from(("root", "ops"))),
        since=NOW - 5,
        keys=draw(st.sampled_from(((name,), (f"public/{name}",), (f"public@10.0.0.5/{name}", f"internal/{name}")))),
        deadline=draw(MAYBE_TIME),
    )


@st.composite
def drains(draw: st.DrawFn, refs: Iterable[Ref]) -> Drain:
    return Drain(
        phase=draw(st.sampled_from(Phase)),
        admin=draw(st.sampled_from((Admin.DRAIN, Admin.MAINT))),
        end_in_maint=draw(st.booleans()),
        kill=draw(st.booleans()),
        deadline=draw(MAYBE_TIME),
        reason=draw(REASONS),
        by="root",
        since=NOW - 5,
        servers=tuple(
            Held(
                backend=ref.backend,
                server=ref.server,
                foreign=draw(st.sampled_from((None, None, Admin.DRAIN, Admin.MAINT))),
                agent_check=draw(st.booleans()),
            )
            for ref in refs
        ),
    )


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    """Any intent about nova and keystone on three nodes; its revision is that of a store in use."""
    intent = Intent(revision=draw(st.integers(1, 10**6)))
    for name in draw(st.sets(st.sampled_from(BACKENDS))):
        intent = intent.with_service(name, draw(service_intents(name)))
    for node, name in draw(st.sets(st.tuples(st.sampled_from(NODES), st.sampled_from(BACKENDS)), max_size=4)):
        intent = intent.with_drain(node, name, draw(drains([Ref(name, node)])))
    return intent
