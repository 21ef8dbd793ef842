"""The intent that this HAProxy lives by, and the file that keeps it beside HAProxy.

Nothing opens because something was lost. HAProxy's map carries a copy of the intent, in the running worker and in the
file that HAProxy starts from. At its start the agent compares the three. It takes the newest, and where the stored one
is missing, damaged or older it is rebuilt from the copy. Where there is neither, the agent touches nothing and says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from lbagent.errors import LbagentError, StoreError
from lbagent.guard import file_names, guard_map, intent_copy
from lbagent.model.intent import Intent
from lbagent.model.observed import Observed
from lbagent.store.codec import Damaged
from lbagent.store.protocol import Store

log = logging.getLogger(__name__)


class OwnIntent:
    """``lock`` is held by whoever looks at HAProxy and decides by it: one tick or one command at a time.

    Where the intent is shared there is a second lock, around what is asked of etcd. Whoever needs both takes that one
    first (:class:`lbagent.agent.member.Member`), so the two cannot wait for each other.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lock = asyncio.Lock()
        self.intent = Intent()
        self.known = False  # it was read or rebuilt; until then nothing is touched
        self.trouble = ""  # why it is not known
        self.may_begin: Callable[[], bool] = lambda: True  # where the intent is shared: etcd was read
        self.stuck = ""  # why it cannot move on: the store does not take it

    async def learn(self, observed: Observed) -> None:
        """Read the intent, or rebuild it from what HAProxy and its files hold."""
        try:
            stored, damaged = await self._store.read(), False
            why = "" if stored else "no intent is stored"
        except Damaged as error:
            stored, damaged, why = None, True, error.message
        copy = _copy_in_haproxy(observed)
        if stored is not None and (copy is None or copy.revision <= stored.revision):
            self.intent, self.known, self.trouble = stored, True, ""
        elif copy is not None:
            if stored is not None:
                why = f"the stored intent is revision {stored.revision}, HAProxy holds {copy.revision}"
            if copy.revision or stored is not None or damaged:
                log.warning("%s: rebuilt from what HAProxy holds", why)
                copy = await self._store.swap(stored.revision if stored else copy.revision, copy)
            self.intent, self.known, self.trouble = copy, True, ""
        elif not damaged and _first_start(observed) and self.may_begin():
            log.info("first start: the files that HAProxy loads are laid down")
            self.known, self.trouble = True, ""
        else:
            self.trouble = f"{why}, and HAProxy and its files hold none: nothing is touched until HAProxy answers"

    def require(self) -> None:
        """LbagentError while the intent is not known."""
        if not self.known:
            raise LbagentError("intent_unreadable", self.trouble)

    async def replace(self, intent: Intent) -> None:
        """Store ``intent`` and live by it from now on. StoreError, Conflict: then the old one stays."""
        self.intent = await self._store.swap(self.intent.revision, intent)

    async def move_on(self, intent: Intent) -> None:
        """As :meth:`replace`, for a step that no command asked for: one that cannot be stored is tried again."""
        if intent == self.intent:
            self.stuck = ""
            return
        try:
            await self.replace(intent)
        except StoreError as error:
            if self.stuck != error.message:
                log.error("%s", error.message)
            self.stuck = error.message
        else:
            self.stuck = ""


def _first_start(observed: Observed) -> bool:
    """None of HAProxy's files is there. Deployers put the guard in place before the agent has ever run."""
    return all("/" in name for name in observed.files)  # keepalived's file is named by its path


def _copy_in_haproxy(observed: Observed) -> Intent | None:
    """The newest intent that the running map or its file carries; None when neither can be read."""
    sources = []
    if observed.up and observed.table is not None:
        sources.append(observed.table)
    if file_names.MAP in observed.files:
        sources.append(guard_map.parse_map_text(observed.files[file_names.MAP]))
    if observed.up and not sources:
        return Intent()  # nothing was ever guarded here: nothing is in maintenance
    found = []
    for source in sources:
        try:
            found.append(intent_copy.intent_from(source))
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("a copy of the intent in HAProxy's map cannot be read: %s", error)
    return max(found, key=lambda intent: intent.revision, default=None)
