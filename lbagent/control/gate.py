"""Listening sockets that no client can take away from the others: the bounds of connections.py, put into force.

A connection costs as little as possible until it has asked for something: it is accepted, its client is looked up in
the kernel, it is counted, and what it says is kept. Only when the headers of a request are whole is it handed to
aiohttp. So crowds of idle connections and of half requests cost a file and a few bytes each, and are bounded.

Accepting goes on whatever happens, as an operator may be the next in the queue; but never longer than ``SHARE`` of the
time, so that a client that connects and hangs up as fast as it can leaves the processor to others.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from lbagent.control.connections import EXCESS, IDLE, OTHERS, Client, Connection, Connections, Rank, State
from lbagent.control.pace import Turns

log = logging.getLogger(__name__)

AT_ONCE = 0.004  # seconds of the processor for accepting, without a pause
SHARE = 0.2  # of the time, for accepting
SWEEP = 0.05  # seconds between two looks for connections that have to be closed
ROOM = 0.05  # seconds until accepting is tried again where the system has no file left
BACKLOG = 4096  # connections that wait to be accepted; the system may allow fewer (net.core.somaxconn)

TURNS = {Rank.OTHER: (100.0, 64), Rank.VIEWER: (100.0, 100)}  # requests a second and at once; admins have no bound
PACE = 0.02  # seconds between two looks at whose turn it is, while somebody waits

PIECES = 0.05  # seconds between two pieces of a request that does not come at once
HEADERS = 16 * 1024  # bytes of a request's headers; aiohttp says what is wrong with more
LARGEST = 32 * 1024  # bytes of the whole request of a client that may do nothing here

NO_FILE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """The way to one application: its listening sockets, and every connection that came through them.

    ``who`` tells from a connected socket who is there; OSError when nobody is any more. ``others`` is how many
    connections all clients together may have that may do nothing here; each of these gets one answer.
    """

    def __init__(
        self, application: web.Application, who: Callable[[socket.socket], Client], others: int = OTHERS
    ) -> None:
        application[GATE] = self
        application.middlewares.insert(0, self._around)
        self._runner = web.AppRunner(application, shutdown_timeout=1.0, keepalive_timeout=2 * IDLE, lingering_time=0.0)
        self._who = who
        self.connections = Connections(others=others)
        self._waiting: set[_Waiting] = set()
        self._talking: dict[object, _Talking] = {}  # aiohttp's protocol → ours
        self._turns = {rank: Turns(*bounds) for rank, bounds in TURNS.items()}
        self._pacer: asyncio.TimerHandle | None = None
        self._listeners: list[socket.socket] = []
        self._loop = asyncio.get_running_loop()
        self._sweeper: asyncio.TimerHandle | None = None
        self._beginning: set[asyncio.Task[None]] = set()

    async def open(self, listeners: list[socket.socket]) -> None:
        """Serve on these sockets from now on."""
        if self._runner.server is None:
            await self._runner.setup()
            self._sweep()
        for listener in listeners:
            listener.setblocking(False)
            listener.listen(BACKLOG)
            self._listeners.append(listener)
            self._loop.add_reader(listener, self._accept, listener)

    async def close(self) -> None:
        for timer in (self._sweeper, self._pacer):
            if timer is not None:
                timer.cancel()
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for waiting in list(self._waiting):
            waiting.close()
        await self._runner.cleanup()

    # ------------------------------------------------------------------------------------------- accepting

    def _accept(self, listener: socket.socket) -> None:
        began = time.thread_time()
        pause = 0.0
        while (spent := time.thread_time() - began) < AT_ONCE:
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in NO_FILE:
                    continue  # that client has gone again
                log.error("no room for a connection: %s; an idle one is closed", error.strerror)
                self.connections.close_one()
                pause = ROOM
                break
            self._take(connection)
        else:
            pause = spent * (1 / SHARE - 1)
        self._loop.remove_reader(listener)
        self._loop.call_later(pause, self._again, listener)

    def _again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _take(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            client = self._who(connection)
        except OSError:
            connection.close()
            return
        _Waiting(self, connection, client)

    def _sweep(self) -> None:
        self.connections.close_excess(round(EXCESS * SWEEP))
        self.connections.close_overdue(self._loop.time())
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    # ------------------------------------------------------------------------------------------- talking

    def begin(self, waiting: _Waiting) -> None:
        """A request has come, headers and all: hand it to aiohttp, when its turn has come."""
        self._loop.remove_reader(waiting.connection)
        self._in_turn(waiting.counted.client, waiting.begin)

    def _in_turn(self, client: Client, go_on: Callable[[], object]) -> None:
        if (turns := self._turns.get(client.rank)) is None:
            go_on()
            return
        turns.add(client, go_on)
        if self._pacer is None:
            self._next_turns()

    def _next_turns(self) -> None:
        now = self._loop.time()
        for go_on in [go_on for turns in self._turns.values() for go_on in turns.due(now)]:
            go_on()
        waits = any(self._turns.values())
        self._pacer = self._loop.call_later(PACE, self._next_turns) if waits else None

    def hand_over(self, waiting: _Waiting) -> None:
        """To aiohttp; a task, as its turn comes in the middle of others' doings."""
        if waiting in self._waiting:
            self._waiting.discard(waiting)
            task = self._loop.create_task(self._hand_over(waiting))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _hand_over(self, waiting: _Waiting) -> None:
        server = self._runner.server
        assert server is not None  # noqa: S101 it is there while listeners are open
        talking = _Talking(self, server(), waiting)
        try:
            await self._loop.connect_accepted_socket(lambda: talking, waiting.connection)
        except OSError:
            self.connections.remove(waiting.counted)
            waiting.connection.close()

    def _talk(self, request: web.Request) -> _Talking:
        talking = self._talking.get(request.protocol)
        if talking is None:
            raise ConnectionResetError("the client is gone")
        return talking

    def is_whole(self, request: web.Request) -> None:
        self._talk(request).counted.answering(self._loop.time())

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count the connection as one that is answered; a client that goes on asking waits for its turn."""
        talking = self._talk(request)
        counted = talking.counted
        if not request.body_exists:
            counted.answering(self._loop.time())
        if not talking.first:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._in_turn(counted.client, partial(_resolve, turn))
            await turn
        talking.first = False
        try:
            response = await handler(request)
            if counted.client.rank is Rank.OTHER:
                response.force_close()
            return response
        finally:
            counted.answered(self._loop.time())

    def began(self, talking: _Talking) -> None:
        self._talking[talking.handler] = talking

    def ended(self, talking: _Talking) -> None:
        self._talking.pop(talking.handler, None)
        self.connections.remove(talking.counted)

    def waits(self, waiting: _Waiting) -> None:
        self._waiting.add(waiting)
        self._loop.add_reader(waiting.connection, waiting.readable)

    def pause(self, waiting: _Waiting) -> None:
        """Headers that come in many pieces are read now and then: a byte by itself costs as much as all of them."""
        self._loop.remove_reader(waiting.connection)
        self._loop.call_later(PIECES, self._wait_on, waiting)

    def _wait_on(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            self._loop.add_reader(waiting.connection, waiting.readable)

    def no_longer_waits(self, waiting: _Waiting) -> None:
        self._waiting.discard(waiting)
        if (turns := self._turns.get(waiting.counted.client.rank)) is not None:
            turns.remove(waiting.counted.client, waiting.begin)
        self._loop.remove_reader(waiting.connection)
        self.connections.remove(waiting.counted)

    def now(self) -> float:
        return self._loop.time()


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # the client may have gone
        turn.set_result(None)


GATE = web.AppKey("gate", Gate)


async def whole(request: web.Request) -> bytes:
    """The body of a request; from here on its connection counts as one that is being answered."""
    body = await request.read()
    request.app[GATE].is_whole(request)
    return body


class _Waiting:
    """A connection whose request has not all its headers yet: a file, the bytes that have come, and no more."""

    __slots__ = ("_gate", "connection", "counted", "said")

    def __init__(self, gate: Gate, connection: socket.socket, client: Client) -> None:
        self._gate, self.connection, self.said = gate, connection, b""
        self.counted = Connection(client, self.close, gate.now())
        gate.connections.add(self.counted)
        gate.waits(self)
        self.readable()  # most clients have spoken by now

    def readable(self) -> None:
        try:
            data = self.connection.recv(HEADERS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self.said += data
        if not self.said:
            self.close()
            return
        self.counted.received(self._gate.now())
        if not data or b"\r\n\r\n" in self.said or len(self.said) >= HEADERS or not self.said[:1].isalpha():
            self._gate.begin(self)
        else:
            self._gate.pause(self)

    def begin(self) -> None:
        self._gate.hand_over(self)

    def close(self) -> None:
        self._gate.no_longer_waits(self)
        self.connection.close()


class _Talking(asyncio.Protocol):
    """A connection that aiohttp answers, with an eye on what comes.

    A client that may do nothing here gets its requests read in few pieces: one that sends byte by byte would have each
    byte parsed.
    """

    def __init__(self, gate: Gate, handler: asyncio.Protocol, waiting: _Waiting) -> None:
        self._gate, self.handler, self.counted = gate, handler, waiting.counted
        self._said = waiting.said
        self.first = True  # its first request has waited for its turn already
        self._came = 0  # bytes of the request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 a stream socket's
        self._transport = transport
        self.counted.close = transport.abort
        self._gate.began(self)
        self.handler.connection_made(transport)
        self.data_received(self._said)
        self._said = b""

    def data_received(self, data: bytes) -> None:
        before = self.counted.state
        self.counted.received(self._gate.now())
        if self.counted.client.rank is Rank.OTHER:
            self._came = len(data) + (self._came if before is State.INCOMPLETE else 0)
            if self._came > LARGEST:
                self._transport.abort()
                return
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(PIECES, self._go_on)
        self.handler.data_received(data)

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool | None:
        return self.handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.ended(self)
        self.handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        self.handler.resume_writing()
