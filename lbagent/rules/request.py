"""A change together with all that it is decided by. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lbagent.cluster.members import Elsewhere
from lbagent.errors import LbagentError
from lbagent.model import times
from lbagent.model.intent import Hold, Intent
from lbagent.model.observed import Observed
from lbagent.model.servers import Ref
from lbagent.rules.change import Change
from lbagent.settings.config import Config
from lbagent.topology.resolve import Service, Topology

DEFAULT_DEADLINE = "5m"
DEFAULT_TIMEOUT = "2m"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """``before`` is the intent that the change is made to: this HAProxy's own, or the one that several share."""

    config: Config
    topology: Topology
    observed: Observed
    before: Intent
    change: Change
    now: int
    by: str
    elsewhere: Elsewhere
    shared: bool  # ``before`` is the intent of several HAProxies
    deadline: int  # until when the command waits, seconds since 1970
    timeout: int  # until when health checks are waited for
    held: dict[Ref, Hold]  # servers that this HAProxy keeps out of traffic already

    @property
    def here(self) -> Intent:
        """What this HAProxy has in force."""
        return self.elsewhere.here if self.shared else self.before

    def service(self, name: str) -> Service:
        """A service that the configuration still has; LbagentError when it has not."""
        if name not in self.topology.services:
            raise LbagentError(
                "unknown_service",
                f"service {name} is no longer configured; what is in force stays, and `lbctl up {name}` ends it",
            )
        return self.topology.services[name]


def request(
    config: Config,
    topology: Topology,
    observed: Observed,
    intent: Intent,
    change: Change,
    now: float,
    by: str,
    elsewhere: Elsewhere | None = None,
) -> Request:
    """``elsewhere`` is what the other HAProxies report, where ``intent`` is the one that all of them share."""
    held = intent.held()
    moment = int(now)
    deadline = times.duration(DEFAULT_DEADLINE if change.deadline is None else change.deadline, "deadline")
    timeout = times.duration(DEFAULT_TIMEOUT if change.timeout is None else change.timeout, "timeout")
    return Request(
        config=config,
        topology=topology,
        observed=observed,
        before=intent,
        change=change,
        now=moment,
        by=by,
        elsewhere=elsewhere or Elsewhere(),
        shared=elsewhere is not None,
        deadline=moment + deadline,
        timeout=moment + timeout,
        held=elsewhere.here.held() | held if elsewhere else held,
    )


def unknown(kind: str, names: list[str], known: Iterable[str]) -> str:
    """The refusal of ``names``, with those that there are."""
    there = ", ".join(sorted(known)) or "none: is HAProxy up?"
    return f"no {kind} {', '.join(map(repr, names))}; there are: {there}"
