"""How long a command waits for etcd, which lbctl waits for in turn."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from lbagent.agent.clock import Clock
from lbagent.agent.shared import SharedIntent
from lbagent.cluster.members import View
from lbagent.errors import Conflict, LbagentError, StoreError

T = TypeVar("T")

ATTEMPTS = 20  # times that a command is decided anew because another was quicker
LONGEST = 4.5  # seconds for a command to be decided and stored: lbctl waits five for an answer
ELECTION = 10.0  # seconds within which an etcd that does not answer is expected to answer again
IS_THERE = 1.5  # seconds that etcd is given to show that it is there
AGAIN = 0.05  # seconds until the next try


class Patience:
    """``until`` is by the monotonic clock everywhere."""

    def __init__(self, shared: SharedIntent, clock: Clock) -> None:
        self._shared, self._clock = shared, clock

    async def until_stored(self, attempt: Callable[[float], Awaitable[T]], attempts: int) -> T:
        """Anew whenever another agent was quicker."""
        until = time.monotonic() + LONGEST
        for _ in range(attempts):
            try:
                async with self._lock(until):
                    return await attempt(until)
            except Conflict:
                if attempts == 1:
                    raise
                await asyncio.sleep(random.uniform(0, AGAIN))  # noqa: S311 so that two do not collide again
        raise LbagentError("store", "other commands keep changing the shared intent. Try again")

    async def in_time(self, doing: Awaitable[T], until: float) -> T:
        """What etcd is asked for a command, and nothing else: no local step is cut in two. StoreError when late."""
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await doing
        except TimeoutError:
            raise StoreError(
                f"{self._shared.error or 'etcd does not answer in time'}: unless it took this command without saying "
                "so, nothing is in force by it; see `lbctl status` once it answers, and repeat"
            ) from None

    async def read(self, until: float) -> View:
        """A leader's election or a restart is waited for, as far as lbctl's patience allows; an outage is not."""
        for_looks = until - LONGEST / 8
        since = self._shared.alone_since
        outage = since is not None and self._clock.now() - since > ELECTION
        while True:
            try:
                return await self.in_time(self._shared.look(), for_looks)
            except StoreError:
                if outage or time.monotonic() > for_looks - 1.0:
                    raise
            await asyncio.sleep(AGAIN)

    async def store_is_away(self) -> bool:
        """Etcd cannot be reached, at this moment and not only at the last read."""
        until = time.monotonic() + IS_THERE
        try:
            async with self._lock(until):
                await self.in_time(self._shared.look(), until)
        except StoreError:
            return True
        return False

    @contextlib.asynccontextmanager
    async def _lock(self, until: float) -> AsyncIterator[None]:
        await self.in_time(self._shared.lock.acquire(), until)
        try:
            yield
        finally:
            self._shared.lock.release()
