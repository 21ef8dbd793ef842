"""What an operator asks for, as it comes over the control socket, and what is decided about it. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from lbagent.errors import LbagentError, overridable
from lbagent.model.intent import Intent, Mode
from lbagent.model.names import LONGEST_REASON
from lbagent.model.subject import Subject


class ServiceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: Mode


class NodeChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    state: Literal["ready", "drained"]
    services: list[str] = []


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/changes`` (DESIGN §6). Durations and times are text, as people write them."""

    services: dict[str, ServiceChange] = {}
    nodes: dict[str, NodeChange] = {}
    for_: str | None = msgspec.field(default=None, name="for")
    until: str | None = None
    at: str | None = None
    deadline: str | None = None
    timeout: str | None = None
    reason: str = ""
    kill: bool = False
    maint: bool = False
    last: Literal["refuse", "down"] = "refuse"
    force: bool = False  # override every rule that may refuse
    override: list[str] = []  # only these, by their error codes
    until_reload: bool = False  # accept a drain that HAProxy forgets at its next reload
    dry_run: bool = False
    local: bool = False  # this HAProxy alone
    if_revision: int | None = None

    @property
    def command(self) -> str:
        """lbctl's verb for it, ``change`` where it is several."""
        words = {c.mode.value for c in self.services.values()} | {
            "drain" if c.state == "drained" else "ready" for c in self.nodes.values()
        }
        return words.pop() if len(words) == 1 else "change"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The next intent, and what the command is about."""

    intent: Intent
    command: str  # drain, ready, down, read-only, up, change
    services: tuple[str, ...] = ()  # whose mode changes
    modes: dict[str, Mode] = {}  # what they are to be
    drains: tuple[Subject, ...] = ()  # what is drained
    returns: tuple[Subject, ...] = ()  # what comes back
    reopened: tuple[str, ...] = ()  # services whose servers come back from the maint that replaced their guard
    notes: tuple[str, ...] = ()
    deadline: int | None = None

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return (*(Subject("", name) for name in self.modes), *self.drains, *self.returns)


def parse(body: bytes) -> Change:
    """A change from JSON; LbagentError ``bad_request`` names the field."""
    try:
        change = msgspec.json.decode(body, type=Change)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LbagentError("bad_request", f"the request is not a change: {error}") from None
    if not change.services and not change.nodes:
        raise LbagentError("bad_request", "the change names no service and no node")
    if len(change.reason) > LONGEST_REASON:
        raise LbagentError(
            "bad_request", f"reason: it has {len(change.reason)} characters; at most {LONGEST_REASON} are allowed"
        )
    strange = [rule for rule in change.override if rule not in overridable()]
    if strange:
        known = ", ".join(overridable())
        raise LbagentError("bad_request", f"override: {', '.join(strange)} is no rule that can be set aside: {known}")
    if any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in change.reason):
        raise LbagentError("bad_request", "reason: it holds a control character; only newlines are allowed")
    return change
