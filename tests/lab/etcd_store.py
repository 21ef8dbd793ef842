"""What the tests of the store in etcd share: an intent, and a count of how often a watch wakes."""

from __future__ import annotations

import asyncio

from lbagent.model.intent import Drain, Held, Intent, Mode, ServiceIntent
from lbagent.store.etcd.store import EtcdStore

CLOSED = (
    Intent()
    .with_service("nova", ServiceIntent(mode=Mode.DOWN, start=5, reason="é😀\n", by="root", keys=("nova",)))
    .with_drain("ctl1", "nova", Drain(servers=(Held(backend="nova", server="ctl1"),)))
)


USER = {"user": "lbagent", "password": "secret"}


async def read(store: EtcdStore) -> Intent | None:
    return (await store.look()).intent


async def wakes_with_a_swap(watching: EtcdStore, swapping: EtcdStore) -> None:
    """A watch may wake for nothing; it has to within a second of a swap."""
    async with Wakes(watching) as wakes:
        for _ in range(3):
            await wakes.quiet()
            await wakes.with_a_swap(swapping)


class Wakes:
    """Counts how often a store's watch wakes."""

    def __init__(self, store: EtcdStore) -> None:
        self._store, self.count, self._woken = store, 0, asyncio.Event()

    async def __aenter__(self) -> Wakes:
        self._task = asyncio.create_task(self._run())
        await self.more_than(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        async for _ in self._store.watch():
            self.count += 1
            self._woken.set()

    async def more_than(self, count: int, seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while self.count <= count:
                self._woken.clear()
                await self._woken.wait()

    async def quiet(self) -> None:
        """Until it has not woken for a second, more than a watch that fails takes to be begun again."""
        for _ in range(10):
            before = self.count
            await asyncio.sleep(1)
            if self.count == before:
                return
        raise AssertionError("it never stops waking")

    async def with_a_swap(self, other: EtcdStore) -> None:
        stored = await read(other)
        before = self.count
        await other.swap(stored.revision if stored else 0, CLOSED)
        await self.more_than(before, 1.0)
