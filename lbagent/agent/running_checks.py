"""Servers whose health needs no proof when they come back: they were in drain all along, where checks go on."""

from __future__ import annotations

from lbagent.model.intent import Intent, Phase
from lbagent.model.observed import Observed
from lbagent.model.servers import Admin, Ref


class RunningChecks:
    """A busy server is not called down to prove its health, as that may end its requests (``on-marked-down``)."""

    def __init__(self) -> None:
        self._never_in_maint: set[Ref] = set()

    def need_no_proof(self, intent: Intent, observed: Observed) -> set[Ref]:
        """Servers on their way back that are busy, and that were not in maint since they were taken out."""
        held = intent.held()
        seen = {ref: server for ref in held if (server := observed.server(ref)) is not None}
        begun = {ref for ref, hold in held.items() if hold.drain.phase is Phase.HELD and ref in seen}
        self._never_in_maint |= {ref for ref in begun if seen[ref].admin is Admin.READY}
        self._never_in_maint &= {ref for ref, server in seen.items() if server.admin is not Admin.MAINT}
        busy = {ref for ref in self._never_in_maint if observed.sessions(ref)}
        return {ref for ref in busy if held[ref].drain.phase is Phase.RETURNING}
