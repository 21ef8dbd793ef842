"""A light stand-in for many HAProxies: one process, a runtime socket for each, for tests/measure/scale.py.

Of the runtime API it answers what an agent asks: ``show info``, ``stat``, ``servers state``, ``map``, ``acl``,
``table``, ``sess``; maps and lists with their prepared versions; ``set server``. It holds no traffic and no worker but
its own; a server whose checks were made to begin afresh passes them ``RISES`` seconds later, sooner than any real one.

``truth.sock`` tells what every one of them holds, and since when, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lbagent.guard.cfg_lines import marker
from lbagent.guard.file_names import LISTS, MAP
from lbagent.model.servers import FORCED_DRAIN, FORCED_MAINT

RISES = 0.1  # seconds
ADMIN = {"ready": 0, "drain": FORCED_DRAIN, "maint": FORCED_MAINT}
STATE = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)


class Server:
    def __init__(self) -> None:
        self.mask, self._up, self._rises = 0, True, 0.0

    def state(self, word: str) -> None:
        self._up = word != "maint" and (self._up or bool(self.mask & FORCED_MAINT))
        self.mask = ADMIN[word]

    def fail(self) -> None:
        self._up, self._rises = False, time.monotonic() + RISES

    @property
    def op(self) -> int:
        if not self._up and not self.mask & FORCED_MAINT and time.monotonic() >= self._rises:
            self._up = True
        return 2 if self._up else 0


class StandIn:
    """One HAProxy; ``busy``: its figures change all the time, as those of one with clients do."""

    def __init__(self, number: int, services: list[str], nodes: list[str]) -> None:
        self.pid, self.services, self.nodes = 100_000 + number, services, nodes
        self.servers = {f"{service}/{node}": Server() for service in services for node in nodes}
        self.held: dict[str, list[str]] = {name: [] for name in (MAP, *LISTS)}
        self.prepared: dict[tuple[str, int], list[str]] = {}
        self.versions = 0
        self.moved: dict[str, float] = {}  # service or backend/server → when it was closed, opened, taken out, put back
        self.busy = False
        self._calls: list[tuple[re.Pattern[str], Callable[..., list[str]]]] = [
            (re.compile(pattern, re.DOTALL), call)
            for pattern, call in (
                (r"show info", self._info),
                (r"show servers state", self._state),
                (r"show stat\b.*", self._stat),
                (r"show table|show sess all", list),
                (r"show acl", self._acls),
                (r"show acl #(\d+)", self._acl),
                (r"show (?:map|acl) (?:@(\d+) )?(\S+)", self._show),
                (r"prepare (?:map|acl) (\S+)", self._prepare),
                (r"add map @(\d+) (\S+) <<\n(.*)", self._add_map),
                (r"add acl @(\d+) (\S+) (.*)", self._add_acl),
                (r"commit (?:map|acl) @(\d+) (\S+)", self._commit),
                (r"set server (\S+) (state|health) (\S+)", self._set),
            )
        ]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode().rstrip("\n")
        if line.endswith("<<"):
            line += "\n" + (await reader.readuntil(b"\n\n")).decode().rstrip("\n")
            commands = [line]
        else:
            commands = [c.strip() for c in re.split(r"(?<!\\);", line)]
        answer = "".join("".join(f"{row}\n" for row in self.run(command)) + "\n" for command in commands)
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    def run(self, command: str) -> list[str]:
        for pattern, call in self._calls:
            if found := pattern.fullmatch(command):
                return call(*found.groups())
        return [f"Unknown command: {command!r}"]

    # ------------------------------------------------------------------------------------------ answers

    def _info(self) -> list[str]:
        return ["Name: HAProxy", "Version: 2.6.12", "Process_num: 1", f"Pid: {self.pid}"]

    def _state(self) -> list[str]:
        rows = ["1", STATE]
        for number, (ref, server) in enumerate(self.servers.items(), 1):
            backend, name = ref.split("/")
            rows.append(
                f"3 {backend} {number} {name} 10.0.0.1 {server.op} {server.mask} 1 1 60 6 3 4 6 0 0 0 - 80 - 0 0 - - 0"
            )
        return rows

    def _stat(self) -> list[str]:
        rows = ["# pxname,svname,qcur,scur,bck,tracked,mode,cookie,"]
        for service in self.services:
            rows.append(f"{service}_public,FRONTEND,,{self._figure(service)},,,http,,")
            for node in self.nodes:
                busy = 0 if self.servers[f"{service}/{node}"].mask else self._figure(node)
                rows.append(f"{service},{node},0,{busy},0,,http,,")
            rows.append(f"{service},BACKEND,0,0,0,,http,,")
        return rows

    def _figure(self, name: str) -> int:
        return 1 + (int(time.monotonic() * 50) * len(name) + self.pid) % 7 if self.busy else 0

    def _acls(self) -> list[str]:
        return [f"{n} () acl 'str' file 'haproxy.cfg' line {n}" for n, _ in enumerate(self.services)]

    def _acl(self, number: str) -> list[str]:
        return [f"0x1 {marker(self.services[int(number)])}"]

    def _show(self, version: str | None, path: str) -> list[str]:
        name = Path(path).name
        rows = self.held[name] if version is None else self.prepared[name, int(version)]
        return [f"0x{n:x} {row}" for n, row in enumerate(rows, 1)]

    def _prepare(self, path: str) -> list[str]:
        self.versions += 1
        self.prepared[Path(path).name, self.versions] = []
        return [f"New version created: {self.versions}"]

    def _add_map(self, version: str, path: str, rows: str) -> list[str]:
        self.prepared[Path(path).name, int(version)] += rows.splitlines()
        return []

    def _add_acl(self, version: str, path: str, row: str) -> list[str]:
        self.prepared[Path(path).name, int(version)].append(re.sub(r"\\(.)", r"\1", row))
        return []

    def _commit(self, version: str, path: str) -> list[str]:
        name = Path(path).name
        before = self.closed()
        self.held[name] = self.prepared.pop((name, int(version)))
        self.moved |= dict.fromkeys(before ^ self.closed(), time.monotonic())
        return []

    def _set(self, ref: str, what: str, word: str) -> list[str]:
        server = self.servers[ref]
        if what == "state":
            if ADMIN[word] != server.mask:
                self.moved[ref] = time.monotonic()
            server.state(word)
        else:
            server.fail()
        return []

    def closed(self) -> set[str]:
        return {key for row in self.held[MAP] if (key := row.partition(" ")[0]) in self.services}

    def truth(self) -> dict[str, Any]:
        out = [ref for ref, server in self.servers.items() if server.mask]
        return {"closed": sorted(self.closed()), "out": out, "moved": self.moved}


async def serve(folder: Path, services: list[str], nodes: list[str], more: list[str]) -> None:
    """A stand-in for each of ``nodes`` and ``more``, on ``folder/NAME.sock``, for ever."""
    made = {name: StandIn(number, services, nodes) for number, name in enumerate((*nodes, *more))}

    async def truth(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (word := (await reader.readline()).strip()) in (b"busy", b"idle"):
            for one in made.values():
                one.busy = word == b"busy"
        writer.write(json.dumps({name: one.truth() for name, one in made.items()}).encode())
        await writer.drain()
        writer.close()

    for name, one in made.items():
        await asyncio.start_unix_server(one.serve, folder / f"{name}.sock", backlog=64)
    await asyncio.start_unix_server(truth, folder / "truth.sock")
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.standin", description="Stand-ins for many HAProxies.")
    parser.add_argument("folder", type=Path)
    for option in ("services", "nodes", "more"):
        parser.add_argument(f"--{option}", nargs="*", default=[])
    given = parser.parse_args()
    asyncio.run(serve(given.folder, given.services, given.nodes, given.more))


if __name__ == "__main__":
    main()
