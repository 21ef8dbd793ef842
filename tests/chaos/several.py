"""A control plane of several hosts: an HAProxy, an agent and an etcd member each, all of which fail, under load."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import signal
import subprocess
import threading
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

from lbagent.control.client import Client, NoAgent, NotPermitted, Refused
from tests.chaos.chaos import LAG, SLOWEST, Broken, Chaos, Command, Key, keys_of
from tests.chaos.clients import Clients, Place
from tests.chaos.judge import NEVER, Cut, Excuse, Promise, Violation
from tests.chaos.possible import STRICT, Possible
from tests.chaos.script import Step
from tests.chaos.script_several import ScriptSeveral
from tests.lab.origins import Origin
from tests.lab.several_haproxies import PORTS, ControlPlane

CLIENTS = 4  # a service and HAProxy
PATIENCE = 12.0  # seconds that a client waits
AFTER_KILL, AFTER_CUT, AFTER_SICK = 2.0, 5.0, 3.0  # seconds for which clients stay excused after a fault's end
BUSY = 3.0  # seconds that a command waits for another one about the same
AGREE = 10.0  # seconds after the last fault within which all agree
ELECTION = 8.0  # seconds after etcd is started within which it answers
RECENT = 10.0  # seconds for which not everybody need have heard of a command
MODES = {(200, 200): "up", (200, 503): "read-only", (503, 503): "down"}

PROMISES = {
    "drain": ("drained",),
    "ready": (),
    "down": ("closed", "unwritten"),
    "read-only": ("restricted", "unwritten"),
    "up": ("open",),
}
ENDS = {
    "drain": (),
    "ready": ("drained",),
    "down": ("open", "restricted"),
    "read-only": ("open", "closed"),
    "up": ("closed", "restricted", "unwritten"),
}


class Asked(Command):
    """A command to the agent of a host."""

    contested = False  # another one about the same is under way
    upset = False  # etcd lost something meanwhile

    def __init__(self, step: Step, issued: float, possible: Possible) -> None:
        super().__init__(step, issued, keys_of(step))
        self.host: str = step.detail["host"]
        self.local = bool(step.detail.get("local"))
        self.before = {place: set(verbs) for place, verbs in possible.may.items() if place[1] in self.keys}
        self.added: set[tuple[str, Key]] = set()

    def surely(self, verb: str) -> bool:
        """What it is about was in this state on every HAProxy when it was given."""
        return all(verbs == {verb} for verbs in self.before.values())


class Several(Chaos):
    def __init__(self, seed: int, hosts: int) -> None:
        super().__init__(seed)
        self.services = tuple(PORTS)
        self.control = ControlPlane(hosts, check="check inter 300 fall 3 rise 2")
        self.hosts = tuple(self.control.names)
        self.record.vias = frozenset(self.hosts)
        self.possible = Possible(self.hosts, self.services)
        self._running: list[Asked] = []
        self._recent: list[tuple[float, dict[Key, set[str]]]] = []  # when a command ended, what was before it
        self._behind: dict[str, dict[Key, set[str]]] = {}  # what a host that was away may still hold to be asked for
        self._upset = self._loose = False  # since the last quiet moment: etcd lost something; two drains are possible
        self._sick: dict[str, float] = {}  # node → until when
        self._sick_since: dict[str, float] = {}
        self._empty: dict[str, Excuse] = {}
        self._agents: set[str] = set()
        self._haproxies: set[str] = set()
        self._cut: set[str] = set()

    # ------------------------------------------------------------------------------------ set up, take down

    @property
    def origins(self) -> dict[str, dict[str, Origin]]:
        return self.control.origins

    def agent_logs(self) -> list[Path]:
        return [host.agent.log for host in self.control.hosts]

    def haproxy_logs(self) -> list[Path]:
        return [host.folder / "haproxy.log" for host in self.control.hosts]

    def _set_up(self) -> None:
        self.control.start()
        self._agents, self._haproxies = set(self.hosts), set(self.hosts)
        for service in self.services:
            self.record.promises.append(Promise("open", service, time.time(), by="the start"))
        places = {s: [Place(PORTS[s], h.address, h.name) for h in self.control.hosts] for s in self.services}
        self.clients = Clients(places, CLIENTS * len(self.hosts), self.seed, PATIENCE)
        self.clients.start()
        self.event("everything is up")

    def close(self) -> None:
        self._ended.set()
        with contextlib.ExitStack() as last_first:
            last_first.callback(self.control.close)
            if hasattr(self, "clients"):
                last_first.callback(self.clients._stop.set)

    def keep(self, where: Path) -> None:
        for host in self.control.hosts:
            (where / host.name).mkdir(parents=True, exist_ok=True)
            for path in (host.agent.log, host.folder / "haproxy.log", host.folder / "intent.json"):
                with contextlib.suppress(OSError):
                    shutil.copy(path, where / host.name)
            with contextlib.suppress(OSError):
                shutil.copytree(host.folder / "state", where / host.name / "state", dirs_exist_ok=True)

    # ------------------------------------------------------------------------------------------- running

    def run(self, seconds: float) -> None:
        until = time.time() + seconds
        script = ScriptSeveral(self.seed, self.services, self.hosts)
        self.carry_out(itertools.takewhile(lambda _: time.time() < until, script))
        self.event("· the end: everything heals")
        self._do_settle()
        self._pass(2.0)
        self.clients.stop()
        self._pass(LAG + 2)
        self._look(everything=True)

    def _processes(self, now: float) -> list[Violation]:
        found = []
        for host in self.control.hosts:
            process = host.haproxy._process
            if host.name in self._haproxies and process is not None and process.poll() is not None:
                self.event(f"! {host.name}: HAProxy's master ended by itself: {process.returncode}")
                self.faults["haproxy died by itself"] += 1
                self._do_haproxy_kill(host.name)
                self._do_haproxy_start(host.name)
            agent = host.agent.process
            if host.name in self._agents and agent is not None and agent.poll() is not None:
                found.append(Violation(now, f"the agent of {host.name} ended by itself, {agent.returncode}"))
        self._note_empty()
        return found

    # ------------------------------------------------------------------------------------------ commands

    def _do_command(self, step: Step, race: bool = False, **_: Any) -> None:
        keys = keys_of(step)
        if not self._pass(BUSY, lambda: race or self._free(keys)):
            self.operations["(left out: one about the same is under way)"] += 1
            return  # what it waits for may be the end of a fault
        with self._lock:
            command = Asked(step, time.time(), self.possible)
            for other in [c for c in self._running if c.keys & keys]:
                other.contested = command.contested = True
            self._running.append(command)
            self._issue(command)
        self.operations[command.verb + (" --local" if command.local else "")] += 1
        self.event(f"{command.host}: lbctl {' '.join(command.words)}")
        threading.Thread(target=self._wait_for, args=(command,), daemon=True).start()

    def _free(self, keys: frozenset[Key]) -> bool:
        with self._lock:
            return len(self._running) < 3 and not any(c.keys & keys for c in self._running)

    def _issue(self, command: Asked) -> None:
        """What was promised ends before lbctl is even started."""
        at = frozenset({command.host}) if command.local else frozenset()
        for key in command.keys:
            node, service = (key[1] if key[0] == "drain" else ""), key[-1]
            self.record.end(ENDS[command.verb], service, node, command.issued, at)
            if command.local:
                self._loose = True
                self.possible.here(command.host, key, command.verb)
                if STRICT[command.verb]:  # everybody's, as soon as etcd is back
                    self.record.end(ENDS[command.verb], service, node, command.issued)
            else:
                command.added |= self.possible.doubtful(key, command.verb)
        self._note_empty()

    def _wait_for(self, command: Asked) -> None:
        process = self.control.host[command.host].agent.begin(*command.words)
        try:
            out, err = process.communicate(timeout=command.patience + SLOWEST)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += "\nHANGS"
        now = time.time()
        with self._lock:
            self._running.remove(command)
            self._returned(command, process.returncode, out + err, now)

    def _returned(self, command: Asked, code: int, text: str, now: float) -> None:
        last = " | ".join(text.strip().splitlines()[-3:])
        shown = f"{command.host}: lbctl {' '.join(command.words[:4])} after {now - command.issued:.2f} s: {last[:240]}"
        self.event(f"  → {code} of {shown}")
        self.exits[str(code)] += 1
        self._check_exit(command, code, text, now)
        before: dict[Key, set[str]] = {}
        for (_, key), verbs in command.before.items():
            before.setdefault(key, set()).update(verbs)
        self._recent = [(at, what) for at, what in self._recent if at > now - RECENT] + [(now, before)]
        if command.contested or (command.local and code not in (0, 4, 7)):
            return
        if code == 3 and not command.upset and not self._around((f"agent {command.host}",), command.issued - 1, now):
            self.possible.refused(command.added, command.verb)
        taken = code in (0, 7) or (code == 4 and command.verb != "ready")
        taken &= not (command.verb == "ready" and (code == 7 or "--detach" in command.words))
        if taken and not command.local and not command.upset:
            for key in command.keys:
                self.possible.accepted(key, command.verb)
        if code in (0, 7) and "--detach" not in command.words:
            at = {command.host} if command.local else set(self.hosts)
            self._promise(command, frozenset(at - (away(text, command.host) if code == 7 else set())), now)
        self._note_empty()

    def _promise(self, command: Asked, at: frozenset[str], now: float) -> None:
        by = f"{command.host}: lbctl {' '.join(command.words)}"
        for key in command.keys if at else ():
            node, service = (key[1] if key[0] == "drain" else ""), key[-1]
            for what in PROMISES[command.verb]:
                if (command.upset or command.local) and what in ("open", "restricted"):
                    continue  # the stricter of what was before may come back, or what another was told by --local
                self.record.promises.append(Promise(what, service, now, node, by=by, at=at))
                self.promised[what] += 1
        if command.verb == "drain" and not command.local:
            self._check_drain(command, at, now)

    def _check_drain(self, command: Asked, at: frozenset[str], now: float) -> None:
        """One node at a time, and never the last that is well."""
        node = command.step.detail["node"]
        if not command.surely("ready"):
            return
        others = [
            p
            for p in self.record.promises
            if p.what == "drained" and p.node != node and p.begin < command.issued and p.end > now
        ]
        if not self._loose and not command.upset:
            self.violations += [Violation(now, f"{node} is drained beside a node that is: {p}") for p in others]
        sick = {n for n, since in self._sick_since.items() if since < command.issued - 4 and n not in self._sick}
        if sick >= set(self.hosts) - {node} and at == frozenset(self.hosts) and not command.upset:
            self.violations.append(Violation(now, f"{node} is drained with every other node sick since long"))

    def _check_exit(self, command: Asked, code: int, text: str, now: float) -> None:
        def around(*kinds: str, before: float) -> bool:
            return self._around(kinds, command.issued - before, now)

        everywhere = [f"{kind} {host}" for host in self.hosts for kind in ("agent", "haproxy", "cut")]
        mine = (f"agent {command.host}", f"cut {command.host}")
        shaken = around("etcd", "upset", *mine, *(f"cut {h}" for h in self.hosts), before=8)
        bad = ""
        if "Traceback" in text or "HANGS" in text:
            bad = "lbctl prints a traceback or hangs"
        elif code not in (0, 1, 3, 4, 5, 7):
            bad = "not an exit code for this"
        elif code == 1 and not shaken and not command.contested:
            bad = "failed though etcd was whole"
        elif code == 3 and "last ready server" not in text and "max_unavailable" not in text:
            bad = "refused for no reason that it should have"
        elif code == 4 and not command.upset and now - command.issued < command.patience - 1.1:
            bad = "its deadline had not passed"
        elif code == 5 and not around(f"agent {command.host}", before=6):
            bad = "the agent was there"
        elif code == 7 and not around("etcd", "upset", *everywhere, before=10):
            bad = "everybody was there"
        if bad:
            shown = f"{bad}: exit {code} of {command.host}: lbctl {' '.join(command.words)}: {text.strip()[-600:]}"
            self.violations.append(Violation(now, shown))

    # -------------------------------------------------------------------------------- what may be refused

    def _note_empty(self) -> None:
        """A backend may be empty only where sickness explains it: drains alone leave a ready server."""
        now = time.time()
        with self._lock:
            sick = {node for node in self._sick_since if self._sick.get(node, NEVER) > now}
            for service in self.services:
                out = self.possible.possibly_drained(service) - sick
                drained = len(out) if self._loose else min(1, len(out))
                empty = len(sick) + drained >= len(self.hosts)
                if empty and service not in self._empty:
                    self._empty[service] = Excuse("sick", now, service=service)
                    self.record.excuses.append(self._empty[service])
                elif not empty and service in self._empty:
                    self._empty.pop(service).end = now + AFTER_SICK

    def _excuse(self, what: str, host: str) -> None:
        self.record.excuses.append(Excuse(f"{what} {host}", time.time(), via=host))

    # -------------------------------------------------------------------------------------------- faults

    def _do_reload(self, host: str) -> None:
        process = self.control.host[host].haproxy._process
        if process is not None and process.poll() is None:
            self.faults["reload"] += 1
            process.send_signal(signal.SIGUSR2)

    def _do_cut(self, host: str) -> None:
        with self._lock:
            self._cut.add(host)
            self._fails("cut", host)
            self._excuse("cut", host)
        self.control.net.cut(host)

    def _do_heal(self, host: str) -> None:
        self.control.net.heal(host)
        with self._lock:
            self._cut.discard(host)
            self._finish(f"cut {host}", f"cut {host}", AFTER_CUT)
            self._is_back(host)

    def _do_agent_kill(self, host: str) -> None:
        with self._lock:
            self._agents.discard(host)
            self._fails("agent", host)
        self.control.host[host].agent.kill()

    def _do_agent_start(self, host: str, lost: bool = False) -> None:
        if lost:
            self.faults["intent lost"] += 1
            (self.control.host[host].folder / "intent.json").unlink(missing_ok=True)
        self.control.host[host].agent.start(in_sync=False)
        with self._lock:
            self._agents.add(host)
            self._finish(f"agent {host}")
            self._is_back(host)

    def _do_haproxy_kill(self, host: str) -> None:
        cut = Cut(time.time(), NEVER, via=host)
        with self._lock:
            self._haproxies.discard(host)
            self._fails("haproxy", host)
            self._excuse("haproxy", host)
            self.record.cuts.append(cut)
        self.control.host[host].haproxy.kill()
        cut.end = time.time() + 0.3

    def _do_haproxy_start(self, host: str) -> None:
        self.control.host[host].haproxy.start()
        with self._lock:
            self._haproxies.add(host)
            self._finish(f"haproxy {host}", f"haproxy {host}", AFTER_KILL)

    def _do_host_kill(self, host: str) -> None:
        self._do_agent_kill(host)
        self._do_haproxy_kill(host)

    def _do_host_start(self, host: str, lost: bool = False) -> None:
        self._do_haproxy_start(host)
        self._do_agent_start(host, lost)

    def _fails(self, kind: str, host: str) -> None:
        self._begin(f"{kind} {host}")
        self.faults[kind] += 1
        del self.faults[f"{kind} {host}"]
        if kind != "haproxy":
            self._behind.setdefault(host, self.possible.known_to(host))

    def _is_back(self, host: str) -> None:
        if self._upset and host in self._behind:
            self._comes_back([self._behind[host]])

    def _do_etcd_kill(self, which: str) -> None:
        self._begin_etcd("etcd killed")
        self.control.etcd[self._member(which)].kill()

    def _do_etcd_gone(self) -> None:
        self._begin_etcd("etcd gone")
        for member in self.control.etcd.values():
            member.kill()

    def _do_etcd_start(self) -> None:
        for member in self.control.etcd.values():
            if member.process is None:
                member.start()
        self._finish("etcd")

    def _do_etcd_stop(self, which: str) -> None:
        member = self.control.etcd[self._member(which)]
        if member.process:
            self._begin_etcd("etcd stopped")
            member.process.send_signal(signal.SIGSTOP)

    def _do_etcd_continue(self) -> None:
        for member in self.control.etcd.values():
            if member.process:
                member.process.send_signal(signal.SIGCONT)
        self._do_etcd_start()

    def _begin_etcd(self, what: str) -> None:
        self._begin("etcd")
        with self._lock:
            self.faults[what] += 1
            del self.faults["etcd"]

    def _member(self, which: str) -> str:
        if which != "leader":
            return which
        with contextlib.suppress(AssertionError, StopIteration, ValueError, KeyError, IndexError):
            which = self.control.leader()
            self.event(f"the leader is {which}")
            return which
        return self.hosts[0]

    def _do_sick(self, node: str) -> None:
        with self._lock:
            self.faults["sick"] += 1
            self._sick.pop(node, None)
            self._sick_since[node] = time.time()
            for origin in self.origins[node].values():
                origin.sick = True
            self._note_empty()

    def _do_well(self, node: str) -> None:
        with self._lock:
            for origin in self.origins[node].values():
                origin.sick = False
            self._sick[node] = time.time() + AFTER_SICK

    # --------------------------------------------------------------------------------- etcd loses something

    def _do_intent_deleted(self, everything: bool) -> None:
        with self._lock:
            self._upsets("etcd emptied" if everything else "intent deleted")
            done = self.control.ctl(
                "del", *(("--prefix", "/lbagent") if everything else ("/lbagent/intent",)), check=False
            )
            self._comes_back([])
        self.event(f"etcd says: {done.strip()[:100]}")

    def _do_intent_older(self, back: int) -> None:
        """etcd holds the intent of so many changes ago, as after a restore from a backup."""
        with self._lock:
            self._upsets("intent older")
            text = self._older(back)
            if text is None:
                self.faults["intent older"] -= 1
                return
            self.control.ctl("put", "/lbagent/intent", text, check=False)
            self._comes_back([states_of(text)])
            self.event(f"etcd has revision {json.loads(text)['intent']['revision']} again")

    def _older(self, back: int) -> str | None:
        text, revision = None, 0
        for _ in range(back + 1):
            at = (f"--rev={revision}",) if revision else ()
            answer = self.control.ctl("get", "/lbagent/intent", "-w", "json", *at, check=False)
            try:
                [row] = json.loads(answer.splitlines()[0])["kvs"]
            except (ValueError, KeyError, IndexError):
                break
            text, revision = b64decode(row["value"]).decode(), int(row["mod_revision"]) - 1
        return text

    def _upsets(self, what: str) -> None:
        now = time.time()
        self.faults[what] += 1
        self._outages.append(("upset", now, now + 3))
        self._upset = self._loose = True
        for command in self._running:
            command.upset = True

    def _comes_back(self, states: list[dict[Key, set[str]]]) -> None:
        """Restrictions that were ended may be there again: of ``states``, of who was away, of what is hardly known."""
        now = time.time()
        states = [*states, *(self._behind.values()), *(what for at, what in self._recent if at > now - RECENT)]
        for command in self._running:
            known: dict[Key, set[str]] = {}
            for (_, key), verbs in command.before.items():
                known.setdefault(key, set()).update(verbs)
            states.append(known)
        for one in states:
            for key in self.possible.comes_back(one):
                if key[0] == "mode":
                    self.record.end(("open", "restricted"), key[-1], "", now)
        self._note_empty()

    # --------------------------------------------------------------------------------- what it comes to

    def _do_settle(self) -> None:
        """Everything heals, and within ten seconds all agree, about nothing else than what was asked for."""
        for host in sorted(self._cut):
            self._do_heal(host)
        self._do_etcd_continue()
        for host in self.hosts:
            if host not in self._haproxies:
                self._do_haproxy_start(host)
            if host not in self._agents:
                self._do_agent_start(host)
        for node in self.hosts:
            if node in self._sick_since and node not in self._sick:
                self._do_well(node)
        if not self._pass(SLOWEST + 20, lambda: not self._running):
            raise Broken([Violation(time.time(), f"under way for too long: {[c.words for c in self._running]}")])
        if not self._pass(ELECTION, self.control.etcd_answers):
            raise Broken([Violation(time.time(), "the test itself failed: etcd does not come back")])
        healed = time.time()
        if not self._pass(AGREE, self._agree):
            told = {host: self._status(host) for host in self.hosts}
            raise Broken(
                [Violation(time.time(), f"no agreement {AGREE:.0f} s after everything healed: {shortly(told)}")]
            )
        self.event(f"all agree {time.time() - healed:.1f} s after everything healed")
        self._check_quiet()
        self.faults["(settled)"] += 1

    def _status(self, host: str) -> dict[str, Any]:
        with contextlib.suppress(NoAgent, NotPermitted, Refused, OSError):
            return Client(str(self.control.host[host].agent.socket)).get("/v1/status")
        return {}

    def _agree(self) -> bool:
        told = [self._status(host) for host in self.hosts]
        if not all(told) or len({status["revision"] for status in told}) > 1:
            return False
        return all(
            status["haproxy"]["in_sync"]
            and not any(node["returning"] for node in status["nodes"])
            and {a["node"] for a in status["agents"]} == set(self.hosts)
            and all(a["alive"] and a["in_sync"] and a["revision"] == status["revision"] for a in status["agents"])
            and all(
                s["health"] == "up"
                for service in status["services"]
                for s in service["servers"]
                if s["admin"] != "maint"
            )
            for status in told
        )

    def _check_quiet(self) -> None:
        """What clients of each HAProxy are answered, and what it does with each server, is what was asked for."""
        seen: dict[tuple[str, Key], str] = {}
        for host in self.control.hosts:
            for service in self.services:
                path = f"/via/{host.name}/wait/1"
                answers = tuple(host.ask(service, method, path).status for method in ("GET", "PUT"))
                seen[host.name, ("mode", service)] = MODES.get(answers, str(answers))
                for node in self.hosts:
                    mask = int(host.haproxy.server(f"{service}/{node}")["srv_admin_state"])
                    seen[host.name, ("drain", node, service)] = "drain" if mask & 9 else "ready"
        with self._lock:
            wrong = self.possible.wrong(seen)
            out = {
                h: [n for n in self.hosts if any(seen[h, ("drain", n, s)] == "drain" for s in self.services)]
                for h in self.hosts
            }
            if not self._loose:
                wrong += [f"{host} has {' and '.join(nodes)} drained" for host, nodes in out.items() if len(nodes) > 1]
            if wrong:
                raise Broken([Violation(time.time(), f"all is quiet, but {text}") for text in wrong])
            self.possible.settled(seen)
            self._recent, self._behind, self._upset = [], {}, False
            self._loose = any(len(nodes) > 1 for nodes in out.values())
            now = time.time()
            for (host_name, key), verb in seen.items():
                self._promise_quiet(host_name, key, verb, now)
            self._note_empty()

    def _promise_quiet(self, host: str, key: Key, verb: str, now: float) -> None:
        """What is so while all is quiet stays so without a command."""
        node, service = (key[1] if key[0] == "drain" else ""), key[-1]
        for what in PROMISES[verb] if key not in self.possible.apart else ():
            standing = [
                p for p in self.record.promises if (p.what, p.service, p.node, p.end) == (what, service, node, NEVER)
            ]
            if not any(p.holds_at(host) for p in standing):
                self.record.promises.append(
                    Promise(what, service, now, node, by="the quiet", at=frozenset({host}), waited=False)
                )


def away(text: str, asked: str) -> set[str]:
    """The hosts that an exit code 7 names; what it says of no other is about the one that was asked."""
    lines = text.partition("not in force yet:")[2].splitlines()
    named = [re.match(r"\s+(\w+)(?::| is away)", line) for line in lines if line.startswith("  ")]
    return {found[1] if found and found[1].startswith("ctl") else asked for found in named}


def states_of(text: str) -> dict[Key, set[str]]:
    """What a stored intent asks for."""
    intent = json.loads(text)["intent"]
    states: dict[Key, set[str]] = {("mode", name): {s["mode"]} for name, s in intent.get("services", {}).items()}
    for node, drains in intent.get("drains", {}).items():
        states |= {("drain", node, name): {"drain"} for name in drains}
    return states


def shortly(told: dict[str, dict[str, Any]]) -> str:
    wanted = ("revision", "trouble", "haproxy", "agents", "nodes", "store")
    return json.dumps({host: {k: status.get(k) for k in wanted} for host, status in told.items()})
