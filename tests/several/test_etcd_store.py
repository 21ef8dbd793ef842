"""The store in etcd by itself, against a real etcd: what is kept, who wins, what a failing member costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest

from lbagent.cluster.members import Member
from lbagent.errors import Conflict, StoreError
from lbagent.model.intent import Intent, Mode, ServiceIntent, Stamp
from lbagent.store.codec import Damaged, encode
from tests.lab.etcd_store import CLOSED, read, wakes_with_a_swap
from tests.lab.ports import free_port
from tests.lab.wait import within


async def test_what_was_never_stored_is_none_and_not_an_empty_intent(etcd, make_store):
    assert await read(make_store(etcd.port)) is None


async def test_what_is_stored_is_read_back_by_all_one_revision_on(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    assert await read(one) is None
    stored = await one.swap(0, CLOSED)
    assert stored.revision == 1
    assert (stored.services, stored.drains) == (CLOSED.services, CLOSED.drains)
    assert await read(one) == await read(other) == stored


async def test_what_somebody_else_changed_meanwhile_is_a_conflict_and_stays(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    await read(one), await read(other)
    stored = await one.swap(0, CLOSED)
    for _ in range(2):
        with pytest.raises(Conflict, match="has changed since revision 0"):
            await other.swap(0, Intent())
    assert await read(other) == stored
    assert (await other.swap(1, Intent())).revision == 2


async def test_of_many_who_swap_at_once_one_wins(etcd, make_store):
    stores = [make_store(etcd.port, node=f"ctl{i}") for i in range(5)]
    for store in stores:
        await read(store)
    outcomes = await asyncio.gather(*(store.swap(0, CLOSED) for store in stores), return_exceptions=True)
    assert sorted(type(o).__name__ for o in outcomes) == ["Conflict"] * 4 + ["Intent"]


async def test_a_drain_is_stored_only_while_no_haproxy_finds_other_servers_sick(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    await other.report(Member(node="ctl2"), ())
    await read(one)
    await other.report(Member(node="ctl2"), ())
    stored = await one.swap(0, CLOSED, healthy=True)  # the same again is no change
    await read(one)
    await other.report(Member(node="ctl2"), ("nova/ctl3",))
    with pytest.raises(Conflict):
        await one.swap(1, CLOSED, healthy=True)
    assert await read(one) == stored


async def test_watch_wakes_with_each_new_revision(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    await wakes_with_a_swap(one, other)


async def test_a_sign_of_life_ends_with_the_agent_and_its_report_stays(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    await one.report(Member(node="ctl1", followed=Stamp(7, "x")), ("nova/ctl3",))
    await one.look()
    await one.renew()
    view = await other.look()
    assert view.alive == {"ctl1"}
    assert view.members["ctl1"].revision == 7
    assert view.sick == {"ctl1": ("nova/ctl3",)}
    one.close()
    deadline = time.monotonic() + 10
    while (view := await other.look()).alive:
        assert time.monotonic() < deadline
    assert set(view.members) == {"ctl1"}
    await other.forget("ctl1")
    view = await other.look()
    assert (view.members, view.sick) == ({}, {})


@pytest.mark.parametrize(
    "content", ["", "{}", "\x00\x01", "[" * 5000, encode(CLOSED)[:-40], encode(CLOSED).replace("down", "up")]
)
async def test_damaged_content_is_said_to_be_and_left_alone(etcd, make_store, content):
    store = make_store(etcd.port)
    etcd.ctl("put", "/lbagent/intent", *([] if content else [""]), text=content)
    with pytest.raises(Damaged, match=r"/lbagent/intent in etcd is damaged .* nothing is opened .* once it is deleted"):
        await store.look()
    assert etcd.ctl("get", "/lbagent/intent", "--print-value-only").rstrip("\n") == content.rstrip("\n")


async def test_another_agents_report_that_cannot_be_read_stops_nobody(etcd, make_store, caplog):
    store = make_store(etcd.port)
    await read(store)
    await store.swap(0, CLOSED)
    for key in ("agents/ctl2", "sick/ctl2", "what/else", "agents/ctl3"):
        etcd.ctl("put", f"/lbagent/{key}", "{nonsense")
    for _ in range(3):
        assert (await store.look()).intent.services == CLOSED.services
    assert caplog.text.count("agents/ctl2 in etcd cannot be read") == 1


async def test_what_lies_beside_the_prefix_is_not_looked_at(etcd, make_store):
    etcd.ctl("put", "/lbagent0", "x")
    etcd.ctl("put", "/lbagent-of-another/intent", "x")
    etcd.ctl("put", "/other/intent", "x")
    assert await read(make_store(etcd.port)) is None
    assert await read(make_store(etcd.port, prefix="/region/one")) is None


async def test_two_agents_of_one_name_are_noticed_and_a_restart_is_not(etcd, make_store):
    first = make_store(etcd.port)
    await first.look()
    await first.renew()
    first.close()
    second = make_store(etcd.port)
    await second.look()
    await second.renew()
    await second.look()
    assert not second.rival
    third = make_store(etcd.port)
    deadline = time.monotonic() + 15
    while not second.rival and not third.rival:
        assert time.monotonic() < deadline
        for store in (second, third):
            await store.look()
            await store.renew()
        await asyncio.sleep(0.1)


async def test_an_endpoint_that_is_dead_is_passed_over(etcd, make_store):
    store = make_store(free_port(), etcd.port)
    with within(1):
        assert await read(store) is None
        await store.swap(0, CLOSED)
    with within(0.5):
        assert (await read(store)).revision == 1


async def test_an_endpoint_that_hangs_is_passed_over_and_then_left_alone(etcd, make_store):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        store = make_store(hanging.getsockname()[1], etcd.port)
        with within(2.5):
            assert await read(store) is None
        with within(0.5):
            await store.swap(0, CLOSED)
            await store.report(Member(node="ctl1"), ())
            assert (await read(store)).revision == 1


async def test_an_endpoint_that_begins_to_hang_keeps_a_command_waiting_for_a_bounded_time(etcd, proxy, make_store):
    store = make_store(proxy.port, etcd.port)
    assert await read(store) is None
    proxy.hang = True
    with within(3.5):
        await store.swap(0, CLOSED)
    with within(0.5):
        assert (await read(store)).revision == 1
    proxy.hang = False


async def test_nobody_there_is_said_within_the_time_that_lbctl_waits(make_store):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        hangs, dead = hanging.getsockname()[1], free_port()
        store = make_store(hangs, dead)
        for _ in range(3):
            with within(4), pytest.raises(StoreError) as failed:
                await store.look()
            assert "etcd cannot be used" in failed.value.message
            assert f"http://127.0.0.1:{hangs}: it does not answer in time" in failed.value.message
            assert f"http://127.0.0.1:{dead}: connection refused" in failed.value.message


async def test_one_that_is_back_is_found_at_once(etcd, make_store):
    etcd.kill()
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        store = make_store(hanging.getsockname()[1], etcd.port)
        for _ in range(2):
            with pytest.raises(StoreError):
                await store.look()
        etcd.start()
        with within(0.5):
            await store.look()


@pytest.mark.parametrize("second", [True, False])
async def test_a_swap_whose_answer_is_lost_is_known_for_its_own(etcd, proxy, make_store, second):
    store = make_store(proxy.port, *([etcd.port] if second else []))
    assert await read(store) is None
    proxy.drop = lambda data: b"/kv/txn" in data and not proxy.dropped
    stored = await store.swap(0, CLOSED)
    assert proxy.dropped == 1
    assert await read(store) == stored
    assert json.loads(etcd.ctl("get", "/lbagent/intent", "-w", "json").splitlines()[0])["kvs"][0]["version"] == 1
    assert (await store.swap(1, CLOSED)).revision == 2


async def test_it_is_known_when_another_has_built_on_it_since(etcd, proxy, make_store):
    store, other = make_store(proxy.port, etcd.port), make_store(etcd.port, node="ctl2")
    assert await read(store) is None
    loop, built = asyncio.get_running_loop(), threading.Event()

    async def build() -> None:
        deadline = time.monotonic() + 2
        while (stored := await read(other)) is None:
            assert time.monotonic() < deadline
        await other.swap(1, stored.with_service("glance", ServiceIntent(mode=Mode.DOWN, start=5)))
        built.set()

    def drop(data: bytes) -> bool:
        if b"/kv/txn" in data and not proxy.dropped:
            asyncio.run_coroutine_threadsafe(build(), loop)
            return True
        return False

    proxy.drop = drop
    proxy.before_cut = built.wait
    stored = await store.swap(0, CLOSED)
    assert stored.revision == 1
    now = await read(store)
    assert (now.revision, set(now.services)) == (2, {"nova", "glance"})


async def test_slow_answers_are_waited_for(proxy, make_store):
    store = make_store(proxy.port)
    await store.look()
    proxy.delay = 1.3
    for _ in range(2):
        with contextlib.suppress(StoreError):
            await store.look()
    assert await read(store) is None
    assert (await store.swap(0, CLOSED)).revision == 1
