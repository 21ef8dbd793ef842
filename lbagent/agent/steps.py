"""A step of the plan in words, for dry runs and the log."""

from __future__ import annotations

from lbagent.model.actions import (
    Action,
    CutSessions,
    ProveHealth,
    ReplaceList,
    ReplaceMap,
    SetAdmin,
    SetAgentCheck,
    WriteFile,
)


def describe(action: Action) -> str:
    match action:
        case WriteFile(name=name):
            return f"write {name}"
        case ReplaceMap(pid=None):
            return "replace the guard's map in HAProxy"
        case ReplaceMap(pid=pid):
            return f"replace the guard's map in old worker {pid}"
        case ReplaceList(name=name):
            return f"replace {name} in HAProxy"
        case SetAdmin(ref=ref, admin=admin):
            return f"put {ref} in {admin}"
        case ProveHealth(ref=ref):
            return f"put {ref} in drain and have its health checks begin afresh"
        case SetAgentCheck(ref=ref, on=on):
            return f"{'enable' if on else 'disable'} the agent check of {ref}"
        case CutSessions(ref=ref):
            return f"cut the requests that are open on {ref}"
