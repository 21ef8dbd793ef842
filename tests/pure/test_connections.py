"""Which connections stay open when there are too many: nobody is refused, and an admin loses idle ones only."""

from __future__ import annotations

import random

import pytest

from lbagent.control.connections import (
    IDLE,
    OTHERS,
    PER_CLIENT,
    RECEIVING,
    Client,
    Connection,
    Connections,
    Rank,
    State,
)
from lbagent.control.pace import Turns

NOBODY, ROOT = Client(65534, Rank.OTHER), Client(0, Rank.ADMIN)


class Held(Connections):
    """Remembers which were closed."""

    def __init__(self, *bounds: int) -> None:
        super().__init__(*bounds)
        self.ended: list[Connection] = []

    def open(self, client: Client, state: State = State.IDLE, since: float = 0.0) -> Connection:
        connection = Connection(client, lambda: self.ended.append(connection), since)
        connection.state = state
        self.add(connection)
        return connection


def test_over_its_limit_a_client_loses_its_oldest_idle_connections():
    held = Held()
    mine = [held.open(NOBODY, since=float(n)) for n in range(PER_CLIENT)]
    others = held.open(Client(1000, Rank.OTHER), since=-5.0)
    held.close_excess(10)
    assert held.ended == []
    new = held.open(NOBODY, since=99.0)
    held.close_excess(10)
    assert held.ended == [mine[0]]
    for n in range(30):
        held.open(NOBODY, since=100.0 + n)
    held.close_excess(20)
    assert held.ended == mine[:21]
    held.close_excess(20)
    assert held.ended == mine[:31]
    assert others not in held.ended and new not in held.ended
    assert len(held) == PER_CLIENT + 1


def test_those_who_have_too_many_lose_them_in_turns():
    held = Held(2)
    for uid in (1, 2):
        for _ in range(10):
            held.open(Client(uid, Rank.OTHER))
    held.close_excess(6)
    assert sorted(c.client.key for c in held.ended) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("rank", [Rank.OTHER, Rank.VIEWER])
def test_with_none_idle_an_incomplete_request_goes_and_an_answer_last(rank):
    held = Held(3)
    client = Client(7, rank)
    answered, half = (held.open(client, state, 1.0) for state in (State.ANSWERING, State.INCOMPLETE))
    for moment in (2.0, 3.0, 4.0):
        held.open(client, State.ANSWERING, moment)
    held.close_excess(10)
    assert held.ended == [half, answered]


def test_an_admin_never_loses_what_is_being_answered():
    held = Held(3)
    for _ in range(10):
        held.open(ROOT, State.ANSWERING)
    idle = held.open(ROOT, State.IDLE)
    held.close_excess(10)
    assert held.ended == [idle]


def test_many_users_together_leave_room_for_admins_and_viewers():
    """As with a user namespace: one person, as many users as he likes."""
    held = Held()
    admin, viewer = held.open(ROOT), held.open(Client(8, Rank.VIEWER))
    for number in range(5 * OTHERS):
        held.open(Client(100_000 + number, Rank.OTHER), since=float(number))
    assert len(held) == OTHERS + 2
    assert len(held.ended) == 4 * OTHERS
    assert admin not in held.ended and viewer not in held.ended


def test_of_all_others_the_one_with_most_loses():
    held = Held(64, 10)
    few = held.open(Client(1, Rank.OTHER))
    for _ in range(30):
        held.open(Client(2, Rank.OTHER))
    assert few not in held.ended


def test_time_is_bounded_for_what_is_idle_and_for_a_request_and_not_for_an_answer():
    held = Held()
    idle, half, answered = held.open(ROOT), held.open(ROOT), held.open(ROOT)
    half.received(5.0)
    for moment in range(6, 30):
        half.received(float(moment))  # dripping does not help
    answered.received(5.0)
    answered.answering(6.0)
    held.close_overdue(5.0 + RECEIVING - 0.1)
    assert held.ended == []
    held.close_overdue(5.0 + RECEIVING)
    assert held.ended == [half]
    held.close_overdue(IDLE)
    assert held.ended == [half, idle]
    held.close_overdue(1e9)
    answered.answered(1e9)
    held.close_overdue(1e9 + IDLE - 1)
    assert len(held) == 1
    held.close_overdue(1e9 + IDLE)
    assert len(held) == 0


def test_a_request_that_begins_during_an_answer_has_to_be_whole_in_time_too():
    connection = Connection(ROOT, lambda: None, 0.0)
    connection.received(0.0)
    connection.answering(1.0)
    connection.received(2.0)
    connection.answered(3.0)
    assert connection.due() == 3.0 + RECEIVING


def test_whatever_happens_the_bounds_hold_and_the_newest_is_there():
    chance = random.Random(14)
    held = Held(4, 12)
    alive: set[Connection] = set()
    for step in range(5000):
        client = Client(chance.randrange(12), Rank.OTHER) if chance.random() < 0.9 else ROOT
        new = held.open(client, chance.choice(list(State)), float(step))
        alive = (alive | {new}) - set(held.ended)
        assert new in alive
        assert sum(c.client.rank is Rank.OTHER for c in alive) <= 12
        if chance.random() < 0.3:
            held.close_excess(20)
            alive -= set(held.ended)
            others = [c.client for c in alive if c.client.rank is Rank.OTHER]
            assert all(others.count(client) <= 4 for client in others)
        if chance.random() < 0.4 and alive:
            gone = chance.choice(sorted(alive, key=id))
            held.remove(gone)
            held.remove(gone)
            alive.discard(gone)
        assert len(held) == len(alive)


def numbered(turns: Turns, client: str, count: int) -> list[str]:
    """Adds ``count``; what goes on is found in the list."""
    gone_on: list[str] = []
    for number in range(count):
        turns.add(client, lambda number=number: gone_on.append(f"{client}{number}"))
    return gone_on


def test_so_many_go_on_at_once_and_then_so_many_a_second():
    turns = Turns(rate=10, burst=5)
    numbered(turns, "a", 100)
    assert len(turns.due(100.0)) == 5
    assert len(turns.due(100.0)) == 0
    assert len(turns.due(100.35)) == 3
    assert len(turns.due(200.0)) == 5
    assert turns
    assert not Turns(1, 1)


def test_a_client_that_comes_often_delays_itself_and_not_the_others():
    turns = Turns(rate=10, burst=2)
    numbered(turns, "flood", 1000)
    scraper = numbered(turns, "scraper", 1)
    for go_on in turns.due(0.0):
        go_on()
    assert scraper == ["scraper0"]


def test_of_one_client_the_newest_goes_first():
    turns = Turns(rate=10, burst=2)
    flood = numbered(turns, "flood", 1000)
    for go_on in turns.due(0.0):
        go_on()
    assert flood == ["flood999", "flood998"]


def test_who_no_longer_waits_is_forgotten():
    turns = Turns(rate=10, burst=2)
    calls = [lambda: 1, lambda: 2]
    for call in calls:
        turns.add("a", call)
    for call in calls * 2:
        turns.remove("a", call)
    assert not turns
