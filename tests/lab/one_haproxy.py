"""A small control plane for tests and the demo: origins that log, a real HAProxy, a real lbagent, clients under load.

The truth about routing is what the origins logged.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
HAPROXY = os.environ.get("LBAGENT_TEST_HAPROXY", shutil.which("haproxy") or "/usr/sbin/haproxy")


def eventually(check: Callable[[], Any], what: str | Callable[[], str], seconds: float = 15.0) -> Any:
    """The first true answer of ``check``; AssertionError with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.02)


def _worker_number() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 20


_next_port = 20000 + 600 * _worker_number() + random.randrange(0, 580)  # two runs on one machine should not meet


def free_port() -> int:
    """A port that nobody listens on; each test worker counts through a range of its own."""
    global _next_port  # noqa: PLW0603 a counter
    while True:
        _next_port += 1
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", _next_port))
                return _next_port


@dataclass
class Entry:
    """A request as an origin saw it; ``ended`` stays None while it is worked on."""

    method: str
    path: str
    headers: dict[str, str]
    started: float
    ended: float | None = None
    body: bytes = b""


class Origin:
    """An HTTP server that logs; ``sick`` fails ``/health``.

    ``/wait/MS`` in a path makes it take so long, unless :meth:`let_go` answers first.
    """

    def __init__(self, name: str, port: int | None = None, host: str = "127.0.0.1") -> None:
        self.name, self.port, self.host = name, port or free_port(), host
        self.log: list[Entry] = []
        self.sick = False
        self.released = threading.Event()
        self._server: _Server | None = None

    def let_go(self) -> None:
        """Answer what waits by now."""
        released, self.released = self.released, threading.Event()
        released.set()

    def start(self) -> Origin:
        self._server = _Server((self.host, self.port), _Handler, self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    def requests(self, since: float = 0.0) -> list[Entry]:
        """What clients asked for, health checks left out, begun at or after ``since``."""
        return [e for e in self.log if e.started >= since and e.path != "/health"]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type, origin: Origin) -> None:
        self.origin = origin
        self.connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that was cut


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        origin: Origin = self.server.origin  # type: ignore[attr-defined]
        entry = Entry(self.command, self.path, dict(self.headers.items()), time.time())
        origin.log.append(entry)
        entry.body = self._body()
        parts = self.path.partition("?")[0].split("/")
        if "wait" in parts:
            origin.released.wait(int(parts[parts.index("wait") + 1]) / 1000)
        sick = self.path == "/health" and origin.sick
        body = b"" if self.command == "HEAD" else json.dumps({"origin": origin.name}).encode()
        self.send_response(500 if sick else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        entry.ended = time.time()  # before HAProxy can see the end
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    method: str = "GET",
    path: str = "/",
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    host: str = "127.0.0.1",
    timeout: float = 20.0,
) -> Answer:
    """One request on a connection of its own, its path sent as it is."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@dataclass
class Load:
    """Keep-alive clients that ask until stopped; at most ``seconds`` long. ``results`` are (time, status or error)."""

    port: int
    path: str = "/v2"
    method: str = "GET"
    clients: int = 4
    pause: float = 0.002
    seconds: float = 60.0
    body: bytes | None = None
    host: str = "127.0.0.1"
    results: list[tuple[float, int | str]] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(self.results) > 2 * self.clients, "the load runs")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        deadline = time.monotonic() + self.seconds
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        while not self._stop.is_set() and time.monotonic() < deadline:
            began = time.time()
            reused = connection.sock is not None
            try:
                connection.request(self.method, self.path, self.body)
                response = connection.getresponse()
                response.read()
                self.results.append((began, response.status))
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A keep-alive connection that its server closed while idle: every client asks again (RFC 9112 9.3.1).
                if not (
                    reused
                    and isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError)
                ):
                    self.results.append((began, repr(error)))
            time.sleep(self.pause)
        connection.close()

    def statuses(self, since: float = 0.0) -> set[int | str]:
        return {status for began, status in self.results if began >= since}


class HAProxy:
    """A real HAProxy in master-worker mode, with its sockets and configuration in ``folder``."""

    def __init__(self, folder: Path, prefix: tuple[str, ...] = ()) -> None:
        self.folder, self.prefix = folder, prefix  # what it is started through
        self.config = folder / "haproxy.cfg"
        self.socket, self.master_socket = folder / "admin.sock", folder / "master.sock"
        self.pidfile = folder / "haproxy.pid"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*self.prefix, HAPROXY, "-W", "-db", "-S", str(self.master_socket), "-f", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "haproxy.log").open("ab"),
        )
        self.wait_up()

    def wait_up(self) -> None:
        eventually(self._answers, lambda: "HAProxy answers: " + (self.folder / "haproxy.log").read_text()[-2000:])

    def _answers(self) -> bool:
        try:
            return "Pid:" in self.run("show info")
        except OSError:
            return False

    def run(self, command: str, path: Path | None = None) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(path or self.socket))
            connection.sendall(command.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def pid(self) -> int:
        return int(next(r for r in self.run("show info").splitlines() if r.startswith("Pid:")).split()[1])

    def reload(self) -> None:
        """SIGUSR2 to the master; returns when another worker answers."""
        before = self.pid()
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR2)
        try:
            eventually(lambda: self._answers() and self._other(before), "a new worker answers", 3)
        except AssertionError:  # a master that is still busy with the reload before loses the signal
            self._process.send_signal(signal.SIGUSR2)
            eventually(lambda: self._answers() and self._other(before), "a new worker answers", 30)

    def _other(self, before: int) -> bool:
        with contextlib.suppress(OSError, StopIteration):
            return self.pid() != before
        return False

    def kill(self) -> None:
        """kill -9 of the master and every worker."""
        if self._process is None:
            return
        listed = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True, check=False)
        self._process.kill()
        for pid in listed.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self._process.wait(10)
        self._process = None

    def server(self, ref: str) -> dict[str, str]:
        """A server's columns in `show servers state`."""
        rows = [line.split() for line in self.run("show servers state").splitlines()[1:] if line]
        columns = rows[0][1:]
        backend, name = ref.split("/")
        return next(dict(zip(columns, r, strict=False)) for r in rows[1:] if (r[1], r[3]) == (backend, name))


class Agent:
    """A real lbagent and its lbctl."""

    patience = 15.0  # seconds for it to start

    def __init__(self, folder: Path, config: dict[str, Any], prefix: tuple[str, ...] = ()) -> None:
        self.folder, self.settings, self.prefix = folder, config, prefix
        self.config, self.socket = folder / "lbagent.yaml", folder / "l.sock"
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.program: tuple[str | Path, ...] = (BIN / "lbagent",)
        self.write()

    def write(self) -> None:
        self.config.write_text(json.dumps(self.settings))  # JSON is YAML

    @property
    def metrics_port(self) -> int:
        return int(self.settings["metrics"]["listen"].rpartition(":")[2])

    def start(self, in_sync: bool = True) -> None:
        self.process = subprocess.Popen(
            [*self.prefix, *self.program, "--config", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("ab"),
            start_new_session=True,
        )
        eventually(self._serves, "the agent serves", self.patience)
        if in_sync:
            eventually(lambda: self.status()["haproxy"]["in_sync"], "the agent is in sync", self.patience)

    def _serves(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        return self.socket.exists() and self.lbctl("status", "--json").returncode == 0

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(15)
            self.process = None

    def kill(self) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # what it is started through may have it as a child
            self.process.wait(10)
            self.process = None

    def lbctl(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "lbctl", *arguments], capture_output=True, text=True, timeout=timeout, check=False, env=self.env()
        )

    def env(self) -> dict[str, str]:
        return {**os.environ, "LBAGENT_SOCKET": str(self.socket), "LBAGENT_CONFIG": str(self.config), "NO_COLOR": "1"}

    def ok(self, *arguments: str, timeout: float = 60.0) -> str:
        """lbctl that has to succeed; its output."""
        done = self.lbctl(*arguments, timeout=timeout)
        assert done.returncode == 0, f"lbctl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "lbctl", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env()
        )

    def status(self) -> dict[str, Any]:
        return json.loads(self.ok("status", "--json"))

    def service(self, name: str) -> dict[str, Any]:
        return next(s for s in self.status()["services"] if s["name"] == name)

    def node(self, name: str) -> dict[str, Any]:
        return next(n for n in self.status()["nodes"] if n["name"] == name)


class Lab:
    """Nodes ctl1…, services with one backend each, HAProxy adopted and running, an agent beside it.

    ``port[name]`` is a service's public frontend, ``internal[name]`` its internal one.
    """

    def __init__(
        self,
        services: tuple[str, ...] = ("nova", "keystone"),
        nodes: int = 3,
        *,
        check: str = "check inter 200 fall 2 rise 2",
        backend: dict[str, str] | None = None,
        extra: str = "",
        settings: dict[str, Any] | None = None,
        master: bool = True,
        guard: bool = True,
        global_lines: str = "",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lba-", dir="/tmp"))  # short: a unix socket's path has 107 bytes
        self.folder.chmod(0o755)
        self.nodes = [f"ctl{i + 1}" for i in range(nodes)]
        self.port = {name: free_port() for name in services}
        self.internal = {name: free_port() for name in services}
        self.origins = {node: {name: Origin(f"{node}/{name}").start() for name in services} for node in self.nodes}
        self.haproxy = HAProxy(self.folder)
        self.state = self.folder / "state"
        self.haproxy.config.write_text(self._text(services, check, backend or {}, extra, global_lines))
        self.agent = Agent(
            self.folder,
            {
                "node": "ctl1",
                "haproxy": {
                    "socket": str(self.haproxy.socket),
                    "config": [str(self.haproxy.config)],
                    "state_dir": str(self.state),
                    "check_command": [HAPROXY, "-c"],
                    **({"master_socket": str(self.haproxy.master_socket)} if master else {}),
                },
                "control": {"socket": str(self.folder / "l.sock")},
                "metrics": {"listen": f"127.0.0.1:{free_port()}"},
                "store": {"path": str(self.folder / "intent.json")},
                **(settings or {}),
            },
        )
        if guard:
            self.agent.ok("haproxy", "adopt", str(self.haproxy.config), "--write")

    def _text(self, services: tuple[str, ...], check: str, backend: dict[str, str], extra: str, more: str) -> str:
        text = f"""global
  stats socket {self.haproxy.socket} mode 660 level admin
  hard-stop-after 60s
{more}
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout queue 10s
  timeout check 3s
  option redispatch
  retries 3
"""
        for name in services:
            text += f"frontend {name}_public\n  bind 127.0.0.1:{self.port[name]}\n  default_backend {name}\n"
            text += f"frontend {name}_internal\n  bind 127.0.0.1:{self.internal[name]}\n  default_backend {name}\n"
            text += f"backend {name}\n"
            text += "  option httpchk GET /health\n" if "check" in check else ""
            text += backend.get(name, "")
            for node in self.nodes:
                cookie = f" cookie {node}" if "cookie" in backend.get(name, "") else ""
                text += f"  server {node} 127.0.0.1:{self.origins[node][name].port}{cookie} {check}\n"
        return text + extra

    def start(self) -> Lab:
        self.haproxy.start()
        self.agent.start()
        if "check" in self.haproxy.config.read_text():
            eventually(self._healthy, "every server is up")
        return self

    def _healthy(self) -> bool:
        servers = [s for service in self.agent.status()["services"] for s in service["servers"]]
        return bool(servers) and all(s["health"] != "down" for s in servers)

    def requests(self, node: str, since: float = 0.0, service: str | None = None) -> list[Entry]:
        """What a node's origins were asked."""
        return [
            e for name, origin in self.origins[node].items() if service in (None, name) for e in origin.requests(since)
        ]

    def let_go(self) -> None:
        """Answer what waits by now, on every node."""
        for origins in self.origins.values():
            for origin in origins.values():
                origin.let_go()

    def close(self) -> None:
        self.agent.kill()
        self.haproxy.kill()
        for services in self.origins.values():
            for origin in services.values():
                origin.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running_lab(*arguments: Any, **settings: Any) -> Iterator[Lab]:
    made = Lab(*arguments, **settings)
    try:
        yield made.start()
    finally:
        made.close()
