"""Every check of doctor's, in its order."""

from __future__ import annotations

from lbagent.doctor import etcd, files, frontends, guards, running, services
from lbagent.doctor.finding import Finding
from lbagent.haproxy.instance import HAProxy
from lbagent.settings.config import Config
from lbagent.topology.resolve import topology


def examine(config: Config, masterless: str | None = None) -> list[Finding]:
    """Every check, whatever the ones before it found.

    ``masterless`` is what the running agent says of the master socket; None where no agent answers.
    """
    balancer = HAProxy(config.haproxy)
    observed = balancer.observe()
    reading, findings = files.read_configuration(config)
    findings = [*running.runtime_socket(config, observed), *findings]
    if observed.up:
        known = topology(config, observed.backends)
        findings += guards.guards(config, observed, known, reading)
        findings += services.services(config, observed, known)
        findings += running.uploads(config, observed)
        findings += running.stickiness(observed, known)
        if reading is not None:
            findings += [frontends.public(name, service, reading.routes) for name, service in known.services.items()]
    if reading is not None:
        findings += files.settings(config, reading)
    if observed.up:
        findings.append(running.master(config, observed, masterless))
    return [*findings, *files.state_dir(config), *etcd.etcd(config)]
