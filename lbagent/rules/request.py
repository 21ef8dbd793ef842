"""A change together with all that it is decided by. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from lbagent.cluster.members import Elsewhere
from lbagent.errors import LbagentError
from lbagent.model import times
from lbagent.model.intent import Hold, Intent, Phase
from lbagent.model.observed import Observed
from lbagent.model.servers import Ref
from lbagent.rules.change import Change
from lbagent.settings.config import Config
from lbagent.topology.resolve import Service, Topology

DEFAULT_DEADLINE = "5m"
DEFAULT_TIMEOUT = "2m"


class Site(msgspec.Struct, frozen=True):
    """The HAProxy at which a command is given: its configuration, and what runs there."""

    config: Config
    topology: Topology
    observed: Observed


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
    deadline: int  # until when the command waits, by the steady clock
    timeout: int  # until when health checks are waited for
    held: dict[Ref, Hold]  # servers that this HAProxy keeps out of traffic already

    @property
    def here(self) -> Intent:
        """What this HAProxy has in force."""
        return self.elsewhere.here if self.shared else self.before

    def overrides(self, rule: str) -> bool:
        """The operator has said that ``rule``, an error's code, does not hold this time."""
        return self.change.force or rule in self.change.override

    def newly_held(self, after: Intent) -> set[Ref]:
        """Servers that ``after`` takes out of traffic, and that were not out before."""
        out = {ref for ref, hold in self.before.held().items() if hold.drain.phase is not Phase.RELEASED}
        return {ref for ref, hold in after.held().items() if hold.drain.phase is Phase.HELD} - out

    def service(self, name: str) -> Service:
        """A service that the configuration still has; LbagentError when it has not."""
        if name not in self.topology.services:
            raise LbagentError(
                "unknown_service",
                f"service {name} is no longer configured; what is in force stays, and `lbctl up {name}` ends it",
            )
        return self.topology.services[name]


def request(
    site: Site,
    intent: Intent,
    change: Change,
    now: float,
    by: str,
    elsewhere: Elsewhere | None = None,
    steady: float | None = None,
) -> Request:
    """``steady`` is the time that deadlines are by, ``now`` the one that windows are by.

    ``elsewhere`` is what the other HAProxies report, where ``intent`` is the one that all of them share."""
    held = intent.held()
    moment = int(now)
    waits = moment if steady is None else math.ceil(steady)  # a deadline may be late, never early
    deadline = times.duration(DEFAULT_DEADLINE if change.deadline is None else change.deadline, "deadline")
    timeout = times.duration(DEFAULT_TIMEOUT if change.timeout is None else change.timeout, "timeout")
    return Request(
        config=site.config,
        topology=site.topology,
        observed=site.observed,
        before=intent,
        change=change,
        now=moment,
        by=by,
        elsewhere=elsewhere or Elsewhere(),
        shared=elsewhere is not None,
        deadline=waits + deadline,
        timeout=waits + timeout,
        held=elsewhere.here.held() | held if elsewhere else held,
    )


def unknown(kind: str, names: list[str], known: Iterable[str]) -> str:
    """The refusal of ``names``, with those that there are."""
    there = ", ".join(sorted(known)) or "none: is HAProxy up?"
    return f"no {kind} {', '.join(map(repr, names))}; there are: {there}"
