"""Which connections stay open when there are too many, and which have taken too long. Pure: the clock comes in.

The rule (DESIGN §6): nobody is ever refused a new connection, because whoever refuses can be made to refuse an
operator. A client that has too many loses one that he has already: the one that is idle for the longest time, else one
whose request is not complete, else one that is being answered. An admin only ever loses idle ones.

There are two bounds. A client (a user, or an address where there is no user) keeps ``PER_CLIENT``; what it has beyond
is closed at a steady pace, as whoever opens a connection again the moment that it is closed would otherwise be served
as fast as it can. All clients that may do nothing here have at most ``OTHERS`` together, as one person may be many
users by a user namespace; one more, and the client that has most loses one at once. What admins and viewers have does
not count for that, so there is always room for them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import NamedTuple

PER_CLIENT = 64  # connections
EXCESS = 200.0  # connections a second that are closed of clients that have more
OTHERS = 2000  # connections of all clients together that may do nothing here
RECEIVING = 30.0  # seconds for a request, headers and body
IDLE = 60.0  # seconds without a request


class Rank(IntEnum):
    """What a client may do."""

    OTHER = 0
    VIEWER = 1
    ADMIN = 2


class Client(NamedTuple):
    """Who is at the other end: a user by his number, or an address."""

    key: Hashable
    rank: Rank


class State(IntEnum):
    """What a connection is doing; of two, the one with the lower state is closed first."""

    IDLE = 0  # no byte of a request has come
    INCOMPLETE = 1  # a request has begun and is not whole
    ANSWERING = 2


class Connection:
    """One connection; ``close`` ends it at once."""

    __slots__ = ("client", "close", "more", "since", "state")

    def __init__(self, client: Client, close: Callable[[], object], now: float) -> None:
        self.client, self.close = client, close
        self.state, self.since = State.IDLE, now  # since when it is in its state
        self.more = False  # a byte of the next request has come while this one was being answered

    def received(self, now: float) -> None:
        """Bytes have come."""
        if self.state is State.IDLE:
            self.state, self.since = State.INCOMPLETE, now
        self.more = self.state is State.ANSWERING

    def answering(self, now: float) -> None:
        """A request is whole."""
        self.state, self.since, self.more = State.ANSWERING, now, False

    def answered(self, now: float) -> None:
        self.state, self.since = State.INCOMPLETE if self.more else State.IDLE, now
        self.more = False

    def due(self) -> float | None:
        """When it has to be closed, by the clock that ``now`` is of; None: never while it is in this state."""
        return {State.IDLE: self.since + IDLE, State.INCOMPLETE: self.since + RECEIVING, State.ANSWERING: None}[
            self.state
        ]


class Connections:
    """All connections of one socket."""

    def __init__(self, per_client: int = PER_CLIENT, others: int = OTHERS) -> None:
        self._per_client, self._others = per_client, others
        self._of: dict[Client, set[Connection]] = {}
        self._count_others = 0
        self._excessive: list[Client] = []  # have, or had, more than their share: in the order of their turns
        self.closed = 0  # how many were closed because there were too many

    def __len__(self) -> int:
        return sum(len(mine) for mine in self._of.values())

    def add(self, connection: Connection) -> None:
        """Count one more, and close another where those that may do nothing have too many together."""
        client = connection.client
        if client.rank is Rank.OTHER and self._count_others >= self._others:
            self.close_one()
        self._of.setdefault(client, set()).add(connection)
        self._count_others += client.rank is Rank.OTHER
        if len(self._of[client]) == self._per_client + 1:
            self._excessive.append(client)

    def remove(self, connection: Connection) -> None:
        """It has ended. Repeating that is harmless."""
        client = connection.client
        mine = self._of.get(client, set())
        if connection in mine:
            mine.discard(connection)
            self._count_others -= client.rank is Rank.OTHER
            if not mine:
                del self._of[client]

    def close_one(self) -> None:
        """Make room at the cost of the client that may do nothing here and has most."""
        others = [client for client in self._of if client.rank is Rank.OTHER]
        if others:
            self._close_one_of(max(others, key=lambda client: len(self._of[client])))

    def close_excess(self, count: int) -> None:
        """Close at most ``count`` connections of the clients that have more than their share."""
        for _ in range(count):
            if not self._excessive:
                return
            client = self._excessive.pop(0)
            if len(self._of.get(client, ())) > self._per_client and self._close_one_of(client):
                self._excessive.append(client)

    def close_overdue(self, now: float) -> None:
        """Close those that have been idle, or at one request, for too long."""
        every = [connection for mine in self._of.values() for connection in mine]
        for connection in every:
            if (due := connection.due()) is not None and due <= now:
                self.remove(connection)
                connection.close()

    def _close_one_of(self, client: Client) -> bool:
        """False where an admin has none that is idle."""
        mine = self._of[client]
        closable = [c for c in mine if c.state is State.IDLE] if client.rank is Rank.ADMIN else mine
        if not closable:
            return False
        victim = min(closable, key=lambda c: (c.state, c.since))
        self.remove(victim)
        self.closed += 1
        victim.close()
        return True
