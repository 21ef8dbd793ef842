"""A TCP proxy that can be told to forward badly."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any


class Proxy:
    """Forwards TCP to ``port``, and can be told to do that badly."""

    def __init__(self, port: int, host: str = "127.0.0.1", listen: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self.delay = 0.0  # seconds that every answer takes longer
        self.drop: Callable[[bytes], bool] = lambda _: False  # of a request: its answer is lost
        self.hang = False  # connections are taken, and nothing is ever said
        self.dropped = 0
        self.before_cut: Callable[[float], Any] = lambda _: None
        self._listener = socket.create_server((listen, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as server:
            lost = threading.Event()
            threading.Thread(target=self._back, args=(server, client, lost), daemon=True).start()
            while data := client.recv(65536):
                if self.drop(data):
                    lost.set()
                while self.hang:
                    time.sleep(0.01)
                server.sendall(data)

    def _back(self, server: socket.socket, client: socket.socket, lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if lost.is_set():
                    self.before_cut(5.0)
                    self.dropped += 1
                    break
                time.sleep(self.delay)
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
