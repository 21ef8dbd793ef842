"""Servers: their names, administrative states and health, as HAProxy has them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from lbagent.model.names import Name


class NodeState(StrEnum):
    """What a node's servers do."""

    READY = "ready"
    DRAINING = "draining"
    DRAINED = "drained"


class Admin(StrEnum):
    """A server's administrative state, reduced from HAProxy's mask of seven bits."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class Health(StrEnum):
    """What HAProxy's checks say of a server; ``NONE`` where there is no check."""

    UP = "up"
    DOWN = "down"
    NONE = "none"


class Ref(msgspec.Struct, frozen=True, order=True):
    """A server, named as HAProxy names it: ``backend/server``."""

    backend: Name
    server: Name

    def __str__(self) -> str:
        return f"{self.backend}/{self.server}"


FORCED_MAINT, CONFIGURED, FORCED_DRAIN = 1, 4, 8
"""Bits of ``srv_admin_state``. A server that is ``disabled`` in the configuration has the first two; when somebody
enables it at run time the first goes and the second stays (measured on 2.6)."""

MAINT_BITS = 1 | 2 | 32  # forced, inherited, by resolution
DRAIN_BITS = 8 | 16  # forced, inherited
