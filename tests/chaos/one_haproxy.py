"""Where the script is carried out: a real lab, its faults, its commands, and what they promised."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from lbagent.control.client import Client, NoAgent, NotPermitted, Refused
from tests.chaos.chaos import LAG, SLOWEST, Broken, Chaos, Command, Key, keys_of
from tests.chaos.clients import Clients, Place
from tests.chaos.judge import NEVER, Cut, Excuse, Promise, Violation
from tests.chaos.script import Script, Step
from tests.lab.one_haproxy import Lab
from tests.lab.origins import Origin

SERVICES = ("nova", "keystone", "glance")
STICKY = "keystone"
DISK = "4m"  # of the tmpfs
CLIENTS = 12  # a service
COMMANDS = 3  # under way at once
AFTER_KILL, AFTER_STOP, AFTER_CUT = 2.0, 3.0, 1.5  # seconds for which clients stay excused after a fault's end
LATE_ACCEPT = 15.0  # seconds after exit 5 within which the agent may have taken the command all the same


class OneHAProxy(Chaos):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._running: list[Command] = []
        self._unknown: dict[Key, float] = {}  # key → when its state may be read from status at the earliest
        self._ready: set[tuple[str, str]] = set()  # (node, service) that certainly take traffic
        self._empty: dict[str, Excuse] = {}  # services that may have no server
        self._late: list[Command] = []  # ended, but what they cut may go on
        self._mounted = False
        self._agent_wanted = self._haproxy_wanted = False
        self.lab = Lab(
            SERVICES,
            check="check inter 300 fall 5 rise 2",
            backend={
                name: "  timeout check 3s\n" + ("  cookie SRV insert indirect nocache\n" if name == STICKY else "")
                for name in SERVICES
            },
            guard=False,
        )
        self.disk = self.lab.folder / "disk"

    # ------------------------------------------------------------------------------------ set up, take down

    def _set_up(self) -> None:
        lab, agent = self.lab, self.lab.agent
        self.disk.mkdir()
        if os.geteuid() == 0:
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "lbagent-chaos", self.disk], check=False
            )
            self._mounted = done.returncode == 0
        lab.state = self.disk / "state"
        agent.settings["haproxy"]["state_dir"] = str(lab.state)
        agent.settings["store"]["path"] = str(self.intent)
        agent.write()
        agent.ok("haproxy", "adopt", str(lab.haproxy.config), "--write")
        lab.start()
        self._agent_wanted = self._haproxy_wanted = True
        now = time.time()
        for service in SERVICES:
            self.record.promises.append(Promise("open", service, now, by="the start"))
            self._ready |= {(node, service) for node in lab.nodes}
        ports = {s: (Place(lab.port[s]), Place(lab.internal[s])) for s in SERVICES}
        self.clients = Clients(ports, CLIENTS, self.seed)
        self.clients.start()
        threading.Thread(target=self._confirm_for_ever, daemon=True).start()
        self.event("everything is up")

    @property
    def origins(self) -> dict[str, dict[str, Origin]]:
        return self.lab.origins

    def agent_logs(self) -> list[Path]:
        return [self.lab.agent.log]

    def haproxy_logs(self) -> list[Path]:
        return [self.lab.folder / "haproxy.log"]

    @property
    def intent(self) -> Path:
        return self.disk / "intent.json"

    def close(self) -> None:
        """Take everything down; each part whatever becomes of the others."""
        self._ended.set()
        with contextlib.ExitStack() as last_first:
            last_first.callback(self.lab.close)
            last_first.callback(self._unmount)
            last_first.callback(self.lab.haproxy.kill)
            last_first.callback(self.lab.agent.kill)
            if hasattr(self, "clients"):
                last_first.callback(self.clients._stop.set)
            for _, resume in self._timers:  # what is stopped goes on, or its end could not be waited for
                last_first.callback(resume)

    def _unmount(self) -> None:
        for options in ([], ["-l"]) if self._mounted else ():
            if subprocess.run(["umount", *options, self.disk], capture_output=True, check=False).returncode == 0:
                self._mounted = False
                break

    # ------------------------------------------------------------------------------------------- running

    def run(self, seconds: float) -> None:
        """Carry the script out for about so long, then show that everything is as it was asked for. Broken when not."""
        until = time.time() + seconds
        script = Script(self.seed, SERVICES, tuple(self.lab.nodes))
        self.carry_out(itertools.takewhile(lambda _: time.time() < until, script))
        self.event("· the end: everything heals")
        self._heal()
        self._do_settle()
        self._without_the_agent()
        self.clients.stop()
        self._pass(LAG + 2)
        self._look(everything=True)

    def _processes(self, now: float) -> list[Violation]:
        process = self.lab.haproxy._process
        if self._haproxy_wanted and process is not None and process.poll() is not None:
            self._haproxy_died(process.returncode)
        if self._agent_wanted and (agent := self.lab.agent.process) and agent.poll() is not None:
            return [Violation(now, f"the agent ended by itself, {agent.returncode}")]
        return []

    # ------------------------------------------------------------------------------------------ commands

    def _do_command(self, step: Step, words: tuple[str, ...], verb: str, repeat: bool = False, **_: Any) -> None:
        keys = keys_of(step)
        free = lambda: self._free(keys, words if repeat else None)  # noqa: E731 short
        if not self._pass(SLOWEST + 20, free):
            raise Broken(
                [Violation(time.time(), f"commands under way for too long: {[c.words for c in self._running]}")]
            )
        with self._lock:
            command = Command(step, time.time(), keys)
            self._running.append(command)
            self._issue(command)
        self.operations[verb] += 1
        self.event(f"lbctl {' '.join(w if len(w) < 40 else w[:20] + '…' for w in words)}")
        threading.Thread(target=self._wait_for, args=(command,), daemon=True).start()

    def _free(self, keys: frozenset[Key], same: tuple[str, ...] | None) -> bool:
        with self._lock:
            others = [c for c in self._running if c.keys & keys and c.words != same]
            return not others and len(self._running) < COMMANDS

    def _issue(self, command: Command) -> None:
        """What was promised and ends here, before lbctl is even started."""
        now, verb = command.issued, command.verb
        ends = {
            "drain": (),
            "ready": ("drained",),
            "down": ("open", "restricted"),
            "read-only": ("open", "closed"),
            "up": ("closed", "restricted", "unwritten"),
        }[verb]
        for key in command.keys:
            node, service = (key[1] if key[0] == "drain" else ""), key[-1]
            for promise in self.record.promises:
                if promise.what in ends and (promise.node, promise.service, promise.end) == (node, service, NEVER):
                    promise.end = now
            self._unknown[key] = NEVER
            if verb == "drain":
                self._ready.discard((node, service))
                if command.step.detail["kill"]:
                    command.excuses.append(Excuse("--kill", now, service=service))
                    command.cuts.append(Cut(now, NEVER, service, node))
        self.record.excuses += command.excuses
        self.record.cuts += command.cuts
        self._note_empty(now)

    def _note_empty(self, now: float) -> None:
        """Services for which no node certainly takes traffic: their clients may be told to come back."""
        for service in SERVICES:
            empty = not any((node, service) in self._ready for node in self.lab.nodes)
            if empty and service not in self._empty:
                self._empty[service] = Excuse("no server certainly ready", now, service=service)
                self.record.excuses.append(self._empty[service])
            elif not empty and service in self._empty:
                self._empty.pop(service).end = now + 0.5

    def _wait_for(self, command: Command) -> None:
        process = self.lab.agent.begin(*command.words)
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

    def _returned(self, command: Command, code: int, text: str, now: float) -> None:
        verb = command.verb
        last = " | ".join(text.strip().splitlines()[-2:])
        self.event(
            f"  → {code} of lbctl {' '.join(command.words[:4])} after {now - command.issued:.2f} s: {last[:240]}"
        )
        self.exits[str(code)] += 1
        self._check_exit(command, code, text, now)
        done = code == 0 and "--detach" not in command.words
        others = frozenset(key for c in self._running for key in c.keys)
        for key in command.keys:
            if done:
                self._promise(verb, key, now, f"lbctl {' '.join(command.words)}")
            if key in others:
                continue
            if done:
                self._unknown.pop(key, None)
            else:
                self._unknown[key] = now + (LATE_ACCEPT if code == 5 else 0)
        if done:
            self._end_cuts(command, now)
        else:
            self._late.append(command)

    def _promise(self, verb: str, key: Key, now: float, by: str) -> None:
        node, service = (key[1] if key[0] == "drain" else ""), key[-1]
        if verb == "ready":
            self._ready.add((node, service))
            self._note_empty(now)
        made = {
            "drain": ("drained",),
            "ready": (),
            "down": ("closed", "unwritten"),
            "read-only": ("restricted", "unwritten"),
            "up": ("open",),
        }[verb]
        for what in made:
            if not self.record.standing(what, service, node):
                self.record.promises.append(Promise(what, service, now, node, by=by))
                self.promised[what] += 1

    def _end_cuts(self, command: Command, now: float) -> None:
        for window in (*command.excuses, *command.cuts):
            window.end = min(window.end, now + AFTER_CUT)

    def _check_exit(self, command: Command, code: int, text: str, now: float) -> None:
        shown = f"exit {code} of lbctl {' '.join(command.words)}: {text.strip()[-600:]}"

        def around(*kinds: str, before: float = 1.0) -> bool:
            return self._around(kinds, command.issued - before, now)

        bad = ""
        if "Traceback" in text or "HANGS" in text:
            bad = "lbctl prints a traceback or hangs"
        elif code not in (0, 1, 3, 4, 5, 7):
            bad = "not an exit code for this"
        elif code == 1 and not around("disk", "damage", before=3) and "meanwhile" not in text:
            bad = "failed though the disk had room and the intent was whole"
        elif code == 3 and "would take the last ready server" not in text:
            bad = "refused for no reason that it should have"
        elif code == 4 and now - command.issued < command.patience - 1.1:
            bad = "its deadline had not passed"
        elif code == 5 and not around("agent", before=5):
            bad = "the agent was there"
        elif code == 7 and not around("haproxy", "worker", before=4):
            bad = "HAProxy was there" + (" (a reload was under way)" if around("reload", before=4) else "")
        if bad:
            self.violations.append(Violation(now, f"{bad}: {shown}"))
        if code == 4 and command.patience >= 4 and not around("haproxy", "worker", "agent", "disk", before=2):
            self.odd.append(f"{now - self.began:.1f}: {shown}")

    # ------------------------------------------------------------------------ confirmation by lbctl's status

    def _confirm_for_ever(self) -> None:
        """A command that did not end with 0 promises nothing until status says that it is in force."""
        client = Client(str(self.lab.agent.socket))
        while not self._ended.wait(0.25):
            asked = time.time()
            with self._lock:
                wanted = {key for key, since in self._unknown.items() if since <= asked}
            if not wanted:
                continue
            with contextlib.suppress(NoAgent, NotPermitted, Refused, OSError):
                status = client.get("/v1/status")
                with self._lock:
                    now = time.time()
                    if status["haproxy"]["in_sync"]:
                        still = {k for k in wanted if self._unknown.get(k, NEVER) <= asked}
                        self._confirm(still, status, now)

    def _confirm(self, keys: set[Key], status: dict[str, Any], now: float) -> None:
        services = {s["name"]: s for s in status["services"]}
        nodes = {n["name"]: n for n in status["nodes"]}
        for key in sorted(keys):
            seen = services[key[-1]]
            if key[0] == "mode":
                verb = seen["mode"] if seen["mode"] == "up" or seen["quiesced"] else None
            else:
                server = next(s for s in seen["servers"] if s["node"] == key[1])
                held = key[2] in nodes[key[1]]["services"]
                out = server["admin"] != "ready" and not server["sessions"] and not nodes[key[1]]["returning"]
                verb = "ready" if not held else "drain" if out else None
            if verb:
                del self._unknown[key]
                self._promise(verb, key, now, "status")
                self.event(f"  = status: {' '.join(key[1:])} {verb}")
        for command in [c for c in self._late if not c.keys & set(self._unknown)]:
            self._late.remove(command)
            self._end_cuts(command, now)

    # -------------------------------------------------------------------------------------------- faults

    def _do_reload(self, count: int = 1, gap: float = 0.0) -> None:
        process = self.lab.haproxy._process
        if process is None or process.poll() is not None:
            return
        with self._lock:
            self.faults["reload" if count == 1 else "reload twice"] += 1
            now = time.time()
            self._outages.append(("reload", now, now + 2))
        for number in range(count):
            if number:
                time.sleep(gap)
            process.send_signal(signal.SIGUSR2)

    def _do_reload_twice(self, gap: float) -> None:
        self._do_reload(2, gap)

    def _do_haproxy_kill(self) -> None:
        self._begin("haproxy", "HAProxy killed")
        cut = Cut(time.time(), NEVER)
        with self._lock:
            self.record.cuts.append(cut)
        self._haproxy_wanted = False
        self.lab.haproxy.kill()
        cut.end = time.time() + 0.3

    def _do_haproxy_start(self) -> None:
        self.lab.haproxy.start()
        self._haproxy_wanted = True
        self._finish("haproxy", "HAProxy killed", AFTER_KILL)

    def _haproxy_died(self, code: int) -> None:
        """Its own doing (a signal that met the master while it re-executed itself): a crash like any other."""
        self.event(f"! HAProxy's master ended by itself: {code}")
        self.faults["haproxy died by itself"] += 1
        self._do_haproxy_kill()
        self._do_haproxy_start()

    def _workers(self) -> list[int]:
        process = self.lab.haproxy._process
        if process is None:
            return []
        listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        return sorted(int(pid) for pid in listed.stdout.split())

    def _do_old_worker_stop(self, seconds: float) -> None:
        """A reload, and the worker that it makes an old one hangs for a while with what it still serves."""
        before = self._workers()
        self._do_reload()
        if before and self._pass(3, lambda: bool(set(self._workers()) - set(before))):
            self._stop_worker(before[-1], seconds)

    def _do_worker_stop(self, seconds: float, worker: int) -> None:
        if workers := self._workers():
            self._stop_worker(workers[worker % len(workers)], seconds)

    def _stop_worker(self, pid: int, seconds: float) -> None:
        if any(kind == "worker" and end == NEVER for kind, _, end in self._outages):
            return
        self._begin("worker", "worker stopped")
        self.event(f"SIGSTOP to worker {pid} of {self._workers()}")
        self._signal(pid, signal.SIGSTOP)

        def resume() -> None:
            self._signal(pid, signal.SIGCONT)
            self._finish("worker", "worker stopped", AFTER_STOP)
            self.event(f"SIGCONT to worker {pid}")

        self._timers.append((time.time() + seconds, resume))

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _do_agent_stop(self, seconds: float) -> None:
        process = self.lab.agent.process
        if process is None:
            return
        self._begin("agent")
        process.send_signal(signal.SIGSTOP)

        def resume() -> None:
            process.send_signal(signal.SIGCONT)
            if process is self.lab.agent.process:
                self._finish("agent")
            self.event("SIGCONT to the agent")

        self._timers.append((time.time() + seconds, resume))

    def _do_agent_kill(self) -> None:
        self._begin("agent")
        self._agent_wanted = False
        self.lab.agent.kill()

    def _do_agent_start(self, damage: str = "") -> None:
        if damage:
            self.faults[f"intent {damage}"] += 1
            with self._lock:
                self._outages.append(("damage", time.time(), time.time() + 5))
            with contextlib.suppress(OSError):
                self._damage(damage)
        self.lab.agent.start(in_sync=False)
        self._agent_wanted = True
        self._finish("agent")

    def _damage(self, damage: str) -> None:
        if damage == "deleted":
            self.intent.unlink()
            return
        text = self.intent.read_text()
        self.intent.write_text(
            {
                "empty": "",
                "cut": text[: len(text) // 2],
                "garbage": "\x00\x01 garbage",
                "altered": text.replace('"down"', '"read-only"').replace('"ctl1"', '"ctl2"'),
            }[damage]
        )

    def _do_disk_full(self, pages: int, seconds: float) -> None:
        """No room left on the disk of intent and files but for so many ``pages``; a script that waits frees it too."""
        if not self._mounted:
            self.faults["disk full: skipped, not root"] += 1
            return
        self._begin("disk")
        fill = self.disk / "fill"
        with fill.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass
        size = fill.stat().st_size
        os.truncate(fill, max(0, (size // 4096 - pages) * 4096))
        self._timers.append((time.time() + seconds, self._do_disk_free))

    def _do_disk_free(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.disk / "fill").unlink()
            self._finish("disk")
            self.event("the disk has room again")

    def _do_file_lost(self, name: str) -> None:
        """A file of state_dir goes; it has to be back before HAProxy could want it."""
        path = self.lab.state / name
        self.faults["file lost"] += 1
        path.unlink(missing_ok=True)
        lost = time.time()
        stopped = sum(e - b for k, b, e in self._outages if k in ("agent", "worker") and e > lost)
        if not self._pass(10 + (stopped if stopped < 10 else 10), path.exists):
            raise Broken([Violation(time.time(), f"{name} was not put back within ten seconds")])

    # --------------------------------------------------------------------------------- what it comes to

    def _heal(self) -> None:
        self._pass(5, lambda: not self._timers)
        self._do_disk_free()
        if not self._haproxy_wanted:
            self._do_haproxy_start()
        if not self._agent_wanted:
            self._do_agent_start()

    def _do_settle(self) -> None:
        """With every fault over, HAProxy and its files come to hold exactly the intent."""
        self._pass(SLOWEST, lambda: not self._running and not self._timers)
        if not self._pass(40, self._settled):
            raise Broken([Violation(time.time(), f"not in sync after 40 s: {self._why()}")])
        self.faults["(settled)"] += 1
        wrong = self._differences()
        if wrong:
            raise Broken([Violation(time.time(), f"in sync, but {text}") for text in wrong])

    def _settled(self) -> bool:
        with self._lock:
            if self._unknown or self._running:
                return False
        status = self._status()
        return bool(status and status["haproxy"]["in_sync"]) and not any(n["returning"] for n in status["nodes"])

    def _status(self) -> dict[str, Any]:
        with contextlib.suppress(NoAgent, NotPermitted, Refused, OSError):
            return Client(str(self.lab.agent.socket)).get("/v1/status")
        return {}

    def _why(self) -> str:
        status = self._status()
        return f"unknown {sorted(self._unknown)}, running {[c.words for c in self._running]}, " + json.dumps(
            {k: status.get(k) for k in ("trouble", "haproxy", "revision")} | {"nodes": status.get("nodes")}
        )

    def _stored(self) -> dict[str, Any]:
        """The stored intent; a lost one counts as empty, which HAProxy then has to be too."""
        try:
            return json.loads(self.intent.read_text())["intent"]
        except (OSError, ValueError) as error:
            self.odd.append(f"{time.time() - self.began:.1f}: no intent is stored: {error!r}")
            return {"services": {}, "drains": {}}

    def _held(self) -> dict[tuple[str, str], int]:
        """(backend, server) → admin mask, for what the stored intent holds."""
        return {
            (held["backend"], held["server"]): 1 if drain.get("admin") == "maint" or service == STICKY else 8
            for services in self._stored()["drains"].values()
            for service, drain in services.items()
            for held in drain["servers"]
        }

    def _masks(self) -> dict[tuple[str, str], int]:
        rows = [row.split() for row in self.lab.haproxy.run("show servers state").splitlines()[2:] if row]
        return {(row[1], row[3]): int(row[6]) for row in rows}

    def _map(self) -> dict[str, str]:
        rows = self.lab.haproxy.run(f"show map {self.lab.state}/guard-v1.map").splitlines()
        return {key: value for key, _, value in (row.partition(" ")[2].partition(" ") for row in rows if row)}

    def _differences(self) -> list[str]:
        """How HAProxy, its files, the stored intent and what was promised differ."""
        wrong = []
        intent = self._stored()
        held, masks, table = self._held(), self._masks(), self._map()
        want = {ref: held.get(ref, 0) for ref in masks}
        wrong += [f"{'/'.join(r)} has admin mask {masks[r]}, not {want[r]}" for r in masks if masks[r] != want[r]]
        expected: dict[str, str] = {}
        for name, service in intent["services"].items():
            expected |= dict.fromkeys(service["keys"], service["mode"])
            expected[f"=intent/service/{name}"] = service
        for node, drains in intent["drains"].items():
            expected |= {f"=intent/drain/{node}/{name}": drain for name, drain in drains.items()}
        if expected or "=revision" in table:
            expected["=revision"] = intent.get("revision")
        shown = {
            key: json.loads(value) if key.startswith("=") else value.split("|")[2]
            for key, value in table.items()
            if not key.startswith(("=json/", "=html/", "=steer/", "=root/"))
        }
        if shown != expected:
            wrong.append(f"HAProxy's map says {shown}, the intent {expected}")
        steered = {k.removeprefix("=steer/"): v for k, v in table.items() if k.startswith("=steer/")}
        if set(steered) != {backend for backend, _ in held} or any((b, s) in held for b, s in steered.items()):
            wrong.append(f"late requests are steered to {steered} with {sorted(held)} held")
        text = (self.lab.state / "guard-v1.map").read_text().splitlines()[1:]
        if dict(row.partition(" ")[::2] for row in text) != table:
            wrong.append("the map's file is not what HAProxy holds")
        rows = [row.split() for row in (self.lab.state / "servers.state").read_text().splitlines()[2:]]
        if {(row[1], row[3]): int(row[6]) for row in rows} != held:
            wrong.append(f"the server-state file has {[(r[1], r[3], r[6]) for r in rows]}, held are {held}")
        return wrong + self._forgotten(intent)

    def _forgotten(self, intent: dict[str, Any]) -> list[str]:
        """Promises that the stored intent knows nothing of, and the other way round."""
        wrong = []
        with self._lock:
            for service in SERVICES:
                mode = intent["services"].get(service, {}).get("mode", "up")
                said = {"up": "open", "read-only": "restricted", "down": "closed"}[mode]
                if not self.record.standing(said, service):
                    wrong.append(f"{service} is stored as {mode}, which nobody was promised")
                for node in self.lab.nodes:
                    drained = service in intent["drains"].get(node, {})
                    if drained != bool(self.record.standing("drained", service, node)):
                        wrong.append(
                            f"{node}/{service} is stored as {'drained' if drained else 'ready'}, against the promise"
                        )
        return wrong

    def _without_the_agent(self) -> None:
        """With the agent dead, a reload and then a crash change nothing of it."""
        before = (self._masks(), self._map(), self._texts())
        self._do_agent_kill()
        old = self.lab.haproxy.pid()
        self._do_reload()
        self._pass(10, lambda: self._another(old))
        for what in ("a reload", "a crash"):
            if what == "a crash":
                self._do_haproxy_kill()
                self._do_haproxy_start()
            self._pass(2.0)
            after = (self._masks(), self._map(), self._texts())
            if after != before:
                raise Broken([Violation(time.time(), f"with the agent dead, {what} changed {before} to {after}")])
        self.event("a reload and a crash with the agent dead changed nothing")

    def _another(self, old: int) -> bool:
        with contextlib.suppress(OSError, StopIteration):
            return self.lab.haproxy.pid() != old
        return False

    def _texts(self) -> dict[str, str]:
        return {p.name: p.read_text() for p in sorted(self.lab.state.iterdir()) if not p.name.startswith(".")}

    # ------------------------------------------------------------------------------------------- report

    def keep(self, where: Path) -> None:
        where.mkdir(parents=True, exist_ok=True)
        for path in (self.lab.agent.log, self.lab.folder / "haproxy.log", self.lab.haproxy.config, self.intent):
            with contextlib.suppress(OSError):
                shutil.copy(path, where)
        with contextlib.suppress(OSError):
            shutil.copytree(self.lab.state, where / "state", dirs_exist_ok=True)
