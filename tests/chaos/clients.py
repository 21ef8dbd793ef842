"""Clients that ask all the time, bounded: keep-alive connections, requests of 5 to 1500 ms, a few of up to 5 s."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.judge import Answered

SHORTEST, LONG, LONGEST = 5, 1500, 5000  # ms
PAUSE, PAUSE_REFUSED = 0.02, 0.12  # seconds; the longer one keeps a closed service from being hammered


@dataclass(frozen=True)
class Place:
    """Where a service is asked for; ``via`` names the HAProxy in the path, for the origins' logs."""

    port: int
    host: str = "127.0.0.1"
    via: str = ""


def via_of(path: str) -> str:
    """The HAProxy that a request's path names."""
    parts = path.split("/")
    return parts[parts.index("via") + 1] if "via" in parts else ""


class Clients:
    """``each`` clients a service, at its places in turn; one waits ``patience`` seconds. ``answers`` grows."""

    def __init__(self, places: dict[str, Sequence[Place]], each: int, seed: int, patience: float = 30.0) -> None:
        self.answers: list[Answered] = []
        self._patience = patience
        self.stale = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=(name, choices[n % len(choices)], f"{seed}/{name}/{n}"), daemon=True
            )
            for name, choices in places.items()
            for n in range(each)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)

    def _run(self, service: str, place: Place, seed: str) -> None:
        dice = random.Random(seed)
        connection = http.client.HTTPConnection(place.host, place.port, timeout=self._patience)
        prefix = f"/via/{place.via}" if place.via else ""
        cookie: str | None = None
        while not self._stop.is_set():
            wait = _wait(dice)
            method = "PUT" if dice.random() < 0.4 else "GET"
            reused = connection.sock is not None
            headers = {"Cookie": cookie} if cookie else {}
            answer = Answered(service, method, time.time(), 0.0, "", via=place.via)
            try:
                connection.request(method, f"{prefix}/wait/{wait}", b"x" * 100 if method == "PUT" else None, headers)
                response = connection.getresponse()
                response.read()
                answer.status, answer.retry_after = response.status, response.getheader("Retry-After")
                answer.maintenance = response.getheader("X-Maintenance") is not None
                if fresh := response.getheader("Set-Cookie"):
                    cookie = fresh.partition(";")[0]
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                answer.status = repr(error)
                # A connection that its server closed while it was idle: every client asks again (RFC 9112 9.3.1).
                if reused and isinstance(
                    error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError
                ):
                    self.stale += 1
                    continue
            answer.ended = time.time()
            self.answers.append(answer)
            time.sleep(PAUSE if answer.status == 200 else PAUSE_REFUSED)
        with contextlib.suppress(OSError):
            connection.close()


def _wait(dice: random.Random) -> int:
    """Most requests are short, some are what a drain waits for, and a few outlast a worker that hangs."""
    kind = dice.random()
    if kind < 0.03:
        return dice.randint(LONGEST // 2, LONGEST)
    if kind < 0.25:
        return dice.randint(LONG // 2, LONG)
    return round(SHORTEST * (LONG / SHORTEST) ** dice.random())
