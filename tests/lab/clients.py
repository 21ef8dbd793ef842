"""Clients: one request, or many that ask until they are stopped."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tests.lab.wait import eventually


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    method: str = "GET",
    path: str = "/",
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    host: str = "127.0.0.1",
    timeout: float = 20.0,
) -> Answer:
    """One request on a connection of its own, its path sent as it is."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Waiting:
    """``count`` requests that were sent and are not answered yet, each on a connection of its own."""

    def __init__(self, port: int, count: int, method: str = "POST", path: str = "/wait/60000") -> None:
        self._connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(count)]
        for connection in self._connections:
            connection.request(method, path, b"x" if method == "POST" else None)
        self._results: list[int | str] = []
        self._threads = [threading.Thread(target=self._wait, args=(c,), daemon=True) for c in self._connections]
        for thread in self._threads:
            thread.start()

    def _wait(self, connection: http.client.HTTPConnection) -> None:
        try:
            response = connection.getresponse()
            response.read()
            self._results.append(response.status)
        except (OSError, http.client.HTTPException) as error:
            self._results.append(repr(error))

    @property
    def ended(self) -> list[int | str]:
        """What those got that are not open any more: a status, or an error."""
        return list(self._results)

    def all(self, seconds: float = 20.0) -> list[int | str]:
        """What every one of them got; AssertionError when one is still open after ``seconds``."""
        eventually(lambda: len(self._results) == len(self._connections), lambda: f"all end: {self._results}", seconds)
        return self.ended


class WebSocket:
    """A connection that was upgraded, or was not: ``status``. ``say`` sends bytes and returns what comes back."""

    def __init__(self, port: int, path: str = "/console", timeout: float = 20.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": key}
        self._connection.request("GET", path, headers={**headers, "Sec-WebSocket-Version": "13"})
        self._socket = self._connection.sock
        self.status = self._connection.getresponse().status

    def say(self, data: bytes) -> bytes:
        """Empty when the connection was cut."""
        with contextlib.suppress(OSError):
            self._socket.sendall(data)
            return self._socket.recv(4096)
        return b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()


@dataclass
class Load:
    """Keep-alive clients that ask until stopped; at most ``seconds`` long. ``results`` are (time, status or error).

    ``fresh``: a connection for each request, as in front of a backend in `mode tcp`, where a connection is the unit.
    """

    port: int
    path: str = "/v2"
    method: str = "GET"
    clients: int = 4
    pause: float = 0.002
    seconds: float = 60.0
    body: bytes | None = None
    host: str = "127.0.0.1"
    fresh: bool = False
    results: list[tuple[float, int | str]] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(self.results) > 2 * self.clients, "the load runs")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        deadline = time.monotonic() + self.seconds
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        while not self._stop.is_set() and time.monotonic() < deadline:
            began = time.time()
            reused = connection.sock is not None
            try:
                connection.request(self.method, self.path, self.body)
                response = connection.getresponse()
                response.read()
                self.results.append((began, response.status))
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A keep-alive connection that its server closed while idle: every client asks again (RFC 9112 9.3.1).
                if not (
                    reused
                    and isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError)
                ):
                    self.results.append((began, repr(error)))
            if self.fresh:
                connection.close()
            time.sleep(self.pause)
        connection.close()

    def statuses(self, since: float = 0.0) -> set[int | str]:
        return {status for began, status in self.results if began >= since}
