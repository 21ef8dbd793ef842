"""Which sections adopt touches: those that get the guard, those that get no more than the drains' line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lbagent.haproxy_cfg.parse import Section
from lbagent.settings.config import Config
from lbagent.settings.fields import NAME
from lbagent.topology import discovery, resolve


@dataclass(slots=True)
class Wanted:
    """What adopt works on, and what it tells of the rest."""

    service_of: dict[str, str]  # backend → the service that owns it
    guarded: list[Section] = field(default_factory=list)
    drained: list[Section] = field(default_factory=list)  # mode tcp: nothing to answer, drains to keep
    notes: list[str] = field(default_factory=list)  # what stays as it is, and why
    problems: list[str] = field(default_factory=list)  # configured backends that are in none of the files


def wanted(sections: Sequence[Section], config: Config) -> Wanted:
    """Every backend that has servers: http ones of a service get the guard, tcp ones the line that keeps drains."""
    backends = [section for section in sections if section.kind in ("backend", "listen")]
    out = Wanted(services_of(backends, config))
    for section in backends:
        if section.name in out.service_of or section.has_servers:
            _sort_in(section, out, config)
    _missing(sections, backends, out)
    if not config.services and not out.guarded and not out.drained:
        out.notes.append("no backend has servers: nothing to guard")
    return out


def services_of(backends: Sequence[Section], config: Config) -> dict[str, str]:
    """Backend → the service that owns it, as the agent will see it once HAProxy runs these sections."""
    http = [section.name for section in backends if can_be_guarded(section) and section.has_servers]
    found = resolve.services(config, discovery.services(http) if config.discover else {})
    return {backend: name for name, service in found.items() for backend in service.backends or ()}


def can_be_guarded(section: Section) -> bool:
    return section.mode == "http" and not section.disabled and NAME.fullmatch(section.name) is not None


def _sort_in(section: Section, out: Wanted, config: Config) -> None:
    owner = out.service_of.get(section.name)
    whose = f"service {owner}: " if owner else ""
    if section.disabled:
        out.notes.append(f"{whose}{section.name} is disabled: left alone")
    elif not NAME.fullmatch(section.name):
        out.notes.append(f"{section.name!r} is not a name that lbagent can work with: left alone")
    elif section.mode != "http":
        if owner or config.discover:
            out.drained.append(section)
        listed = "" if owner else "; a drain leaves it in traffic until a service lists it"
        out.notes.append(
            f"{whose}{section.name} is in mode {section.mode}: it can only be drained, so it gets no guard{listed}"
        )
    elif owner:
        out.guarded.append(section)
    elif config.discover:
        out.notes.append(f"{section.name} belongs to no service of the configuration, so it gets no guard")


def _missing(sections: Sequence[Section], backends: Sequence[Section], out: Wanted) -> None:
    there = {section.name for section in backends}
    frontends = {section.name for section in sections if section.kind == "frontend"}
    for name, service in out.service_of.items():
        if name not in there:
            only = "; it is a frontend: name the backends that it leads to" if name in frontends else ""
            out.problems.append(f"service {service}: there is no backend {name} in these files{only}")
