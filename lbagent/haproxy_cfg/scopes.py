"""Whether modes can be kept to a service's `frontends`: a scope that matches nothing closes nothing. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lbagent.haproxy_cfg import binds
from lbagent.model.written import FrontendWritten, Written


def scope_problems(
    scopes: Sequence[str], backends: Sequence[str], written: Written | None, running: Collection[str] | None = None
) -> list[str]:
    """Why modes of ``backends`` cannot be restricted to ``scopes`` (``name`` or ``name@address``); empty when they can.

    ``written`` is what HAProxy's configuration says; None where that cannot be read: then no scope can be judged.
    ``running`` are the frontends of the running HAProxy; None where it is down.
    """
    if not scopes:
        return []
    if written is None:
        return [
            f"{', '.join(scopes)}: HAProxy's configuration cannot be read, so nobody can tell what listens there; let "
            "lbagent's user read the files in haproxy.config"
        ]
    problems = [problem for scope in scopes if (problem := _problem(scope, written))]
    names = dict.fromkeys(scope.partition("@")[0] for scope in scopes)
    if not problems and running is not None:
        problems = [f"{name}: HAProxy runs no frontend {name} yet: reload it" for name in names if name not in running]
    named = [written.frontends[name] for name in names if name in written.frontends]
    if not problems and backends and not any(_leads(frontend, backends) for frontend in named):
        problems.append(f"{', '.join(scopes)}: none of these frontends leads to {', '.join(backends)}")
    return problems


def _leads(frontend: FrontendWritten, backends: Sequence[str]) -> bool:
    return frontend.dynamic or not set(frontend.backends).isdisjoint(backends)


def _problem(scope: str, written: Written) -> str | None:
    name, at, address = scope.partition("@")
    if name not in written.frontends:
        return f"{scope}: HAProxy's configuration has no frontend {name}"
    if not at:
        return None
    places = [bind for words in written.frontends[name].binds for bind in binds.read(words)]
    heard = binds.listens_on(places, address)
    if heard:
        return None
    listed = ", ".join(bind.written for bind in places) or "nothing"
    if heard is None:
        return f"{scope}: cannot tell whether {name} listens on {address}, it binds {listed}: write the address there"
    return f"{scope}: {name} does not listen on {address}, it binds {listed}"
