"""Doctor on services and nodes: what is known, and why."""

from __future__ import annotations

from lbagent.doctor.finding import Finding
from lbagent.model.observed import Observed
from lbagent.settings import deployers
from lbagent.settings.config import Config
from lbagent.topology.resolve import Topology


def services(config: Config, observed: Observed, known: Topology) -> list[Finding]:
    findings = []
    if not known.services:
        findings.append(Finding("warning", "services", "none: no http backend has servers"))
    for name, service in known.services.items():
        configured = name in config.services and bool(config.services[name].backends)
        why = (
            "configured"
            if configured
            else "discovered, " + "; ".join(dict.fromkeys(deployers.service_of(b)[1] for b in service.http))
        )
        preset = f"preset {service.config.preset}"
        findings.append(Finding("ok", "service", f"{name} ({why}): {', '.join(service.backends)}; {preset}"))
    findings += nodes(known)
    for name, service in known.services.items():
        if service.missing:
            mend = f"mend $.services.{name}.backends, or HAProxy's configuration"
            findings.append(
                Finding("wrong", "services", f"{name}: HAProxy has no backend {', '.join(service.missing)}", mend)
            )
        absent = [f for f in service.config.frontends if f.partition("@")[0] not in observed.frontends]
        if absent:
            mend = f"mend $.services.{name}.frontends"
            findings.append(Finding("wrong", "services", f"{name}: HAProxy has no frontend {', '.join(absent)}", mend))
        if service.tcp:
            findings.append(
                Finding(
                    "note", "services", f"{name}: backends in mode tcp can only be drained: {', '.join(service.tcp)}"
                )
            )
    if known.unowned:
        mend = "no mode and no drain applies to them; list them under a service if one should"
        found = f"http backends that no service owns: {', '.join(known.unowned)}"
        findings.append(Finding("note", "services", found, mend))
    return findings


def nodes(known: Topology) -> list[Finding]:
    """Every node, what says that its servers are on one machine, and what a drain of it leaves in traffic."""
    findings = []
    for node, refs in known.nodes.items():
        there = ", ".join(dict.fromkeys(ref.server for ref in refs))
        findings.append(Finding("ok", "node", f"{node} ({known.why[node]}): {len(refs)} servers: {there}"))
        if left := known.stays.get(node):
            mend = "`lbctl drain` leaves them in traffic; list their backends under a service if it should not"
            found = f"{node}: servers that belong to no service: {', '.join(map(str, left))}"
            findings.append(Finding("note", "node", found, mend))
    if not known.nodes:
        findings.append(Finding("warning", "nodes", "none: no service has a server"))
    if known.nodeless:
        mend = "list them under a node in the configuration, or take the node's own list of servers out"
        found = f"servers on no node: {', '.join(map(str, known.nodeless))}"
        findings.append(Finding("warning", "nodes", found, mend))
    return findings
