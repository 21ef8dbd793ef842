"""``lbctl status``: HAProxy, services and nodes as they are, and why."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import click

from lbagent.cli import ask
from lbagent.cli.table import columns
from lbagent.control.client import Client

COLOURS = {
    "up": "green",
    "ready": "green",
    "down": "red",
    "drained": "blue",
    "draining": "yellow",
    "read-only": "yellow",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@click.pass_obj
def status(socket: str, as_json: bool, watch: bool) -> None:
    """Show HAProxy, services and nodes, and why they are as they are."""
    client = Client(socket)
    if watch and not as_json:
        _watch(client)
        return
    while True:
        with ask.answered():
            now = client.get("/v1/status")
        click.echo(json.dumps(now) if as_json else "\n".join(lines(now)))
        if not watch:
            return
        time.sleep(1)


def _watch(client: Client) -> None:
    from rich.live import Live  # noqa: PLC0415 half of lbctl's time, and only this needs it
    from rich.text import Text  # noqa: PLC0415

    with Live(auto_refresh=False) as live:
        while True:
            with ask.answered():
                shown = "\n".join(lines(client.get("/v1/status")))
            live.update(Text.from_ansi(shown), refresh=True)
            time.sleep(1)


def lines(now: dict[str, Any]) -> list[str]:
    """The status for people."""
    out = [_haproxy(now)]
    if now["trouble"]:
        out.append(click.style(f"trouble: {now['trouble']}", fg="red"))
    rows = [_service(service) for service in now["services"]]
    out += ["", *columns(("SERVICE", "MODE", "SERVERS", "SESSIONS", "UNTIL", "BY", "REASON"), rows)]
    rows = [_node(node) for node in now["nodes"]]
    out += ["", *columns(("NODE", "STATE", "SESSIONS", "SINCE", "BY", "REASON"), rows)]
    if "agents" in now:
        rows = [_agent(agent, now["revision"]) for agent in now["agents"]]
        out += ["", *columns(("AGENT", "STATE", "REVISION", "SESSIONS", "CLIENTS"), rows)]
    return out + _remarks(now)


def _haproxy(now: dict[str, Any]) -> str:
    haproxy = now["haproxy"]
    if not haproxy["up"]:
        return click.style(f"{now['node']}: HAProxy is down: {haproxy['error']}", fg="red")
    old = {None: "old workers unknown (no master socket)", 0: "no old workers"}.get(
        haproxy["old_workers"], f"{haproxy['old_workers']} old workers"
    )
    sync = click.style("in sync", fg="green") if haproxy["in_sync"] else click.style("not in sync", fg="red")
    guard = click.style(f"guard {haproxy['guard']}", fg="green" if haproxy["guard"] == "present" else "red")
    clients = _clients(haproxy["clients"])
    return f"{now['node']}: HAProxy {haproxy['version']}, pid {haproxy['pid']}, {sync}, {guard}, {old}, {clients}"


def _clients(count: int) -> str:
    return f"{count} client connection{'' if count == 1 else 's'}"


def _service(service: dict[str, Any]) -> tuple[str, ...]:
    mode = click.style(service["mode"], fg=COLOURS.get(service["mode"]))
    if service["scheduled"]:
        mode += f", {service['scheduled']} from {_time(service['start'])}"
    elif service["open"]:
        mode += f" ({service['asked']} was asked, open: {', '.join(service['open'])})"
    elif service["mode"] != "up" and not service["quiesced"]:
        mode += " (older requests in flight)"
    up = sum(s["used"] for s in service["servers"])
    return (
        service["name"],
        mode,
        f"{up}/{len(service['servers'])} ready",
        str(service["sessions"]),
        _time(service["until"]) + (" overdue" if any(w["overdue"] for w in service["windows"]) else ""),
        service["by"],
        service["reason"],
    )


def _node(node: dict[str, Any]) -> tuple[str, ...]:
    state = click.style(node["state"], fg=COLOURS.get(node["state"]))
    if node["returning"]:
        state += ", waiting for health"
    if node["services"] and node["state"] != "ready":
        state += f" ({', '.join(node['services'])})" if len(node["services"]) <= 3 else ""
    return (node["name"], state, str(node["sessions"]), _time(node["since"]), node["by"], node["reason"])


def _agent(agent: dict[str, Any], revision: int) -> tuple[str, ...]:
    if not agent["alive"]:
        state = click.style("away", fg="red")
    elif not agent["haproxy"]:
        state = click.style("HAProxy down", fg="red")
    elif agent["in_sync"] and agent["revision"] == revision:
        state = click.style("in sync", fg="green")
    else:
        state = click.style("not in sync", fg="yellow")
    if agent["trouble"] and agent["trouble"] not in state:
        state += f": {agent['trouble']}"
    if agent["exceptions"]:
        state += f", differs by --local: {', '.join(agent['exceptions'])}"
    return (agent["node"], state, str(agent["revision"]), str(agent["sessions"]), str(agent["clients"]))


def _remarks(now: dict[str, Any]) -> list[str]:
    """Lines below the tables: what an operator should know and the tables do not show."""
    out = []
    for service in now["services"]:
        for server in service["servers"]:
            name = f"{server['backend']}/{server['server']}"
            if server["foreign"]:
                out.append(f"{name} is in {server['admin']}, set by somebody else: lbagent leaves it alone")
            elif server["health"] == "down":
                out.append(f"{name} fails its health check")
        if service["orphan"]:
            out.append(f"{service['name']} is no longer configured; its mode stays until `lbctl up {service['name']}`")
        if service["missing"]:
            out.append(f"{service['name']}: HAProxy has no backend {', '.join(service['missing'])}")
        if service["tcp"]:
            out.append(f"{service['name']}: backends in mode tcp can only be drained: {', '.join(service['tcp'])}")
    for node in now["nodes"]:
        if node["orphans"]:
            out.append(f"{node['name']}: drained, but no longer in HAProxy: {', '.join(node['orphans'])}")
    return ["", *out] if out else []


def _time(seconds: float | None) -> str:
    if not seconds:
        return ""
    moment = datetime.fromtimestamp(seconds).astimezone()
    same_day = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S%z" if same_day else "%Y-%m-%d %H:%M%z")
