"""What an operator asks for, checked and turned into the next intent. Pure: refusals are raised, nothing is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec.structs import replace

from lbagent.cluster.cluster import Elsewhere, hold
from lbagent.errors import LbagentError
from lbagent.guard import guard_map
from lbagent.model import times as when
from lbagent.model.intent import GUARD_GONE, Drain, Held, Intent, Mode, Phase, ServiceIntent
from lbagent.model.observed import Observed
from lbagent.model.servers import Admin, Ref
from lbagent.settings.config import Config
from lbagent.topology.resolve import Service, Topology

LONGEST_REASON = 500  # characters
LONGEST_ENTRY = 12000  # bytes: HAProxy silently splits a line of a map that is longer than its buffer
DEFAULT_DEADLINE = "5m"
DEFAULT_TIMEOUT = "2m"


class ServiceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: Mode


class NodeChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    state: Literal["ready", "drained"]
    services: list[str] = []


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/changes`` (DESIGN §6). Durations and times are text, as people write them."""

    services: dict[str, ServiceChange] = {}
    nodes: dict[str, NodeChange] = {}
    for_: str | None = msgspec.field(default=None, name="for")
    until: str | None = None
    at: str | None = None
    deadline: str | None = None
    timeout: str | None = None
    reason: str = ""
    kill: bool = False
    maint: bool = False
    last: Literal["refuse", "down"] = "refuse"
    force: bool = False
    dry_run: bool = False
    local: bool = False  # this HAProxy alone
    if_revision: int | None = None

    @property
    def command(self) -> str:
        """lbctl's verb for it, ``change`` where it is several."""
        words = {c.mode.value for c in self.services.values()} | {
            "drain" if c.state == "drained" else "ready" for c in self.nodes.values()
        }
        return words.pop() if len(words) == 1 else "change"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The next intent, and what the command is about."""

    intent: Intent
    command: str  # drain, ready, down, read-only, up, change
    services: tuple[str, ...] = ()  # whose mode changes
    modes: dict[str, Mode] = {}  # what they are to be
    drains: tuple[tuple[str, str], ...] = ()  # (node, service) that are drained
    returns: tuple[tuple[str, str], ...] = ()  # (node, service) that come back
    notes: tuple[str, ...] = ()
    deadline: int | None = None


def parse(body: bytes) -> Change:
    """A change from JSON; LbagentError ``bad_request`` names the field."""
    try:
        change = msgspec.json.decode(body, type=Change)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LbagentError("bad_request", f"the request is not a change: {error}") from None
    if not change.services and not change.nodes:
        raise LbagentError("bad_request", "the change names no service and no node")
    if len(change.reason) > LONGEST_REASON:
        raise LbagentError(
            "bad_request", f"reason: has {len(change.reason)} characters, at most {LONGEST_REASON} are taken"
        )
    if any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in change.reason):
        raise LbagentError("bad_request", "reason: control characters other than a newline are not taken")
    return change


def decide(
    config: Config,
    topology: Topology,
    observed: Observed,
    intent: Intent,
    change: Change,
    now: float,
    by: str,
    elsewhere: Elsewhere | None = None,
) -> Decision:
    """The intent after ``change``; LbagentError says why not, and names every service and backend concerned.

    ``elsewhere`` is what the other HAProxies report, where ``intent`` is the one that all of them share.
    """
    if change.if_revision is not None and change.if_revision != intent.revision:
        raise LbagentError(
            "revision",
            f"the intent is at revision {intent.revision}, the change was made for {change.if_revision}",
        )
    return _Deciding(config, topology, observed, change, now, by, elsewhere).decide(intent)


class _Deciding:
    def __init__(
        self,
        config: Config,
        topology: Topology,
        observed: Observed,
        change: Change,
        now: float,
        by: str,
        elsewhere: Elsewhere | None,
    ) -> None:
        self.elsewhere = elsewhere or Elsewhere()
        self.shared = elsewhere is not None
        self.config, self.topology, self.observed, self.change = config, topology, observed, change
        self.now, self.by = int(now), by
        self.notes: list[str] = []
        self.reopened: list[tuple[str, str]] = []  # services closed by maint, their guard being gone
        deadline = when.duration(DEFAULT_DEADLINE if change.deadline is None else change.deadline, "deadline")
        self.deadline = self.now + deadline
        self.timeout = self.now + when.duration(
            DEFAULT_TIMEOUT if change.timeout is None else change.timeout, "timeout"
        )

    def decide(self, intent: Intent) -> Decision:
        self.ours = self.elsewhere.here.held() | intent.held() if self.shared else intent.held()
        out = self._modes(intent)
        drains: list[tuple[str, str]] = []
        returns: list[tuple[str, str]] = []
        for node, wanted in self.change.nodes.items():
            self._known_node(node, intent)
            if wanted.state == "drained":
                out, names = self._drain(out, node, wanted.services)
                drains += [(node, name) for name in names]
            else:
                out, names = self._ready(out, node, wanted.services)
                returns += [(node, name) for name in names]
        self._few_at_a_time(intent, out)
        out = self._protect(intent, out)
        self._clients_of({node for node, _ in drains if not self.change.nodes[node].services})
        if any(len(key) + len(value) > LONGEST_ENTRY for key, value in guard_map.entries(self.config, out)):
            raise LbagentError(
                "bad_request", f"the names and the reason make more than {LONGEST_ENTRY} bytes of one answer"
            )
        if self.observed.up and self.observed.old_workers is None and (drains or self._closes()):
            self.notes.append(
                "requests in workers left over by a reload cannot be seen: haproxy.master_socket is not set"
            )
        modes = {name: wanted.mode for name, wanted in self.change.services.items()}
        modes |= {n: s.mode for n, s in out.services.items() if n not in modes and s != intent.services.get(n)}
        return Decision(
            intent=out,
            command=self.change.command,
            services=tuple(modes),
            modes=modes,
            drains=tuple(drains),
            returns=(*returns, *self.reopened),
            notes=tuple(self.notes),
            deadline=self.timeout if returns and not drains else self.deadline,
        )

    def _closes(self) -> bool:
        return any(change.mode is not Mode.UP for change in self.change.services.values())

    # ----------------------------------------------------------------------------------------- modes

    def _modes(self, intent: Intent) -> Intent:
        unknown = [n for n in self.change.services if n not in self.topology.services and n not in intent.services]
        if unknown:
            raise LbagentError("unknown_service", _unknown("service", unknown, self.topology.services))
        start, until = self._window()
        closing = {n for n, c in self.change.services.items() if c.mode is not Mode.UP}
        if not closing and (start or until):
            raise LbagentError("bad_request", "for, until and at belong to down and read-only only")
        services = [self._service(n) for n in sorted(closing)]
        self._refuse_tcp(services)
        self._refuse_unguarded([s for s in services if s.http or s.missing])
        out = intent
        for name, wanted in self.change.services.items():
            if wanted.mode is Mode.UP:
                out = out.with_service(name, None)
                if name in (self.elsewhere.here if self.shared else out).drains.get(GUARD_GONE, {}):
                    self.reopened.append((GUARD_GONE, name))
            else:
                out = out.with_service(name, self._closed(name, wanted.mode, intent, start, until))
        return out

    def _service(self, name: str) -> Service:
        if name not in self.topology.services:
            raise LbagentError(
                "unknown_service",
                f"service {name} is no longer configured; what is in force stays, and `lbctl up {name}` ends it",
            )
        return self.topology.services[name]

    def _window(self) -> tuple[int | None, int | None]:
        """(start if it lies ahead, end), seconds since 1970."""
        c = self.change
        start = when.moment(c.at, "at") if c.at is not None else None
        if start is not None and start <= self.now:
            raise LbagentError("bad_request", f"at: {c.at} is in the past; leave it out to start now")
        if c.for_ is not None and c.until is not None:
            raise LbagentError("bad_request", "for and until say the same thing twice: give one")
        until = when.moment(c.until, "until") if c.until is not None else None
        if c.for_ is not None:
            until = (start or self.now) + when.duration(c.for_, "for")
        if until is not None and until <= (start or self.now):
            raise LbagentError(
                "bad_request", f"until: {c.until} is " + ("not after its start" if start else "in the past")
            )
        return start, until

    def _closed(self, name: str, mode: Mode, intent: Intent, start: int | None, until: int | None) -> ServiceIntent:
        before = intent.services.get(name)
        current = before is not None and before.effective(self.now) is not Mode.UP
        if start is not None and before is not None and current:
            raise LbagentError(
                "window_open",
                f"{name} is {before.mode} now: a window ahead would open it until then. "
                f"Run `lbctl up {name}` first, or leave --at out to change it at once",
            )
        same = before is not None and before.mode is mode and current and start is None
        service = self.topology.services[name]
        return ServiceIntent(
            mode=mode,
            start=before.start if before and same else start or self.now,
            at_once=start is None,
            until=until if until is not None or not (before and same) else before.until,
            reason=self.change.reason or (before.reason if before and same else ""),
            by=self.by,
            since=before.since if before and same else self.now,
            keys=tuple(
                dict.fromkeys((*service.keys(unseen=not self.observed.up), *(before.keys if before and same else ())))
            ),
            deadline=self.deadline,
        )

    def _refuse_tcp(self, services: list[Service]) -> None:
        mixed = [s for s in services if s.tcp]
        if not mixed:
            return
        named = "; ".join(f"{s.name} has {', '.join(s.tcp)}" for s in mixed)
        if not self.change.force or any(not s.http for s in mixed):
            raise LbagentError(
                "tcp_backend",
                f"mode tcp backends can only be drained, no request is seen there: {named}. "
                "Drain its nodes instead" + ("" if self.change.force else ", or --force to close the http part alone"),
            )
        self.notes.append(f"stays open, mode tcp: {named}")

    def _refuse_unguarded(self, services: list[Service]) -> None:
        if not self.observed.up:
            return
        bare = [
            f"{s.name} ({', '.join(b for b in s.http if self.observed.backends[b].guard is None)})"
            for s in services
            if any(self.observed.backends[b].guard is None for b in s.http)
        ]
        bare += [f"{s.name} (no such backend: {', '.join(s.missing)})" for s in services if s.missing]
        bare += [
            f"{s.name} (on {', '.join(nodes)})"
            for s in services
            if (nodes := self.elsewhere.bare.get(s.name)) and self.change.services.get(s.name) is not None
        ]
        if bare:
            raise LbagentError(
                "guard_missing",
                f"no guard in HAProxy's configuration for {'; '.join(bare)}: run `lbctl haproxy adopt --write` "
                "on it and reload HAProxy",
            )
        absent = [
            f"{s.name} ({place})"
            for s in services
            for place in s.config.frontends
            if place.partition("@")[0] not in self.observed.frontends
        ]
        if absent:
            raise LbagentError("guard_missing", f"HAProxy has no such frontend: {'; '.join(absent)}")

    # ----------------------------------------------------------------------------------------- nodes

    def _known_node(self, node: str, intent: Intent) -> None:
        if node not in self.topology.nodes and node not in intent.drains:
            raise LbagentError("unknown_node", _unknown("node", [node], self.topology.nodes))

    def _drain(self, intent: Intent, node: str, only: list[str]) -> tuple[Intent, list[str]]:
        of_node = self.topology.node_services(node)
        self._known_services(node, only, of_node)
        if not of_node and node not in intent.drains:
            raise LbagentError("unknown_node", f"node {node} has no servers in any service that lbagent knows")
        for name, refs in of_node.items():
            if only and name not in only:
                continue
            before = intent.drains.get(node, {}).get(name)
            known = {held.ref: held for held in before.servers} if before else {}
            drain = replace(
                before.step(Phase.HELD) if before else Drain(since=self.now),
                forced=False,
                admin=Admin.MAINT if before and before.admin is Admin.MAINT and self.change.maint else Admin.DRAIN,
                end_in_maint=self.change.maint,
                kill=self.change.kill,
                whole=not only or bool(before and before.whole),
                deadline=self.deadline,
                reason=self.change.reason or (before.reason if before else ""),
                by=self.by,
                servers=(
                    *(known.get(ref) or self._held(ref) for ref in refs),
                    *(held for ref, held in known.items() if ref not in refs),  # orphans stay held until ready
                ),
            )
            intent = intent.with_drain(node, name, drain)
        return intent, [n for n in of_node if not only or n in only]

    def _held(self, ref: Ref) -> Held:
        if ref in self.ours:  # another drain of ours holds it: two services may share a backend
            return self.ours[ref][3]
        held = hold(ref, self.observed)
        if held.foreign:
            self.notes.append(f"{ref} is in {held.foreign} already, not by lbagent: it stays so after `ready`")
        return held

    def _ready(self, intent: Intent, node: str, only: list[str]) -> tuple[Intent, list[str]]:
        drains = intent.drains.get(node, {})
        self._known_services(node, only, {**self.topology.node_services(node), **drains})
        names = [name for name in drains if not only or name in only]
        for name in names:
            drain = drains[name]
            for held in drain.servers:
                if held.foreign and (seen := self.observed.server(held.ref)) and seen.admin is not Admin.READY:
                    self.notes.append(f"{held.ref} stays in {held.foreign}: lbagent did not put it there")
            if drain.phase is Phase.RELEASED:
                continue
            # While HAProxy is down nothing can prove itself: it waits for as long as that takes.
            drain = drain.step(Phase.RETURNING, self.timeout if self.observed.up else None)
            if self.change.force:
                drain = replace(drain.step(Phase.RELEASED), forced=True)
            intent = intent.with_drain(node, name, drain)
        locally = [s.removeprefix(f"{node}/") for s in self.elsewhere.exceptions if s.startswith(f"{node}/")]
        names += [name for name in locally if name not in names and (not only or name in only)]
        for refs in self.topology.node_services(node).values() if not names else ():
            for ref in refs:
                seen = self.observed.server(ref)
                if seen and seen.admin is not Admin.READY:
                    self.notes.append(f"{ref} stays in {seen.admin}: lbagent did not put it there")
        return intent, names

    def _known_services(self, node: str, only: list[str], known: Iterable[str]) -> None:
        unknown = [name for name in only if name not in known]
        if unknown:
            raise LbagentError("unknown_service", _unknown(f"service on {node}", unknown, known))

    # ------------------------------------------------------------------------------------ last server

    def _few_at_a_time(self, before: Intent, after: Intent) -> None:
        """Refuse to drain more nodes together than the configuration allows."""
        most = self.config.most_drained
        out, was = set(_out(after)), set(_out(before))
        if most is None or not out - was or len(out) <= most or self.change.force:
            return
        new, there = ", ".join(sorted(out - was)), ", ".join(sorted(was))
        what = f"{new} would be drained beside {there}" if was else f"{new} would be drained together"
        do = f"bring {there if len(was) == 1 else 'others'} back first (`lbctl ready`)" if was else "take fewer"
        raise LbagentError("max_unavailable", f"{what}, and max_unavailable is {most}: {do}, or --force")

    def _clients_of(self, nodes: set[str]) -> None:
        """A drain empties a node's servers, not the HAProxy on it: say who would be cut by patching that."""
        clients = dict(self.elsewhere.clients)
        if not self.shared and self.observed.up:
            clients[self.config.node] = (self.observed.connections, self.config.haproxy.vip_track_file is not None)
        for node in sorted(nodes & set(clients)):
            count, moves = clients[node]
            how = (
                "keepalived is told to move its virtual address"
                if moves
                else "move its virtual address first, by `systemctl stop keepalived` there for example "
                "(with haproxy.vip_track_file set, keepalived is told by itself)"
            )
            if count:
                self.notes.append(
                    f"{node}'s own HAProxy has {count} client connection{'' if count == 1 else 's'}, "
                    f"which patching it would cut: {how}"
                )

    def _protect(self, before: Intent, after: Intent) -> Intent:
        """Refuse to leave a service with fewer ready servers than it needs, or close it first if told to."""
        held = after.held()
        out = {ref for ref, (_, _, drain, _) in before.held().items() if drain.phase is not Phase.RELEASED}
        newly = {ref for ref, (_, _, drain, _) in held.items() if drain.phase is Phase.HELD} - out
        touched = {ref.backend for ref in newly}
        short: dict[str, list[str]] = {}
        for name, service in sorted(self.topology.services.items()):
            closed = after.services.get(name)
            if closed is not None and closed.effective(self.now) is Mode.DOWN:
                continue
            for backend in service.backends:
                if backend not in touched:
                    continue
                ready = [s.ref for s in self.observed.backends[backend].servers.values() if s.ready]
                left = [r for r in ready if r not in held and str(r) not in self.elsewhere.sick]
                if len(left) < service.config.min_ready:
                    sick = {str(r): self.elsewhere.sick[str(r)] for r in ready if str(r) in self.elsewhere.sick}
                    seen = "".join(f", {ref} is not ready as seen from {', '.join(who)}" for ref, who in sick.items())
                    short.setdefault(name, []).append(
                        f"{backend} would keep {len(left)} of {service.config.min_ready}{seen}"
                    )
        if not short or self.change.force:
            self.notes += [f"forced: {name}: {', '.join(why)} ready" for name, why in short.items()]
            return after
        if self.change.last == "down":
            return self._close_short(after, list(short))
        named = "; ".join(f"{name}: {', '.join(why)} ready" for name, why in short.items())
        raise LbagentError(
            "last_server",
            f"this would take the last ready server of {', '.join(short)} ({named}). Bring another node back first, "
            "or --last down to close these services with a 503, or --force",
        )

    def _close_short(self, after: Intent, names: list[str]) -> Intent:
        services = [self._service(name) for name in names]
        self._refuse_tcp(services)
        self._refuse_unguarded(services)
        for name in names:
            after = after.with_service(name, self._closed(name, Mode.DOWN, after, None, None))
        self.notes.append(f"closed, as no ready server is left: {', '.join(names)}; `lbctl up` opens them again")
        return after


def _out(intent: Intent) -> list[str]:
    """Nodes with a drain that is not being given back."""
    return [
        node
        for node, drains in intent.drains.items()
        if node != GUARD_GONE and any(d.phase is not Phase.RELEASED for d in drains.values())
    ]


def _unknown(kind: str, names: list[str], known: Iterable[str]) -> str:
    there = ", ".join(sorted(known)) or "none: is HAProxy up?"
    return f"no {kind} {', '.join(map(repr, names))}; there are: {there}"
