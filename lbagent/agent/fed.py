"""Servers that are out of traffic and are given requests all the same: by stickiness that lbagent could not see."""

from __future__ import annotations

import time
from collections.abc import Callable

from lbagent.model.observed import Observed
from lbagent.model.servers import Admin, Ref

REMEMBERED = 3.0  # seconds after a request for which a server counts as given requests


class Fed:
    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last: dict[Ref, float] = {}

    def of(self, before: Observed, now: Observed) -> frozenset[Ref]:
        """Servers that got a request, between two looks at the same worker, while they were out of traffic."""
        moment = self._monotonic()
        if before.up and now.up and before.pid == now.pid:
            for backend in now.backends.values():
                for server in backend.servers.values():
                    earlier = before.server(server.ref)
                    out = server.admin is not Admin.READY and earlier is not None and earlier.admin is not Admin.READY
                    if out and earlier is not None and server.total > earlier.total:
                        self._last[server.ref] = moment
        self._last = {ref: seen for ref, seen in self._last.items() if moment - seen < REMEMBERED}
        return frozenset(self._last)
