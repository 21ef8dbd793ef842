"""Thousands of ticks that nobody scrapes leave nothing behind."""

from __future__ import annotations

import gc
import tracemalloc

from lbagent.agent.agent import Agent
from lbagent.agent.alone import Alone
from lbagent.agent.own_intent import OwnIntent
from lbagent.agent.reconciler import Reconciler
from lbagent.agent.registry import Operations
from lbagent.metrics import Metrics
from lbagent.model.actions import ReplaceList, WriteFile
from lbagent.settings.load import parse
from lbagent.store.file import FileStore
from lbagent.store.history import History
from tests.lab.model_haproxy import haproxy

CONFIG = parse("services: {nova: {}, keystone: {}}")
BOUND = 100_000  # bytes: a list of 4,500 floats takes more


class Standing:
    """A HAProxy that holds what it is told, and never changes by itself."""

    def __init__(self) -> None:
        self.seen = haproxy()

    def observe(self):
        return self.seen

    def perform(self, actions):
        from msgspec.structs import replace  # noqa: PLC0415

        for action in actions:
            match action:
                case WriteFile(name, text):
                    self.seen = replace(self.seen, files=self.seen.files | {name: text})
                case ReplaceList(name, patterns):
                    self.seen = replace(self.seen, lists=self.seen.lists | {name: patterns})
                case _:
                    self.seen = replace(self.seen, table=action.entries)
        return []

    def settled(self, _):
        return True

    def streams(self, _):
        return []


async def test_ticks_that_nobody_scrapes_leak_nothing(tmp_path):
    metrics = Metrics()
    reconciler = Reconciler(CONFIG, Standing())
    own = OwnIntent(FileStore(tmp_path / "intent.json"))
    agent = Agent(reconciler, Alone(own, reconciler), Operations(History(tmp_path / "history")), metrics.ticked)
    metrics.watch(agent)
    for _ in range(500):
        await agent.tick()
    assert agent.in_sync, agent.trouble()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(4_500):
        await agent.tick()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    agent.close()
    assert after - before < BOUND, f"{after - before} bytes more"
    [count] = [
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "lbagent_reconcile_duration_seconds_count"
    ]
    assert count == 5_000
