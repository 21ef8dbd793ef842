"""The commands under way and those that ended lately; each that ends is written into the history."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from lbagent.agent.keeper import Decided
from lbagent.errors import LbagentError
from lbagent.rules.change import Change
from lbagent.rules.operations import Operation, begin, judge
from lbagent.rules.waiting import Situation
from lbagent.store.history import History

log = logging.getLogger(__name__)

KEPT = 200  # ended operations that can still be asked for


class Operations:
    def __init__(self, history: History) -> None:
        self.history = history
        self._all: dict[str, Operation] = {}
        self._moved = asyncio.Condition()

    def get(self, number: str) -> Operation:
        """LbagentError when there is none."""
        if number not in self._all:
            raise LbagentError("not_found", f"no operation {number}")
        return self._all[number]

    @property
    def waited_for(self) -> bool:
        return any(operation.running for operation in self._all.values())

    def begin(self, decided: Decided, change: Change, by: str, now: float) -> str:
        """The number of the operation of a change that is stored."""
        number = f"{decided.revision}-{len(self._all) + 1}-{int(now)}"
        operation = begin(
            number, decided.decision, decided.revision, by, change.reason, now, change.local, decided.stamp
        )
        self._all[number] = operation
        log.info("%s by %s: %s", operation.command, by, change.reason or "no reason given")
        return number

    async def judge(self, situation: Situation) -> None:
        """After a tick: what each command still waits for, and which have ended."""
        for number, operation in list(self._all.items()):
            if not operation.running:
                continue
            judged = self._all[number] = judge(operation, situation)
            if not judged.running:
                await asyncio.to_thread(self.history.add, msgspec.to_builtins(judged))
        for number in [n for n, operation in self._all.items() if not operation.running][:-KEPT]:
            del self._all[number]
        async with self._moved:
            self._moved.notify_all()

    async def follow(self, number: str) -> AsyncIterator[Operation]:
        """The operation whenever it changes, until it has ended. LbagentError when there is none."""
        last: Operation | None = None
        while True:
            operation = self.get(number)
            if operation != last:
                last = operation
                yield operation
            if not operation.running:
                return
            async with self._moved:
                await self._moved.wait()

    async def history_grows(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The history now, and again whenever it may have grown."""
        while True:
            yield await asyncio.to_thread(self.history.read)
            async with self._moved:
                await self._moved.wait()
