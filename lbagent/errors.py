"""What can go wrong, once: the machine's code, the HTTP status and lbctl's exit code of every refusal.

A code answers "what do I do about it", so errors are told apart by who has to act, not by where they arose.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Exit(IntEnum):
    """Exit codes of lbctl, part of the contract: scripts depend on them. ``meaning`` is shown in help and manual."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Exit:
        made = int.__new__(cls, value)
        made._value_, made.meaning = value, meaning
        return made

    DONE = 0, "done"
    FAILED = 1, "failed"
    USAGE = 2, "wrong usage"
    REFUSED = 3, "refused, to protect a service"
    DEADLINE = 4, "the deadline passed, something is still open; the change stays in force"
    NO_AGENT = 5, "no agent answers"
    NOT_PERMITTED = 6, "not permitted"
    NOT_YET_IN_FORCE = 7, "accepted and stored, not yet in force everywhere: an HAProxy is down or away"


class Code(NamedTuple):
    """What an error code means: the HTTP status, lbctl's exit code, a sentence for the manual."""

    status: int
    exit: Exit
    meaning: str
    overridable: bool = False  # a rule that `--force`, or `--override` with its code, sets aside


CODES: dict[str, Code] = {
    "bad_request": Code(400, Exit.USAGE, "A field of the request is wrong. The message names it."),
    "unknown_service": Code(404, Exit.USAGE, "There is no service of this name. The message lists the services."),
    "unknown_node": Code(404, Exit.USAGE, "There is no node of this name. The message lists the nodes."),
    "not_found": Code(404, Exit.USAGE, "There is no such path, or no such operation."),
    "method_not_allowed": Code(405, Exit.USAGE, "The path does not have this method."),
    "too_large": Code(413, Exit.USAGE, "The request is too large."),
    "forbidden": Code(403, Exit.NOT_PERMITTED, "`control.admins` and `control.viewers` do not name this user."),
    "last_server": Code(409, Exit.REFUSED, "A service would be left without the ready servers that it needs.", True),
    "max_unavailable": Code(
        409, Exit.REFUSED, "More nodes would be drained together than `max_unavailable` allows.", True
    ),
    "agent_alive": Code(409, Exit.REFUSED, "The agent that should be forgotten is running."),
    "tcp_backend": Code(409, Exit.REFUSED, "A backend is in `mode tcp`: it can be drained, but not closed.", True),
    "not_kept": Code(409, Exit.REFUSED, "HAProxy would forget the drain at its next reload.", True),
    "guard_missing": Code(409, Exit.REFUSED, "HAProxy's configuration lacks the guard, a backend or a frontend."),
    "scope": Code(409, Exit.REFUSED, "`frontends` of a service names nothing that HAProxy listens on."),
    "revision": Code(409, Exit.REFUSED, "Somebody changed the intent after the revision in `if_revision`."),
    "window_open": Code(409, Exit.REFUSED, "The service is closed now, so a later start would open it until then."),
    "intent_unreadable": Code(503, Exit.FAILED, "The intent is damaged, and HAProxy holds no copy of it."),
    "store": Code(503, Exit.FAILED, "The intent could not be read or stored. Nothing was changed."),
    "haproxy": Code(503, Exit.FAILED, "HAProxy refused a command, or does not answer."),
    "internal": Code(500, Exit.FAILED, "lbagent has a defect. Its log has the details."),
}


def overridable() -> list[str]:
    """The codes of the rules that an operator can set aside."""
    return [name for name, code in CODES.items() if code.overridable]


class LbagentError(Exception):
    """A failure with a sentence for a person: what is wrong, with which thing, and what to do about it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        return CODES[self.code].status

    @property
    def exit(self) -> Exit:
        return CODES[self.code].exit


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
