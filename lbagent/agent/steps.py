"""A step of the plan in words, for dry runs and the log."""

from __future__ import annotations

from lbagent.model.actions import Action


def describe(action: Action) -> str:
    name = type(action).__name__
    match action:
        case _ if hasattr(action, "ref"):
            detail = " ".join(str(getattr(action, f)) for f in action.__struct_fields__)
        case _ if hasattr(action, "name"):
            detail = str(action.name)
        case _:
            detail = f"worker {action.pid}" if getattr(action, "pid", None) else ""
    return f"{name} {detail}".strip()
