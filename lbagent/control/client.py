"""The control socket from the other side: what lbctl, and any script, needs of it. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

DEFAULT_SOCKET = "/run/lbagent/lbagent.sock"
PATIENCE = 5.0  # seconds for an agent to answer


class NoAgent(Exception):
    """Nobody answers on the socket."""


class NotPermitted(Exception):
    """The socket, or the agent, does not let this user."""


class Refused(Exception):
    """The agent answered with an error: its machine code, its sentence, the HTTP status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    def __init__(self, path: str = DEFAULT_SOCKET) -> None:
        self._path = path

    def get(self, path: str) -> Any:
        return self._call("GET", path)

    def change(self, body: dict[str, Any]) -> Any:
        return self._call("POST", "/v1/changes", body)

    def forget(self, node: str) -> Any:
        return self._call("DELETE", f"/v1/agents/{quote(node, safe='')}")

    def follow(self, operation: str) -> Iterator[Any]:
        """The operation whenever it changes, until it has ended; NoAgent when the agent goes away meanwhile."""
        connection, response = self._send("GET", f"/v1/operations/{operation}?stream=1")
        if connection.sock is not None:
            connection.sock.settimeout(None)
        try:
            while line := response.readline():
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoAgent(f"the agent went away: {error}") from error
        finally:
            connection.close()

    def events(self) -> Iterator[Any]:
        connection, response = self._send("GET", "/v1/events")
        if connection.sock is not None:
            connection.sock.settimeout(None)
        while line := response.readline():
            yield json.loads(line)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection, response = self._send(method, path, body)
        try:
            return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoAgent(f"the agent's answer on {self._path} was cut off: {error}") from error
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        connection = _Connection(self._path, PATIENCE)
        try:
            # An agent that refuses who asks may answer and close before it has read the body: the answer is there.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(
                    method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"}
                )
            response = connection.getresponse()
        except PermissionError as error:
            raise NotPermitted(f"{self._path}: you may not connect to the agent: {error.strerror}") from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAgent(
                f"no agent answers on {self._path} ({error}). Is it running? systemctl status lbagent; "
                "another socket: --socket PATH or LBAGENT_SOCKET"
            ) from error
        if response.status >= 400:
            raise _refusal(response)
        return connection, response


def _refusal(response: http.client.HTTPResponse) -> Exception:
    try:
        error = json.loads(response.read())["error"]
        refused = Refused(response.status, str(error["code"]), str(error["message"]))
    except (ValueError, KeyError, TypeError, OSError):
        refused = Refused(response.status, "internal", f"the agent answered HTTP {response.status}")
    return NotPermitted(refused.message) if refused.status == 403 else refused
