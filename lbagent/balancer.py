"""One HAProxy as a whole: its worker, the workers that a reload left over, and its folder of files. Blocking."""

from __future__ import annotations

import contextlib
import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from . import adopt, files, guard
from .config import HAProxyConfig
from .errors import HAProxyDown, HAProxyError
from .haproxy import AdminSocket, Channel, Facts, batch, observe, perform, streams
from .model import (
    Action,
    BackendSeen,
    CutSessions,
    Observed,
    Ref,
    ReplaceMap,
    Stream,
    Worker,
    WriteFile,
)
from .workers import Master, WorkerChannel

log = logging.getLogger(__name__)

FILES = (guard.MAP, *guard.LISTS, guard.PAGE, guard.ERRORFILE, guard.STATE)


class Balancer:
    def __init__(self, config: HAProxyConfig) -> None:
        self._config = config
        self._admin = AdminSocket(config.socket)
        self._master = Master(config.master_socket) if config.master_socket else None
        self._facts: Facts | None = None
        self._backends: dict[str, BackendSeen] = {}
        self._frontends: frozenset[str] = frozenset()

    def observe(self) -> Observed:
        """HAProxy and its files as they are; never raises for an HAProxy that is down or talks nonsense."""
        on_disk = files.read_all(Path(self._config.state_dir), FILES)
        try:
            seen, self._facts = observe(self._admin, self._config.seen_dir, self._facts, self._sticky)
            old = self._old_workers(seen.pid)
        except HAProxyError as error:
            return self._down(on_disk, error.message)
        except (ValueError, KeyError, IndexError) as error:
            return self._down(on_disk, f"HAProxy's answer makes no sense: {error!r}")
        self._backends, self._frontends = seen.backends, seen.frontends
        return Observed(
            up=True,
            version=seen.version,
            pid=seen.pid,
            frontends=seen.frontends,
            backends=seen.backends,
            table=seen.table,
            lists=seen.lists,
            old_workers=old,
            files=on_disk,
        )

    def _sticky(self) -> frozenset[str]:
        """Backends that the configuration makes sticky: a stick rule on another backend's table shows nowhere else."""
        texts = []
        for name in self._config.config:
            path = Path(name)
            with contextlib.suppress(OSError):
                for file in sorted(path.glob("*.cfg")) if path.is_dir() else [path]:
                    texts.append((str(file), file.read_bytes().decode("utf-8", "surrogateescape")))
        try:
            return adopt.read(texts).sticky
        except adopt.CannotAdopt as error:
            log.warning("HAProxy's configuration: %s", error)
            return frozenset()

    def _down(self, on_disk: dict[str, str], why: str) -> Observed:
        return Observed(up=False, backends=self._backends, frontends=self._frontends, files=on_disk, error=why)

    def _old_workers(self, current: int) -> tuple[Worker, ...] | None:
        if self._master is None:
            return None
        found = []
        _, listed = self._master.workers()
        for pid in listed:
            if pid == current:
                continue
            with contextlib.suppress(HAProxyDown):  # it ended meanwhile
                stat, table = batch(
                    WorkerChannel(self._master, pid),
                    ["show stat -1 4 -1", f"show map {self._config.seen_dir}/{guard.MAP}"],
                )
                rows = csv.DictReader([stat[0].removeprefix("# "), *stat[1:]])
                sessions = {
                    Ref(row["pxname"], row["svname"]): int(row["scur"] or 0) + int(row["qcur"] or 0) for row in rows
                }
                entries = [row.partition(" ")[2].partition(" ") for row in table]
                loaded = not table or table[0].startswith("0x")
                found.append(
                    Worker(
                        pid=pid,
                        sessions={ref: count for ref, count in sessions.items() if count},
                        current_map=tuple(sorted((k, v) for k, _, v in entries)) if loaded else None,
                    )
                )
        return tuple(found)

    def settled(self, observed: Observed) -> bool:
        """No worker exists that ``observed`` did not read: asked after the read, so none can have read older files."""
        known = {observed.pid, *(w.pid for w in observed.old_workers or ())}
        if self._master is not None:
            current, old = self._master.workers()
            return current is not None and {current, *old} <= known
        return any(line == f"Pid: {observed.pid}" for line in self._admin.run("show info"))

    def streams(self, observed: Observed) -> list[Stream]:
        """Every request that any worker holds."""
        found = streams(self._admin, observed.pid)
        for worker in observed.old_workers or ():
            with contextlib.suppress(HAProxyDown):
                found += streams(self._old(worker.pid), worker.pid)
        return found

    def perform(self, actions: Sequence[Action]) -> list[str]:
        """Do ``actions`` in their order: files, then workers. What failed comes back as sentences."""
        failed: list[str] = []
        for action in actions:
            if isinstance(action, WriteFile):
                try:
                    files.write(Path(self._config.state_dir) / action.name, action.text)
                except OSError as error:
                    failed.append(f"{self._config.state_dir}/{action.name}: {error.strerror or error}")
        if failed:  # a worker is never told what the files do not hold
            return failed
        here = [a for a in actions if not isinstance(a, WriteFile) and getattr(a, "pid", None) is None]
        try:
            if here:
                failed += perform(self._admin, self._config.seen_dir, here)
            for action in actions:
                if isinstance(action, ReplaceMap) and action.pid is not None:
                    with contextlib.suppress(HAProxyDown):
                        failed += perform(self._old(action.pid), self._config.seen_dir, [action])
                elif isinstance(action, CutSessions):
                    self._cut_in_old_workers(action.ref)
        except HAProxyError as error:
            failed.append(error.message)
        return failed

    def _cut_in_old_workers(self, ref: Ref) -> None:
        """An old worker refuses to shut a server's sessions down; it ends streams one by one."""
        if self._master is None:
            return
        for pid in self._master.workers()[1]:
            channel = self._old(pid)
            with contextlib.suppress(HAProxyDown):
                mine = [s for s in streams(channel, pid) if (s.backend, s.server) == (ref.backend, ref.server)]
                if mine:
                    batch(channel, [f"shutdown session {stream.pointer}" for stream in mine])

    def _old(self, pid: int) -> Channel:
        assert self._master is not None  # noqa: S101 an old worker was seen, so there is a master
        return WorkerChannel(self._master, pid)

    def rehearse(self, want: dict[str, str]) -> None:
        """Write the files beside the real ones and take them away again; OSError when the disk does not take them."""
        folder = Path(self._config.state_dir)
        spare = folder / ".rehearsal"
        current = files.read_all(folder, FILES)
        text = "".join(t for name, t in want.items() if current.get(name) != t)
        try:
            files.write(spare, text)
        finally:
            spare.unlink(missing_ok=True)
