"""Origins: HTTP servers that log what reached them. Their logs are the truth about routing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.lab.ports import free_port


@dataclass
class Entry:
    """A request as an origin saw it; ``ended`` stays None while it is worked on."""

    method: str
    path: str
    headers: dict[str, str]
    started: float
    ended: float | None = None
    body: bytes = b""


class Origin:
    """An HTTP server that logs; ``sick`` fails ``/health``. It speaks the websocket's way of upgrading, then echoes.

    ``/wait/MS`` in a path makes it take so long, unless :meth:`let_go` answers first.
    """

    def __init__(self, name: str, port: int | None = None, host: str = "127.0.0.1") -> None:
        self.name, self.port, self.host = name, port or free_port(), host
        self.log: list[Entry] = []
        self.sick = False
        self.released = threading.Event()
        self._server: _Server | None = None

    def let_go(self) -> None:
        """Answer what waits by now."""
        released, self.released = self.released, threading.Event()
        released.set()

    def start(self) -> Origin:
        self._server = _Server((self.host, self.port), _Handler, self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    @property
    def connections(self) -> int:
        """How many are open, idle ones included."""
        return len(self._server.connections) if self._server else 0

    def requests(self, since: float = 0.0) -> list[Entry]:
        """What clients asked for, health checks left out, begun at or after ``since``."""
        return [e for e in self.log if e.started >= since and e.path != "/health"]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type, origin: Origin) -> None:
        self.origin = origin
        self.connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that was cut


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        origin: Origin = self.server.origin  # type: ignore[attr-defined]
        entry = Entry(self.command, self.path, dict(self.headers.items()), time.time())
        origin.log.append(entry)
        if "upgrade" in self.headers.get("Connection", "").lower():
            self._echo(entry)
            return
        entry.body = self._body()
        parts = self.path.partition("?")[0].split("/")
        if "wait" in parts:
            origin.released.wait(int(parts[parts.index("wait") + 1]) / 1000)
        sick = self.path == "/health" and origin.sick
        body = b"" if self.command == "HEAD" else json.dumps({"origin": origin.name}).encode()
        self.send_response(500 if sick else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        entry.ended = time.time()  # before HAProxy can see the end
        self.wfile.write(body)

    def _echo(self, entry: Entry) -> None:
        """Bytes both ways until one side ends; what came in is the entry's body."""
        self.close_connection = True
        self.send_response(101)
        self.send_header("Upgrade", self.headers.get("Upgrade", ""))
        self.send_header("Connection", "Upgrade")
        key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 4.2.2
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())  # noqa: S324
        self.end_headers()
        with contextlib.suppress(OSError):
            while data := self.connection.recv(4096):
                entry.body += data
                self.connection.sendall(data)
        entry.ended = time.time()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def log_message(self, *_: Any) -> None:
        pass
