"""HAProxy's runtime socket, through haproxyadmin: the only module that imports it. Blocking."""

from __future__ import annotations

from haproxyadmin import haproxy as admin
from haproxyadmin.exceptions import HAProxyBaseError

from lbagent.errors import HAProxyDown
from lbagent.haproxy.channel import Channel

TIMEOUT = 1.0  # seconds without a byte: a worker that is stopped or hung is given up on after this


class Silent(HAProxyDown):
    """The socket takes connections and says nothing."""


class AdminSocket:
    """The transport to whichever worker listens. haproxyadmin's constructor talks, so it is made when first used."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._haproxy: admin.HAProxy | None = None

    def run(self, text: str) -> list[str]:
        try:
            if self._haproxy is None:
                self._haproxy = admin.HAProxy(socket_file=self._path, retry=None, retry_interval=0, timeout=TIMEOUT)
            # haproxyadmin encodes as Latin-1: what it is given becomes the bytes of UTF-8, as in HAProxy's files.
            # One HAProxy process a socket: the list has one (process number, lines) pair.
            [(_, lines)] = self._haproxy.command(text.encode().decode("latin-1"))
        except (HAProxyBaseError, OSError, ValueError, KeyError, IndexError) as error:
            self._haproxy = None
            # haproxyadmin's words for a socket that says nothing: ValueError("UNIX socket file was not set").
            silent = type(error) is ValueError or isinstance(error, TimeoutError)
            if silent:
                raise Silent(f"HAProxy does not answer on {self._path} within {TIMEOUT:.0f} s") from error
            why = str(error) or type(error).__name__
            raise HAProxyDown(f"HAProxy does not answer on {self._path}: {why}") from error
        return list(lines)


def channel(path: str) -> Channel:
    """To whichever worker listens on the runtime socket."""
    return Channel(AdminSocket(path))
