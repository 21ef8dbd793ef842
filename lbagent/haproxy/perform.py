"""Actions, carried out in a worker. Blocking."""

from __future__ import annotations

from collections.abc import Sequence

from lbagent.errors import HAProxyDown, HAProxyError
from lbagent.guard import file_names
from lbagent.haproxy.channel import Channel, Command
from lbagent.model.actions import Action, CutSessions, ProveHealth, ReplaceList, ReplaceMap, SetAdmin, SetAgentCheck
from lbagent.model.servers import Admin


def perform(channel: Channel, seen_dir: str, actions: Sequence[Action]) -> list[str]:
    """Do the actions that concern a worker; what failed comes back as sentences, the rest is done."""
    failed: list[str] = []
    simple: list[Command] = []
    for action in actions:
        try:
            if isinstance(action, ReplaceMap):
                rows = [f"{key} {value}" for key, value in action.entries]
                replace(channel, "map", f"{seen_dir}/{file_names.MAP}", rows)
            elif isinstance(action, ReplaceList):
                replace(channel, "acl", f"{seen_dir}/{action.name}", action.patterns)
            else:
                simple += _commands(action)
        except HAProxyDown:
            raise
        except HAProxyError as error:
            failed.append(error.message)
    for command, answer in zip(simple, channel.ask_all(simple), strict=True):
        if text := " ".join(answer):
            failed.append(f"`{' '.join(command)}`: {text}")
    return failed


def _commands(action: Action) -> list[Command]:
    match action:
        case SetAdmin(ref, state):
            return [("set", "server", str(ref), "state", state)]
        case ProveHealth(ref):
            server = ("set", "server", str(ref))
            return [(*server, "state", Admin.DRAIN), (*server, "health", "down")]
        case SetAgentCheck(ref, on):
            return [("enable" if on else "disable", "agent", str(ref))]
        case CutSessions(ref=ref):
            return [("shutdown", "sessions", "server", str(ref))]
        case _:
            raise TypeError(f"not an action of HAProxy's: {action!r}")


def replace(channel: Channel, kind: str, path: str, rows: Sequence[str]) -> None:
    """Replace a map or an ACL file of a worker, atomically: prepare, add, count, commit.

    HAProxyError leaves the old content in force. An abandoned version is dropped by the next commit.
    """
    answer = " ".join(channel.ask("prepare", kind, path))
    version = answer.rpartition(" ")[2]
    if not version.isdigit():
        raise HAProxyError(f"`prepare {kind} {path}`: {answer}")
    if kind == "acl":  # takes no payload: one command a pattern
        commands: list[Command] = [("add", "acl", f"@{version}", path, row) for row in rows]
        for command, text in zip(commands, channel.ask_all(commands), strict=True):
            if text:
                raise HAProxyError(f"`{' '.join(command)}`: {' '.join(text)}")
    else:
        channel.put(("add", "map", f"@{version}", path), rows)
    held = [line for line in channel.ask("show", kind, f"@{version}", path) if line.startswith("0x")]
    if len(held) != len(rows):
        raise HAProxyError(f"{path}: HAProxy took {len(held)} of {len(rows)} entries, nothing was changed")
    channel.do("commit", kind, f"@{version}", path)
