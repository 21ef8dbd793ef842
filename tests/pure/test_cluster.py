"""The shared intent without etcd or HAProxy: what each HAProxy makes of it, and that nothing but a command opens."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from lbagent.cluster import overrides, returning
from lbagent.cluster.confirm import pending
from lbagent.cluster.follow import follow
from lbagent.cluster.members import Elsewhere, Member, View
from lbagent.cluster.returning import step, together
from lbagent.cluster.revisions import TRAIL
from lbagent.cluster.share import from_own, joined, mend, share, stricter, without
from lbagent.errors import LbagentError
from lbagent.guard import guard_map, intent_copy
from lbagent.model.intent import Drain, Held, Intent, Mode, Opening, Override, Phase, ServiceIntent, Stamp
from lbagent.model.servers import Admin, Ref
from lbagent.model.subject import Subject
from lbagent.rules.change import Decision
from lbagent.rules.change import parse as parse_change
from lbagent.rules.decide import decide
from lbagent.rules.request import Site
from lbagent.settings.load import parse
from lbagent.topology.resolve import topology
from tests.lab.model_haproxy import NOW, examples, haproxy, with_server

CONFIG = parse("services: {nova: {}, keystone: {}}\nstore: {etcd: {endpoints: [http://127.0.0.1:1]}}")
SEEN = haproxy()
TOPOLOGY = topology(CONFIG, SEEN.backends)
DOWN = ServiceIntent(mode=Mode.DOWN, start=NOW, keys=("nova",))
H, RG, RD = Phase.HELD, Phase.RETURNING, Phase.RELEASED


def stored(shared: Intent, name: str = "") -> Intent:
    """As the store would keep it: the next revision, with a stamp."""
    number = shared.revision + 1
    stamps = (*shared.trail, Stamp(number, f"{name}{number}"))[-TRAIL:]
    return replace(shared, revision=number, trail=stamps)


def named_as(texts: tuple[str, ...]) -> list[Subject]:
    return [Subject.parse(text) for text in texts]


def drain(phase: Phase = H, **facts: object) -> Drain:
    return replace(Drain(phase=phase, servers=(Held(backend="nova", server="ctl1"),)), **facts)


def shared_with(
    services: dict[str, ServiceIntent] | None = None,
    drains: dict[str, Drain] | None = None,
    named: tuple[str, ...] = (),
) -> Intent:
    intent = Intent(services=services or {}, drains={"ctl1": drains} if drains else {})
    return stored(share(intent, Intent(), named_as(named) or overrides.subjects(intent), "ctl1", NOW))


def followed(shared: Intent, mine: Intent | None = None, seen=SEEN, now: float = NOW) -> Intent:
    return follow(mine or Intent(), shared, TOPOLOGY, seen, now)


# ------------------------------------------------------------------------------------------ following


def test_following_twice_changes_nothing():
    shared = shared_with({"nova": DOWN}, {"nova": drain()})
    mine = followed(shared)
    assert mine.followed == shared.followed
    assert followed(shared, mine) is mine


def test_a_service_gets_the_keys_of_this_haproxy_too():
    shared = shared_with({"nova": replace(DOWN, keys=("elsewhere_back",))})
    assert followed(shared).services["nova"].keys == ("elsewhere_back", "nova")


def test_what_only_one_haproxy_knows_is_not_shared_and_is_found_anew():
    here = drain(servers=(Held(backend="nova", server="ctl1", foreign=Admin.MAINT, agent_check=True),))
    shared = shared_with(drains={"nova": here})
    assert shared.drains["ctl1"]["nova"].servers == (Held(backend="nova", server="ctl1"),)
    elsewhere = with_server(SEEN, Ref("nova", "ctl1"), mask=8)
    assert followed(shared, seen=elsewhere).drains["ctl1"]["nova"].servers[0].foreign is Admin.DRAIN


def test_the_servers_that_only_this_haproxy_has_are_drained_too():
    shared = shared_with(drains={"nova": drain(servers=())})
    assert [h.ref for h in followed(shared).drains["ctl1"]["nova"].servers] == [Ref("nova", "ctl1")]


def test_what_holds_the_servers_of_a_lost_guard_stays_with_its_haproxy():
    mine = Intent(guardless={"nova": drain()})
    assert followed(shared_with(), mine).guardless == mine.guardless
    assert share(mine, Intent(), (), "ctl1", NOW) == Intent(members=("ctl1",))


def test_a_deadline_is_kept_by_this_clock():
    """The asker's clock is two minutes ahead: the cut comes not before its five minutes are over."""
    shared = shared_with(
        drains={"nova": drain(kill=True, deadline=NOW + 120 + 300, asked=NOW + 120.0)}, named=("nova",)
    )
    assert followed(shared).drains["ctl1"]["nova"].deadline == NOW + 300


@pytest.mark.parametrize(
    ("wanted", "before", "then"),
    [
        (H, None, H),
        (H, H, H),
        (H, RG, H),
        (H, RD, H),
        (RG, None, None),
        (RG, H, RG),
        (RG, RG, RG),
        (RG, RD, RD),
        (RD, None, None),
        (RD, H, RG),  # one that was away proves health for itself
        (RD, RG, RG),
        (RD, RD, RD),
        (None, None, None),
        (None, H, RG),
        (None, RG, RG),
        (None, RD, RD),
    ],
)
def test_the_phase_that_follows(wanted, before, then):
    shared = shared_with(drains={"nova": drain(wanted)} if wanted else {}, named=("ctl1/nova",))
    mine = Intent(drains={"ctl1": {"nova": drain(before)}} if before else {}, trail=(Stamp(0, "0"),))
    after = followed(shared, mine).drains.get("ctl1", {}).get("nova")
    assert (after.phase if after else None) is then


def test_by_force_it_comes_back_without_proof():
    shared = shared_with(drains={"nova": drain(RD, forced=True)})
    mine = Intent(drains={"ctl1": {"nova": drain()}})
    assert followed(shared, mine).drains["ctl1"]["nova"].phase is RD


def test_a_drain_that_was_not_asked_for_again_keeps_what_became_of_it():
    shared = shared_with(drains={"nova": drain(end_in_maint=True)})
    mine = followed(shared)
    done = mine.with_drain("ctl1", "nova", replace(mine.drains["ctl1"]["nova"], admin=Admin.MAINT, end_in_maint=False))
    later = stored(share(shared.with_service("keystone", DOWN), shared, named_as(("keystone",)), "ctl2", NOW))
    assert followed(later, done).drains["ctl1"]["nova"].admin is Admin.MAINT


# ------------------------------------------------------------------------------------------ exceptions


def test_an_exception_lasts_until_a_command_names_its_subject():
    shared = shared_with({"nova": DOWN})
    mine = replace(
        followed(shared).with_service("nova", None), exceptions={"nova": Override(revision=1, compared=True)}
    )
    assert "nova" not in followed(shared, mine).services
    other = stored(share(shared.with_service("keystone", DOWN), shared, named_as(("keystone",)), "ctl1", NOW))
    assert "nova" not in followed(other, mine).services
    again = stored(share(shared, shared, named_as(("nova",)), "ctl1", NOW))
    assert followed(again, mine).services["nova"].mode is Mode.DOWN
    assert followed(again, mine).exceptions == {}


def test_a_restriction_made_alone_outlives_commands_that_were_given_elsewhere_meanwhile():
    first = shared_with({"nova": DOWN})
    opened = stored(share(first.with_service("nova", None), first, named_as(("nova",)), "ctl1", NOW))
    mine = replace(followed(first), exceptions={"nova": Override(revision=first.revision)})
    kept = followed(opened, mine)
    assert kept.services["nova"].mode is Mode.DOWN
    again = stored(share(opened, opened, named_as(("nova",)), "ctl1", NOW))
    assert "nova" not in followed(again, kept).services


def test_an_exception_that_everyone_shares_by_now_is_none():
    shared = shared_with({"nova": DOWN})
    mine = replace(Intent(services={"nova": DOWN}, trail=shared.trail), exceptions={"nova": Override(revision=9)})
    assert followed(shared, mine).exceptions == {}


@pytest.mark.parametrize("node", ["", "ctl1/"])
def test_what_was_restricted_alone_lasts_though_the_last_known_intent_says_the_same(node):
    """Elsewhere it may have been opened since, by a command that is older."""
    shared = shared_with({"nova": DOWN}, {"nova": drain()})
    subject = f"{node}nova"
    mine = replace(followed(shared), exceptions={subject: Override(revision=shared.revision, store_was_away=True)})
    mine = follow(mine, shared, TOPOLOGY, SEEN, NOW, live=False)
    opened = shared.with_service("nova", None).with_drain("ctl1", "nova", None)
    kept = followed(stored(share(opened, shared, [Subject.parse(subject)], "ctl2", NOW)), mine)
    assert (kept.drains["ctl1"]["nova"].phase is H) if node else (kept.services["nova"].mode is Mode.DOWN)
    assert kept.exceptions[subject].compared
    taken_up = stored(share(shared, shared, (subject,), "ctl2", NOW))
    assert followed(taken_up, mine).exceptions == {}


def test_an_exception_and_the_trail_survive_in_haproxys_map():
    mine = Intent(
        revision=4,
        services={"nova": DOWN},
        drains={"ctl1": {"nova": drain()}},
        trail=(Stamp(2, "ab"), Stamp(3, "cd")),
        members=("ctl1", "ctl2"),
        exceptions={
            "keystone": Override(revision=3, service=DOWN),
            "ctl2/nova": Override(revision=3, drain=drain()),
        },
    )
    assert intent_copy.intent_from(guard_map.entries(CONFIG, mine)) == mine


# -------------------------------------------------------------------------------------------- mending


def test_a_lost_intent_is_put_back_as_it_was():
    shared = shared_with({"nova": DOWN}, {"nova": drain()})
    back, why = mend(None, followed(shared), NOW)
    assert "lost" in why
    assert (back.revision, back.trail) == (shared.revision, shared.trail)
    assert (back.services, back.drains) == (shared.services, shared.drains)


def test_an_older_one_is_replaced_by_what_came_of_it():
    old = shared_with({"nova": DOWN})
    new = stored(
        share(old.with_service("nova", None).with_service("keystone", DOWN), old, ("nova", "keystone"), "c", NOW)
    )
    back, why = mend(old, followed(new), NOW)
    assert "went back" in why
    assert set(back.services) == {"keystone"}


def test_of_two_histories_the_stricter_wins():
    ours = stored(shared_with({"nova": DOWN, "keystone": replace(DOWN, mode=Mode.READ_ONLY)}), "ours")
    theirs = stored(stored(shared_with({"keystone": DOWN}, {"nova": drain()}), "theirs"), "theirs")
    merged, why = mend(theirs, followed(ours), NOW)
    assert "another history" in why
    assert {n: s.mode for n, s in merged.services.items()} == {"nova": Mode.DOWN, "keystone": Mode.DOWN}
    assert merged.drains["ctl1"]["nova"].phase is H
    assert mend(stored(merged), followed(ours), NOW) is None


def test_an_exception_is_not_put_back_for_all():
    shared = shared_with({"nova": DOWN})
    mine = replace(
        followed(shared).with_service("nova", None).with_service("keystone", DOWN),
        exceptions={"nova": Override(revision=1, service=DOWN), "keystone": Override(revision=1)},
    )
    back, _ = mend(None, mine, NOW)
    assert set(back.services) == {"nova"}


def test_an_haproxy_that_was_alone_brings_its_restrictions():
    merged, _ = mend(shared_with({"keystone": DOWN}), Intent(services={"nova": DOWN}), NOW)
    assert set(merged.services) == {"nova", "keystone"}
    assert mend(shared_with({"nova": DOWN}), Intent(), NOW) is None


# ------------------------------------------------------------------------------------------- together


def members(**each: dict[str, object]) -> View:
    usual = {"followed": Stamp(1, "1"), "in_sync": True, "up": True}
    made = {n: Member(**({"node": n} | usual | facts)) for n, facts in each.items()}
    return View(intent=shared_with(), members=made, alive=frozenset(made))


def test_a_node_comes_back_when_every_haproxy_finds_it_well():
    shared = shared_with(drains={"nova": drain(RG, deadline=NOW + 60)})
    well = {"well": ("ctl1",)}
    assert step(shared, members(ctl1=well, ctl2={}), NOW) == shared
    assert step(shared, members(ctl1=well, ctl2=well), NOW).drains["ctl1"]["nova"].phase is RD
    assert step(shared, members(ctl1=well, ctl2=well | {"followed": Stamp(0, "0")}), NOW) == shared
    assert step(shared, members(ctl1=well, ctl2=well | {"followed": Stamp(1, "another")}), NOW) == shared
    assert step(shared, members(ctl1=well, ctl2={}), NOW + 60).drains["ctl1"]["nova"].phase is H
    down = members(ctl1=well, ctl2={"up": False})
    assert step(shared, down, NOW).drains["ctl1"]["nova"].phase is RD
    assert (
        step(shared, replace(members(ctl1=well, ctl2={}), alive=frozenset({"ctl1"})), NOW).drains["ctl1"]["nova"].phase
        is RD
    )


def test_a_drain_is_forgotten_once_nobody_holds_it():
    shared = shared_with(drains={"nova": drain(RD)})
    assert step(shared, members(ctl1={}, ctl2={"holding": ("ctl1/nova",)}), NOW) == shared
    assert step(shared, members(ctl1={}, ctl2={}), NOW).drains == {}


def test_one_agent_moves_it_on():
    shared = shared_with(drains={"nova": drain(RG, asked_at="ctl2")})
    shared = shared.with_drain("ctl1", "nova", replace(shared.drains["ctl1"]["nova"], asked_at="ctl2"))
    view = members(ctl1={}, ctl2={}, ctl3={})
    assert [n for n in view.members if returning.steps_here(shared, view, n)] == ["ctl2"]
    view = replace(view, alive=frozenset({"ctl1", "ctl3"}))
    assert [n for n in ("ctl1", "ctl3") if returning.steps_here(shared, view, n)] == ["ctl1"]


def test_nobody_lets_a_node_in_alone():
    shared = shared_with(drains={"nova": drain(RG)})
    assert together(Intent(), shared) == {Subject("ctl1", "nova")}
    assert together(Intent(exceptions={"ctl1/nova": Override(revision=5)}), shared) == frozenset()


def waits(view: View, named: list[str], asked: Stamp | None = None) -> tuple[list[str], list[str]]:
    mine = Intent(trail=view.intent.trail if view.intent else ())
    return pending(view, "ctl1", mine, asked or Stamp(1, "1"), map(Subject.parse, named))


def test_who_is_waited_for_and_who_is_away():
    view = members(
        ctl1={},
        ctl2={"open": {"nova": ("nova: 2 requests",)}},
        ctl3={"followed": None, "trouble": "disk full"},
        ctl4={"up": False},
        ctl5={},
    )
    view = replace(view, alive=view.alive - {"ctl5"})
    waiting, away = waits(view, ["nova"])
    assert waiting == ["ctl2: nova: 2 requests", "ctl3: revision 1 is not in force there yet: disk full"]
    assert [line.split(":")[0].split()[0] for line in away] == ["ctl4", "ctl5"]
    assert "lbctl forget ctl5" in away[1]
    assert waits(view, ["keystone"])[0] == waiting[1:]
    assert "etcd is gone" in waits(replace(view, trouble="etcd is gone"), ["nova"])[0][0]


def test_a_report_of_another_history_confirms_nothing():
    """Its revision is the higher one, and none of ours."""
    view = members(ctl1={}, ctl2={"followed": Stamp(9, "lost")})
    assert waits(view, ["nova"])[0] == ["ctl2: revision 1 is not in force there yet"]
    assert waits(replace(view, intent=None), ["nova"])[0]


def test_what_a_backup_holds_confirms_nothing_until_it_is_mended():
    """Its reports agree with its intent, and both are from before the command."""
    old = members(ctl1={}, ctl2={})
    new = stored(share(old.intent.with_service("nova", DOWN), old.intent, ["nova"], "ctl1", NOW))
    assert "put back" in pending(old, "ctl1", followed(new), new.followed, named_as(("nova",)))[0][0]


def test_a_command_waits_until_its_own_haproxy_follows_what_the_others_confirm():
    """They may have merged it with another history, and do something else."""
    asked = shared_with()
    merged = stored(stricter(asked, Intent(services={"nova": DOWN})))
    view = replace(members(ctl1={}, ctl2={"followed": merged.followed}), intent=merged)
    assert pending(view, "ctl1", followed(asked), asked.followed, named_as(("nova",)))[0]
    assert pending(view, "ctl1", followed(merged), asked.followed, named_as(("nova",))) == ([], [])


def test_where_the_asked_revision_itself_was_lost_what_took_its_place_is_waited_for():
    after = stored(stored(shared_with({"nova": DOWN}, named=("nova",))))
    view = replace(members(ctl1={}, ctl2={"followed": after.trail[1]}), intent=after)
    assert waits(view, ["nova"], Stamp(2, "lost"))[0]
    view = replace(members(ctl1={}, ctl2={"followed": after.trail[2]}), intent=after)
    assert waits(view, ["nova"], Stamp(2, "lost")) == ([], [])


def test_a_member_whose_report_etcd_has_lost_is_away_and_not_forgotten():
    view = members(ctl1={})
    view = replace(view, intent=joined(view.intent, ["ctl2"]))
    assert [line.split(";")[0] for line in waits(view, ["nova"])[1]] == ["ctl2 is away"]
    back, _ = mend(None, followed(view.intent), NOW)
    assert "ctl2" in back.members
    assert "ctl2" not in without(view.intent, "ctl2").members


def test_what_differs_by_local_is_told():
    view = members(ctl1={}, ctl2={"exceptions": ("nova",)})
    assert waits(view, ["keystone"]) == ([], [])
    assert "ctl2: nova differs there by --local" in waits(view, ["nova"])[1][0]


def test_an_opening_made_alone_does_not_outlive_the_command_of_another_history():
    """Its revision is higher than that of the command, which it therefore seems to come after."""
    first = shared_with({"nova": DOWN})
    alone = followed(stored(stored(stored(first), "a"), "a")).with_service("nova", None)
    alone = replace(
        alone, exceptions={"nova": Override(revision=alone.followed.revision, service=DOWN, store_was_away=True)}
    )
    theirs = stored(share(stored(first, "b"), stored(first, "b"), named_as(("nova",)), "ctl1", NOW), "b")
    assert theirs.touched["nova"] < alone.followed.revision
    assert followed(theirs, alone).services["nova"].mode is Mode.DOWN


# ------------------------------------------------------------------------------------------- commands


def ask(body: dict, intent: Intent | None = None, **elsewhere: object) -> Decision:
    change = parse_change(__import__("json").dumps(body).encode())
    return decide(Site(CONFIG, TOPOLOGY, SEEN), intent or Intent(), change, NOW, "root", Elsewhere(**elsewhere))


def test_health_as_every_haproxy_sees_it_counts():
    body = {"nodes": {"ctl1": {"state": "drained"}}}
    ask(body, sick={"nova/ctl2": ("ctl3",)})
    with pytest.raises(LbagentError, match="nova/ctl2 is not ready as seen from ctl3") as refused:
        ask(body, sick={"nova/ctl2": ("ctl3",), "nova/ctl3": ("ctl2",)})
    assert refused.value.code == "last_server"


def test_one_node_at_a_time():
    intent = ask({"nodes": {"ctl1": {"state": "drained"}}}).intent
    body = {"nodes": {"ctl2": {"state": "drained"}}}
    with pytest.raises(LbagentError, match="ctl2 would be drained beside ctl1, and max_unavailable is 1") as refused:
        ask(body, intent)
    assert refused.value.code == "max_unavailable"
    ask(body | {"force": True}, intent)
    ask({"nodes": {"ctl1": {"state": "drained"}}}, intent)
    with pytest.raises(LbagentError, match="together"):
        ask({"nodes": {"ctl1": {"state": "drained"}, "ctl2": {"state": "drained"}}})


def test_a_mode_is_refused_where_one_haproxy_has_no_guard():
    with pytest.raises(LbagentError, match=r"nova \(on ctl3\)") as refused:
        ask({"services": {"nova": {"mode": "read-only"}}}, bare={"nova": ("ctl3",)})
    assert refused.value.code == "guard_missing"
    ask({"services": {"nova": {"mode": "up"}}}, bare={"nova": ("ctl3",)})


def test_ready_ends_a_drain_that_one_haproxy_was_told_local():
    body = {"nodes": {"ctl1": {"state": "ready"}}}
    assert ask(body).returns == ()
    assert ask(body, exceptions=("ctl1/nova", "ctl2/keystone", "nova")).returns == (Subject("ctl1", "nova"),)
    assert (
        ask({"nodes": {"ctl1": {"state": "ready", "services": ["keystone"]}}}, exceptions=("ctl1/nova",)).returns == ()
    )


def test_a_drain_says_whose_clients_patching_would_cut():
    notes = ask({"nodes": {"ctl1": {"state": "drained"}}}, clients={"ctl1": (12, False), "ctl2": (3, False)}).notes
    assert [n for n in notes if "12 client connections" in n and "vip_track_file" in n]
    assert not [n for n in notes if "ctl2" in n]


# ----------------------------------------------------------------------------- only a command opens

SERVICES = ("nova", "keystone")
STRICT = overrides.STRICTNESS


class Plane(RuleBasedStateMachine):
    """Three HAProxies and a store that is emptied and restored: no mode loosens but by a later command.

    A mode's reason carries the number of the command that asked for it. And a command that has waited for everybody
    is in force everywhere.
    """

    @initialize()
    def begin(self) -> None:
        self.store: Intent | None = None
        self.reports: dict[str, Member] = {}
        self.alive: set[str] = set()
        self.copies: list[tuple[Intent | None, dict[str, Member]]] = [(None, {})]
        self.commands: dict[str, tuple[int, int, Mode, Stamp, tuple[str, ...]]] = {}  # the last about each service
        self.mine = [Intent() for _ in range(3)]
        self.number = 0
        self.asked: dict[str, list[tuple[int, Mode]]] = {name: [] for name in SERVICES}

    def _put(self, shared: Intent) -> None:
        self.number += 1
        self.store = stored(shared, f"{self.number}-")

    def _moved(self, agent: int, mine: Intent) -> None:
        for name in SERVICES:
            before, after = self.mine[agent].services.get(name), mine.services.get(name)
            if before is None or (after is not None and STRICT[after.mode] >= STRICT[before.mode]):
                continue
            mode = after.mode if after else Mode.UP
            since = int(before.reason)
            assert [n for n, asked in self.asked[name] if n > since and STRICT[asked] <= STRICT[mode]], (
                f"{name} went from {before.mode} to {mode} on {agent} and nobody has asked since {since}"
            )
        self.mine[agent] = mine

    def _mended(self, agent: int) -> bool:
        found = mend(self.store, self.mine[agent], NOW)
        if found:
            self._put(joined(found[0], [f"ctl{agent}"]))
        return found is not None

    @rule(agent=st.integers(0, 2))
    def look(self, agent: int) -> None:
        if self._mended(agent) or self.store is None:
            return
        if f"ctl{agent}" not in self.store.members:
            self._put(joined(self.store, [f"ctl{agent}"]))
        mine = follow(self.mine[agent], self.store, TOPOLOGY, SEEN, NOW)
        self._moved(agent, mine)
        for name in [s for s in mine.exceptions if overrides.to_pass_on(Subject("", s), mine, self.store)]:
            after = self.store.with_service(name, mine.services[name])
            self._put(share(after, self.store, (), f"ctl{agent}", NOW))
            self.mine[agent] = overrides.passed_on(self.mine[agent], Subject("", name))

    @rule(agent=st.integers(0, 2))
    def report(self, agent: int) -> None:
        """What it has in force, which may be long gone from etcd."""
        mine = self.mine[agent]
        told = Member(node=f"ctl{agent}", followed=mine.followed, up=True, exceptions=tuple(mine.exceptions))
        self.reports[told.node] = told
        self.alive.add(told.node)

    @rule(name=st.sampled_from(SERVICES))
    def wait(self, name: str) -> None:
        """The command ends well only where the asker, and all whom it knew, do as it says."""
        if name not in self.commands or self.asked[name][-1][0] != self.commands[name][0]:
            return
        _, agent, mode, stamp, known = self.commands[name]
        modes = [m.services[name].mode if name in m.services else Mode.UP for m in self.mine]
        view = View(intent=self.store, members=self.reports, alive=frozenset(self.alive))
        if modes[agent] is mode and pending(view, f"ctl{agent}", self.mine[agent], stamp, [Subject("", name)]) == (
            [],
            [],
        ):
            assert all(modes[i] is mode for i in range(3) if f"ctl{i}" in known), (name, mode, modes)

    @rule(agent=st.integers(0, 2), name=st.sampled_from(SERVICES), mode=st.sampled_from(Mode))
    def command(self, agent: int, name: str, mode: Mode) -> None:
        self._mended(agent)
        base = self.store or Intent()
        self.mine[agent] = overrides.compare(self.mine[agent], [Subject("", name)])
        self.number += 1
        self.asked[name].append((self.number, mode))
        service = None if mode is Mode.UP else replace(DOWN, mode=mode, keys=(name,), reason=str(self.number))
        number = self.number
        self._put(share(base.with_service(name, service), base, [Subject("", name)], f"ctl{agent}", NOW))
        known = (*self.store.members, *self.mine[agent].members)
        self.commands[name] = (number, agent, mode, self.store.followed, known)
        self.look(agent)

    @rule(agent=st.integers(0, 2), name=st.sampled_from(SERVICES), mode=st.sampled_from(Mode))
    def local(self, agent: int, name: str, mode: Mode) -> None:
        self.number += 1
        self.asked[name].append((self.number, mode))
        base = from_own(self.mine[agent], NOW)
        service = None if mode is Mode.UP else replace(DOWN, mode=mode, keys=(name,), reason=str(self.number))
        followed = self.mine[agent].followed
        met = self.store is not None and followed == self.store.followed
        exception = Override(
            revision=followed.revision if followed else 0,
            service=base.services.get(name),
            compared=met,
            store_was_away=not met,
        )
        mine = self.mine[agent].with_service(name, service)
        self._moved(agent, replace(mine, exceptions=mine.exceptions | {name: exception}))

    @rule()
    def snapshot(self) -> None:
        self.copies.append((self.store, dict(self.reports)))

    @rule(which=st.integers(0, 50))
    def restore(self, which: int) -> None:
        """An older backup; a newer one than that, once it has been lived with, cannot be told from commands."""
        del self.copies[which % len(self.copies) + 1 :]
        self.store, self.reports = self.copies[-1][0], dict(self.copies[-1][1])
        self.alive.clear()

    @invariant()
    def nothing_is_open_in_the_store_that_its_newest_follower_has_closed(self) -> None:
        for mine in self.mine:
            if self.store is not None and mine.followed == self.store.followed:
                for name, service in mine.services.items():
                    there = self.store.services.get(name)
                    assert name in mine.exceptions or (there and STRICT[there.mode] >= STRICT[service.mode])


def test_a_backup_that_agrees_with_a_local_restriction_does_not_end_it():
    """The command that opened it is older than the restriction, and put back after."""
    plane = Plane()
    plane.begin()
    plane.command(1, "nova", Mode.DOWN)
    plane.look(0)
    plane.snapshot()
    plane.command(1, "nova", Mode.UP)
    plane.local(0, "nova", Mode.DOWN)
    plane.restore(1)
    for agent in (0, 1, 0, 1, 0):
        plane.look(agent)
    assert [m.services["nova"].mode for m in plane.mine[:2]] == [Mode.DOWN] * 2


Plane.TestCase.settings = examples(300)
TestOnlyACommandOpens = Plane.TestCase


def test_the_stricter_of_two_never_loosens_either():
    one, two = shared_with({"nova": DOWN}), shared_with({"nova": replace(DOWN, mode=Mode.READ_ONLY), "keystone": DOWN})
    both = stricter(one, two)
    assert {n: s.mode for n, s in both.services.items()} == {"nova": Mode.DOWN, "keystone": Mode.DOWN}


def test_an_opening_on_every_haproxy_at_once_is_about_no_node():
    """A report names nodes that are well; one with an empty name could not be read by the others."""
    opening = shared_with({"nova": replace(DOWN, opening=Opening.WAITING, opens_until=int(NOW) + 60)})
    assert together(followed(opening), opening) == {Subject("", "nova")}
    present = {"ctl1": {"followed": opening.followed, "up": True}, "ctl2": {"followed": opening.followed, "up": True}}
    well = replace(members(**present), intent=opening)
    assert step(opening, well, NOW).services == {}
    present["ctl2"]["empty"] = ("nova",)
    waits_for = replace(members(**present), intent=opening)
    assert step(opening, waits_for, NOW).services["nova"].opening is Opening.WAITING
    assert step(opening, waits_for, NOW + 61).services["nova"].opening is Opening.WITHDRAWN
