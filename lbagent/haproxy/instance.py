"""One HAProxy as a whole: its worker, the workers that a reload left over, and its folder of files. Blocking."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from lbagent import files
from lbagent.errors import HAProxyError
from lbagent.guard import file_names
from lbagent.haproxy import admin_socket
from lbagent.haproxy.channel import Channel
from lbagent.haproxy.last_seen import LastSeen
from lbagent.haproxy.observe import Facts, observe
from lbagent.haproxy.old_workers import OldWorkers
from lbagent.haproxy.perform import perform
from lbagent.haproxy.streams import cut, cut_ids, streams
from lbagent.haproxy.used_up import unanswered
from lbagent.haproxy_cfg import reading, state_folder
from lbagent.haproxy_cfg.on_disk import Unreadable, Watched
from lbagent.model.actions import Action, CutSessions, ReplaceMap, WriteFile
from lbagent.model.observed import Observed, Stream, Worker
from lbagent.model.written import Written
from lbagent.settings.config import HAProxyConfig

log = logging.getLogger(__name__)
T = TypeVar("T")

RESERVE = ".reserve"
FILES = (file_names.MAP, *file_names.LISTS, file_names.PAGE, file_names.ERRORFILE, file_names.UPLOAD, file_names.STATE)


class HAProxy:
    def __init__(self, config: HAProxyConfig) -> None:
        self._config = config
        self._cfg = Watched(config.config)
        self._old = OldWorkers(config)
        self._admin = admin_socket.channel(config.socket)
        self._facts: Facts | None = None
        self._last_seen = LastSeen(config.state_dir)
        self._seen: Observed | None = None  # the last time that it answered

    def observe(self) -> Observed:
        """HAProxy and its files as they are; never raises for an HAProxy that is down or talks nonsense."""
        on_disk = files.read_all(Path(self._config.state_dir), FILES)
        if track := self._config.vip_track_file:
            with contextlib.suppress(OSError):  # keepalived's, no worker depends on it: shown by the agent
                on_disk |= files.read_all(Path(), (track,))
        written, unread = self._written()
        try:
            sticky = written.sticky if written else {}
            seen, self._facts = observe(self._admin, self._config.seen_dir, self._facts, lambda: sticky)
        except HAProxyError as error:
            return self._unanswered(on_disk, error, written)
        except (ValueError, KeyError, IndexError) as error:
            return self._down(on_disk, f"HAProxy's answer makes no sense: {error!r}", written)
        self._last_seen.keep(seen.backends, seen.frontends)
        served = {s.ref: s.sessions for b in seen.backends.values() for s in b.servers.values() if s.sessions}
        current = Worker(pid=seen.pid, sessions=served, clients=seen.clients, current_map=seen.table)
        old, blind = self._old.look(current)
        self._seen = Observed(
            up=True,
            version=seen.version,
            pid=seen.pid,
            frontends=seen.frontends,
            backends=seen.backends,
            table=seen.table,
            lists=seen.lists,
            old_workers=old,
            blind=blind,
            clients=seen.clients,
            files=on_disk,
            written=written,
            unread=unread,
            masterless=self._old.masterless,
        )
        return self._seen

    def _stats_maxconn(self) -> int | None:
        """How many connections the runtime socket takes, by HAProxy's configuration."""
        with contextlib.suppress(Unreadable):
            return self._cfg.look().stats_maxconn
        return None

    def _written(self) -> tuple[Written | None, str]:
        """What HAProxy's configuration files say; None and why, where they cannot be read."""
        try:
            return reading.written(self._cfg.look(), f"{self._config.seen_dir}/{file_names.STATE}"), ""
        except Unreadable as error:
            return None, str(error)

    def _down(self, on_disk: dict[str, str], why: str, written: Written | None) -> Observed:
        return Observed(
            up=False,
            backends=self._last_seen.backends,
            frontends=self._last_seen.frontends,
            files=on_disk,
            error=why,
            written=written,
        )

    def _unanswered(self, on_disk: dict[str, str], error: HAProxyError, written: Written | None) -> Observed:
        """Down; or it serves and cannot be asked: then what was seen last, for all that is known."""
        found = unanswered(self._config.socket, error, self._stats_maxconn(), self._old.any_master())
        down = self._down(on_disk, found.why, written)
        if not found.alive:
            return down
        last = self._seen or down
        changed = {"up": False, "alive": True, "socket_used_up": found.used_up}
        return msgspec.structs.replace(last, files=on_disk, error=found.why, written=written, **changed)

    def settled(self, observed: Observed) -> bool:
        """No worker exists that ``observed`` did not read: asked after the read, so none can have read older files."""
        known = {observed.pid, *(w.pid for w in observed.old_workers or ())}
        if (listed := self._old.listed()) is not None:
            return listed <= known
        return any(line == f"Pid: {observed.pid}" for line in self._admin.ask("show", "info"))

    def is_current(self, pid: int) -> bool:
        """The worker ``pid`` still serves; cheap. An HAProxy that does not answer has not got another one yet."""
        with contextlib.suppress(HAProxyError):
            return any(line == f"Pid: {pid}" for line in self._admin.ask("show", "info"))
        return True

    def streams(self, observed: Observed) -> list[Stream]:
        """Every request that any worker holds."""
        found = streams(self._admin, observed.pid)
        for worker in observed.old_workers or ():
            found += self._old.ask(worker.pid, streams) or []
        return found

    def perform(self, actions: Sequence[Action]) -> list[str]:
        """Do ``actions`` in their order: files, then workers. What failed comes back as sentences."""
        failed: list[str] = []
        for action in actions:
            if isinstance(action, WriteFile):
                path = Path(self._config.state_dir) / action.name
                try:
                    files.write(path, action.text)
                except OSError as error:
                    failed.append(f"{path}: {error.strerror or error}")
        if failed:  # a worker is never told what the files do not hold
            return failed
        here = [a for a in actions if not isinstance(a, WriteFile) and getattr(a, "pid", None) is None]
        try:
            if here:
                failed += perform(self._admin, self._config.seen_dir, here)
            for action in actions:
                if isinstance(action, ReplaceMap) and action.pid is not None:
                    failed += self._old.ask(action.pid, partial(self._tell, action=action)) or []
                elif isinstance(action, CutSessions) and action.old_workers:
                    # An old worker refuses to shut a server's sessions down; it ends streams one by one.
                    self._old.ask_each(partial(cut, ref=action.ref))
        except HAProxyError as error:
            failed.append(error.message)
        return failed

    def cut_streams(self, held: Sequence[Stream], current: int) -> None:
        """End these requests, whichever workers hold them; their clients see a 502. HAProxyError."""
        by_worker: dict[int, set[str]] = {}
        for stream in held:
            by_worker.setdefault(stream.pid, set()).add(stream.id)
        for pid, ids in by_worker.items():
            if pid == current:
                cut_ids(self._admin, pid, ids)
            else:
                self._old.ask(pid, partial(cut_ids, ids=ids))

    def _tell(self, channel: Channel, pid: int, action: ReplaceMap) -> list[str]:  # noqa: ARG002 asked like the others
        return perform(channel, self._config.seen_dir, [action])

    def reserve(self, want: dict[str, str]) -> None:
        """Take the room on disk that ``want`` needs, until :meth:`release`; OSError when there is not enough."""
        folder = Path(self._config.state_dir)
        state_folder.make(self._config)
        current = files.read_all(folder, FILES)
        text = "".join(t for name, t in want.items() if current.get(name) != t)
        files.write(folder / RESERVE, text)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            (Path(self._config.state_dir) / RESERVE).unlink(missing_ok=True)
