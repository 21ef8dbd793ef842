"""The workers that a reload left over: seen, told and asked by way of the master. Blocking."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import TypeVar

from lbagent.errors import HAProxyError
from lbagent.guard import file_names
from lbagent.haproxy.channel import Channel
from lbagent.haproxy.find_master import MasterSearch
from lbagent.haproxy.master import Master, WorkerSocket
from lbagent.model.observed import Worker
from lbagent.model.servers import Ref
from lbagent.settings.config import HAProxyConfig

T = TypeVar("T")

Ask = Callable[[Channel, int], T]
"""What is asked of a worker, by its channel and its pid."""


class OldWorkers:
    """Without a master that can be asked they are unknown, which is something else than none."""

    def __init__(self, config: HAProxyConfig) -> None:
        self._seen_dir = config.seen_dir
        self._search = MasterSearch(config.master_socket)
        self._master: Master | None = None
        self._seen: tuple[Worker, ...] | None = None
        self._last: Worker | None = None  # the current one as it was last seen: the next reload's old worker

    @property
    def masterless(self) -> str:
        """Why no master is asked; empty while one is."""
        return "" if self._master else self._search.why

    def any_master(self) -> Master | None:
        """A master to ask although the current worker is not known."""
        return self._search.any()

    def look(self, current: Worker) -> tuple[tuple[Worker, ...] | None, str]:
        """(the old workers, why the master could not be asked just now: those last seen are given then)."""
        self._master = self._search.for_worker(current.pid)
        blind = self._look(current.pid) if self._master else ""
        if self._master is None:
            self._seen = None
        self._last = current
        return self._seen, blind

    def _look(self, current: int) -> str:
        try:
            seen = (self.ask(pid, self._one) for pid in self._listed()[1] if pid != current)
            self._seen = tuple(worker for worker in seen if worker is not None)
        except HAProxyError as error:
            if not self._search.refused():  # that is no reload: go on without a master, and say so
                self._master = None
                return ""
            # A reload is under way. Never read this as "no workers".
            if self._last is not None and self._last.pid != current and self._seen is not None:
                self._seen = (*(w for w in self._seen if w.pid != self._last.pid), self._last)
            return error.message
        self._search.answered()
        return ""

    def listed(self) -> set[int | None] | None:
        """Every worker that the master knows, the current one too (None: not up yet); None without a master."""
        if self._master is None:
            return None
        current, old = self._listed()
        return {current, *old}

    def _listed(self) -> tuple[int | None, tuple[int, ...]]:
        return self._master.workers() if self._master else (None, ())

    def ask_each(self, question: Ask[None]) -> None:
        for pid in self._listed()[1]:
            self.ask(pid, question)

    def ask(self, pid: int, question: Ask[T]) -> T | None:
        """What an old worker says; None when it has ended. One that only does not answer has not: HAProxyError."""
        if self._master is None:
            return None
        try:
            return question(Channel(WorkerSocket(self._master, pid)), pid)
        except (HAProxyError, ValueError, KeyError, IndexError, csv.Error) as error:
            if pid not in self._listed()[1]:
                return None
            raise error if isinstance(error, HAProxyError) else HAProxyError(f"worker {pid}: {error!r}") from error

    def _one(self, channel: Channel, pid: int) -> Worker:
        stat, table = channel.ask_all(
            [("show", "stat", "-1", "7", "-1"), ("show", "map", f"{self._seen_dir}/{file_names.MAP}")]
        )
        rows = list(csv.DictReader([stat[0].removeprefix("# "), *stat[1:]]))
        sessions = {
            Ref(row["pxname"], row["svname"]): int(row["scur"] or 0) + int(row["qcur"] or 0)
            for row in rows
            if row["svname"] not in ("FRONTEND", "BACKEND")
        }
        entries = [row.partition(" ")[2].partition(" ") for row in table]
        loaded = not table or table[0].startswith("0x")
        return Worker(
            pid=pid,
            sessions={ref: count for ref, count in sessions.items() if count},
            clients=sum(int(row["scur"] or 0) for row in rows if row["svname"] == "FRONTEND"),
            queues={
                row["pxname"]: int(row["qcur"]) for row in rows if row["svname"] == "BACKEND" and int(row["qcur"] or 0)
            },
            current_map=tuple(sorted((k, v) for k, _, v in entries)) if loaded else None,
        )
