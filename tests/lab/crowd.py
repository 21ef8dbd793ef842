"""A crowd at a socket, run as a user without rights: ``python crowd.py KIND TARGET COUNT``, until it is killed.

Every connection that ends is opened again at once. It imports nothing of the project: any user may run it.

========  =====================================================================
idle      connects, and says nothing
half      sends the beginning of a request, and no more
drip      sends a request byte by byte
ask       asks for /v1/status and /metrics again and again
unread    asks again and again, and reads no answer
hang-up   connects and hangs up, as fast as it can
body      sends a body without an end
========  =====================================================================
"""

import contextlib
import errno
import selectors
import socket
import sys
import time

REQUEST = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200 + b"\r\n\r\n"
SAID = {
    "idle": b"",
    "half": REQUEST[:60],
    "drip": b"",
    "ask": REQUEST.replace(b"/v1/status", b"/metrics"),
    "unread": REQUEST * 50,
    "hang-up": b"",
    "body": b"POST /v1/changes HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n",
}


class Crowd:
    def __init__(self, kind: str, target: str, count: int) -> None:
        self.kind, self.count = kind, count
        host, _, port = target.rpartition(":")
        self.family = socket.AF_INET if port.isdigit() else socket.AF_UNIX
        self.address = (host, int(port)) if port.isdigit() else target
        self.selector = selectors.DefaultSelector()
        self.opened = 0

    def open(self) -> bool:
        """False while the other side takes no more."""
        connection = socket.socket(self.family, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(self.address)
        except BlockingIOError as error:
            if error.errno != errno.EINPROGRESS:  # the queue of a unix socket is full
                connection.close()
                return False
        except OSError:
            connection.close()
            return False
        self.opened += 1
        if self.kind == "hang-up":
            connection.close()
            return True
        events = selectors.EVENT_READ
        if SAID[self.kind] or self.kind == "drip":
            events |= selectors.EVENT_WRITE
        self.selector.register(connection, events, 0)
        return True

    def run(self) -> None:
        said = time.monotonic()
        while True:
            while len(self.selector.get_map()) < self.count and self.open():
                if self.kind == "hang-up" and self.opened % 100 == 0:
                    break
            for key, events in self.selector.select(0.05):
                self.serve(key.fileobj, key.data, events)
            if time.monotonic() - said > 1:
                said = time.monotonic()
                print(self.opened, flush=True)

    def serve(self, connection, sent: int, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and self.kind != "unread" and not connection.recv(65536):
                raise ConnectionResetError
            if events & selectors.EVENT_WRITE:
                self.say(connection, sent)
        except BlockingIOError:
            pass
        except OSError:
            self.selector.unregister(connection)
            connection.close()

    def say(self, connection, sent: int) -> None:
        if self.kind == "drip":
            connection.send(REQUEST[sent % len(REQUEST) :][:1])
            self.selector.modify(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, sent + 1)
        elif self.kind == "body":
            connection.send(SAID["body"] if not sent else b"x" * 65536)
            self.selector.modify(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, sent + 1)
        else:
            connection.send(SAID[self.kind])
            if self.kind == "half":
                self.selector.modify(connection, selectors.EVENT_READ, 0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        Crowd(sys.argv[1], sys.argv[2], int(sys.argv[3])).run()
