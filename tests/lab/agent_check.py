"""What answers HAProxy's agent-checks: a port that says one line to whoever connects."""

from __future__ import annotations

import socketserver
import threading

from tests.lab.ports import free_port


class AgentCheck:
    """Says ``word`` at ``host``; change it at any time. ``ready up`` is what a healthy machine says."""

    def __init__(self, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.word = "ready up"
        self.host, self.port = host, port or free_port()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.sendall(f"{outer.word}\n".encode())

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads = True, True

        self._server = Server((self.host, self.port), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def words(self) -> str:
        """For a server's line."""
        return f"agent-check agent-addr {self.host} agent-port {self.port} agent-inter 200"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
