"""Doctor on frontends: which ones a mode could be restricted to."""

from __future__ import annotations

from lbagent.doctor.finding import Finding
from lbagent.haproxy_cfg.routes import Route
from lbagent.settings import deployers
from lbagent.topology.resolve import Service


def public(name: str, service: Service, routes: tuple[Route, ...]) -> Finding:
    """Which frontends a mode could be restricted to, so that internal traffic stays open."""
    if service.config.frontends:
        return Finding("ok", "frontends", f"{name}: modes concern {', '.join(service.config.frontends)} only")
    reached = [r for r in routes if set(r.backends) & set(service.http)]
    public = [r.frontend for r in reached if deployers.is_public(r.frontend)]
    inside = [r.frontend for r in reached if not deployers.is_public(r.frontend)]
    binds = list(dict.fromkeys(bind[0] for r in reached for bind in r.binds))
    if public and inside:
        mend = f"to leave {', '.join(inside)} open: services: {{{name}: {{frontends: [{', '.join(public)}]}}}}"
        return Finding(
            "note", "frontends", f"{name}: modes concern every frontend; public by name: {', '.join(public)}", mend
        )
    if len(reached) == 1 and len(binds) > 1:
        at = f"{reached[0].frontend}@ADDRESS"
        mend = f'to leave the internal one open: services: {{{name}: {{frontends: ["{at}"]}}}}, with the public address'
        return Finding("note", "frontends", f"{name}: cannot tell which of {', '.join(binds)} is public", mend)
    if any(r.dynamic for r in routes) and not reached:
        return Finding("note", "frontends", f"{name}: routed by a map, cannot tell which frontends lead there")
    return Finding("note", "frontends", f"{name}: cannot tell a public from an internal frontend; modes concern all")
