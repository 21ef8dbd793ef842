"""What can go wrong, once: the machine's code, the HTTP status and lbctl's exit code of every refusal.

A code answers "what do I do about it", so errors are told apart by who has to act, not by where they arose.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of lbctl (DESIGN: part of the contract, scripts depend on them)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    DEADLINE = 4
    NO_AGENT = 5
    NOT_PERMITTED = 6
    NOT_YET_IN_FORCE = 7


CODES: dict[str, tuple[int, Exit]] = {
    # code: (HTTP status, exit code)
    "bad_request": (400, Exit.USAGE),
    "unknown_service": (404, Exit.USAGE),
    "unknown_node": (404, Exit.USAGE),
    "not_found": (404, Exit.USAGE),
    "method_not_allowed": (405, Exit.USAGE),
    "too_large": (413, Exit.USAGE),
    "forbidden": (403, Exit.NOT_PERMITTED),
    "last_server": (409, Exit.REFUSED),
    "max_unavailable": (409, Exit.REFUSED),
    "agent_alive": (409, Exit.REFUSED),
    "tcp_backend": (409, Exit.REFUSED),
    "guard_missing": (409, Exit.REFUSED),
    "revision": (409, Exit.REFUSED),
    "window_open": (409, Exit.REFUSED),
    "intent_unreadable": (503, Exit.FAILED),
    "store": (503, Exit.FAILED),
    "haproxy": (503, Exit.FAILED),
    "internal": (500, Exit.FAILED),
}


class LbagentError(Exception):
    """A failure with a sentence for a person: what is wrong, with which thing, and what to do about it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        return CODES[self.code][0]

    @property
    def exit(self) -> Exit:
        return CODES[self.code][1]


class HAProxyError(LbagentError):
    """HAProxy refused a command or answered something that makes no sense; the command is named."""

    def __init__(self, message: str) -> None:
        super().__init__("haproxy", message)


class HAProxyDown(HAProxyError):
    """No HAProxy answers on its runtime socket."""


class StoreError(LbagentError):
    """The intent could not be read or written; nothing was changed."""

    def __init__(self, message: str) -> None:
        super().__init__("store", message)


class Conflict(LbagentError):
    """The intent was changed by somebody else since it was read."""

    def __init__(self, message: str) -> None:
        super().__init__("revision", message)
