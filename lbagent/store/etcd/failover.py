"""Which member of etcd is asked: the one that answered last, else the next; and all together once one has failed.

Calls block. The clients are tried in turn; a read may also ask all of them at once (:meth:`Failover.race`), so that
one that is back is found at once, whatever the others do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any, TypeVar

from lbagent.errors import StoreError
from lbagent.settings.etcd import EtcdConfig
from lbagent.store.etcd.client import ANSWER, CONNECT, EtcdClient, Trouble
from lbagent.store.etcd.wording import no_answer

T = TypeVar("T")

AGAIN = 0.2  # seconds until one that failed is asked again, while another may still answer
IN_TURN = 3.0  # seconds for all of them one after the other
BY_ITSELF = 0.5  # seconds that a member is given for what it holds by itself
PAUSE = 0.5  # seconds until a watch that has ended is begun again


class Failover:
    def __init__(self, config: EtcdConfig) -> None:
        numbers = range(len(config.endpoints))
        self._clients = [EtcdClient(config, index) for index in numbers]  # the one to ask first is first
        self._alone = [EtcdClient(config, index, self._clients[index]) for index in numbers]
        self._racers = ThreadPoolExecutor(max_workers=2 * len(numbers), thread_name_prefix="etcd-race")
        self._each = ThreadPoolExecutor(max_workers=2 * len(numbers), thread_name_prefix="etcd-each")
        self._healthy = True
        self._closed = False

    def ask(self, path: str, body: Mapping[str, Any], answer: type[T], race: bool = False) -> T:
        """The first member's answer; StoreError names every member and why it did not answer.

        ``race``: once one has failed, all are asked together. For reads only: others must not be carried out twice.
        """
        failed: dict[str, str] = {}
        if race and not self._healthy:
            return self._race(path, body, answer, failed)
        until = time.monotonic() + IN_TURN
        for client in (*self._clients, self._clients[0]):  # the first once more: its answer may have been lost
            patience = min(ANSWER / 2 if race else ANSWER, until - time.monotonic())
            if patience <= 0.1:
                failed.setdefault(str(client), "not asked")
                continue
            try:
                found = client.post(path, body, answer, patience)
            except Trouble as trouble:
                failed[str(client)] = str(trouble)
                self._healthy = False
                if race:
                    return self._race(path, body, answer, failed)
            else:
                self._prefer(client)
                return found
        raise StoreError(no_answer(failed))

    def each(self, path: str, body: Mapping[str, Any], answer: type[T]) -> list[T]:
        """What each member answers by itself, those that do not answer left out; it never fails."""
        asked = [self._each.submit(c.post, path, body, answer, BY_ITSELF, BY_ITSELF) for c in self._alone]
        found = []
        for future in wait(asked, timeout=2 * BY_ITSELF).done:
            with contextlib.suppress(Trouble):
                found.append(future.result())
        return found

    def _race(self, path: str, body: Mapping[str, Any], answer: type[T], failed: dict[str, str]) -> T:
        """While one may still answer, those that failed are asked again: one that is back is found at once."""
        failed.clear()
        over = Event()
        until = time.monotonic() + ANSWER

        def insist(client: EtcdClient) -> T:
            connect = CONNECT / 2
            while True:
                try:
                    return client.post(path, body, answer, until - time.monotonic(), connect)
                except Trouble as trouble:
                    failed[str(client)] = str(trouble)
                    hopeless = len(failed) == len(self._clients) or time.monotonic() + 2 * AGAIN > until
                    if hopeless or over.wait(AGAIN):
                        raise
                    connect = CONNECT

        asked: dict[Future[T], EtcdClient] = {self._racers.submit(insist, client): client for client in self._clients}
        left = set(asked)
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for future in done:
                with contextlib.suppress(Trouble):
                    found = future.result()
                    over.set()
                    self._prefer(asked[future])
                    return found
        raise StoreError(no_answer(failed))

    def _prefer(self, client: EtcdClient) -> None:
        self._healthy = True
        if self._clients[0] is not client:
            self._clients = [client, *(c for c in self._clients if c is not client)]

    def listen(self, path: str, body: Mapping[str, Any], wake: Callable[[], object]) -> None:
        """Call ``wake`` at every line of a stream, for ever; in a thread of its own.

        A stream may end, or stay silent because its member hangs: it is begun again, with the member that is first.
        """
        while not self._closed:
            first = self._clients[0]
            with contextlib.suppress(Trouble, RuntimeError):  # RuntimeError: the loop that is to be woken has ended
                for _ in first.stream(path, body):
                    wake()
                    if self._clients[0] is not first:
                        break  # it was in trouble since
            time.sleep(PAUSE)

    def close(self) -> None:
        self._closed = True
        for pool in (self._racers, self._each):
            pool.shutdown(wait=False, cancel_futures=True)
