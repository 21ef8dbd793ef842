"""The requests that a worker holds, and an end to them. Blocking. Source: ``show sess all``, management guide 9.3."""

from __future__ import annotations

import re
from collections.abc import Set

from lbagent.errors import HAProxyDown
from lbagent.haproxy.channel import Channel
from lbagent.model.observed import Stream
from lbagent.model.servers import Ref

REFUSED = "applet=<lua.lbagent_upload>"  # in `show sess all`: haproxy/upload.lua has it


READABLE = re.compile(r"[0-9]{1,3}")  # a method, as a number


def streams(channel: Channel, pid: int) -> list[Stream]:
    """Every request that the worker ``pid`` holds (``show sess all``); one only half received is not there yet.

    Without those that the guard has refused and whose body it is throwing away: no server will see them.

    HAProxyDown when another worker answers: a reload has changed who listens on the socket.
    """
    found: list[dict[str, str]] = []
    rows = channel.ask_at_once(("show", "info"), ("show", "sess", "all"))
    if f"Pid: {pid}" not in rows:
        raise HAProxyDown(f"another worker than {pid} answers")
    for row in rows:
        fields = row.split()
        if row.startswith("0x"):
            unique = next((f[3:] for f in fields if f.startswith("id=")), "")
            moment = row[row.find("[") : row.find("]") + 1]
            found.append({"pointer": fields[0].rstrip(":"), "id": f"{unique}{moment}"})
        elif found and fields:
            key, equals, value = fields[0].partition("=")
            if equals and key in {"backend", "frontend", "server"}:
                found[-1].setdefault(key, value)
            if key == "frontend":
                address = next((f[5:] for f in fields if f.startswith("addr=")), "")
                found[-1].setdefault("address", address.rpartition(":")[0])
            method = next((f[5:] for f in fields if f.startswith("meth=")), "")
            if key == "txn" and READABLE.fullmatch(method):  # one that cannot be read counts as a write: -1 below
                found[-1].setdefault("method", method)
            if key == "txn" and "status=101" in fields:
                found[-1]["upgraded"] = row
            if REFUSED in fields:
                found[-1]["refused"] = row
    return [
        Stream(
            pid=pid,
            id=row["id"],
            backend=row.get("backend", ""),
            frontend=row.get("frontend", ""),
            method=int(row.get("method", "-1")),
            server=row.get("server", ""),
            pointer=row["pointer"],
            address=row.get("address", ""),
            upgraded="upgraded" in row,
        )
        for row in found
        if "refused" not in row
    ]


def cut(channel: Channel, pid: int, ref: Ref) -> None:
    """End what the worker ``pid`` holds for a server, one by one: an old worker refuses to shut its sessions down."""
    mine = [s for s in streams(channel, pid) if (s.backend, s.server) == (ref.backend, ref.server)]
    channel.ask_all([("shutdown", "session", stream.pointer) for stream in mine])


def cut_ids(channel: Channel, pid: int, ids: Set[str]) -> None:
    """End the requests with these ids. They are listed anew for it: the pointer of one that has ended is used again."""
    mine = [s for s in streams(channel, pid) if s.id in ids]
    channel.ask_all([("shutdown", "session", stream.pointer) for stream in mine])
