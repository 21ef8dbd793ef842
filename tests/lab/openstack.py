"""OpenStack as it really is, for tests: two Keystones that share a database, and everybody's clients.

Both come from the package registry into virtual environments of their own, which are kept in LBAGENT_TEST_CACHE
(/var/cache/lbagent-test) and made again when their version list changes; taking the folder away is harmless.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.one_haproxy import HAPROXY, Agent, Answer, HAProxy, ask, eventually, free_port

CACHE = Path(os.environ.get("LBAGENT_TEST_CACHE", "/var/cache/lbagent-test"))
KEYSTONE = ("keystone>=27,<31", "gunicorn>=23,<28")
CLIENTS = (
    "keystoneauth1>=5.18,<6",  # before 5.16 Retry-After is ignored
    "openstacksdk>=4.8,<5",
    "python-openstackclient>=8,<11",
    "python-novaclient>=18.9,<19",
    "python-glanceclient>=4.8,<5",
    "python-neutronclient>=11,<15",
    "python-cinderclient>=9.7,<10",
    "python-heatclient>=4.2,<6",
)
PASSWORD = "secret"  # noqa: S105


def _environment(kind: str, packages: tuple[str, ...]) -> Path:
    """The bin folder of a virtual environment with ``packages``; whoever comes first makes it, the others wait."""
    python = f"{sys.version_info.major}.{sys.version_info.minor} {sys.base_prefix}"
    key = hashlib.sha256("\n".join((python, *packages)).encode()).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    place = CACHE / f"{kind}-{key}"
    with (CACHE / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():  # made where it stays: scripts name their interpreter by its path
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=120)
            pip = [place / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *packages]
            done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=900)
            assert done.returncode == 0, f"the packages of {kind} cannot be installed:\n{done.stderr[-2000:]}"
            (place / "complete").touch()
    return place / "bin"


def keystone_bin() -> Path:
    return _environment("keystone", KEYSTONE)


def clients_bin() -> Path:
    return _environment("clients", CLIENTS)


# ---------------------------------------------------------------------------------------------- the clients


@dataclass
class Clients:
    """The clients' environment, pointed at a cloud (or at none) by a clouds.yaml in ``folder``."""

    folder: Path
    cloud: dict[str, Any] | None = None
    bin: Path = field(default_factory=clients_bin)

    def __post_init__(self) -> None:
        (self.folder / "clouds.yaml").write_text(json.dumps({"clouds": {"test": self.cloud or {}}}))  # JSON is YAML

    def env(self, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "PYTHON"))}
        ours = {"OS_CLIENT_CONFIG_FILE": str(self.folder / "clouds.yaml"), "HOME": str(self.folder), "NO_COLOR": "1"}
        return clean | ours | ({"OS_CLOUD": "test"} if self.cloud else {}) | more

    def openstack(self, *arguments: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """The ``openstack`` command."""
        return self._run([self.bin / "openstack", *arguments], timeout, env)

    def script(self, text: str, *arguments: str, timeout: float = 120, **env: str) -> Any:
        """What a script prints, as JSON."""
        done = self._run([self.bin / "python", "-c", text, *arguments], timeout, env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def begin(self, text: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.bin / "python", "-u", "-c", text, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env(**env),
        )

    def _run(self, command: list[Any], timeout: float, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, env=self.env(**env)
        )


# --------------------------------------------------------------------------------------------- the Keystones

APPLICATION = """import sys

sys.argv = sys.argv[:1]  # keystone reads the command line; what stands there is gunicorn's
from keystone.wsgi.api import application  # noqa: E402,F401
"""


class Keystones:
    """Controllers ctl1, ctl2 with a Keystone each, on one database; the catalog leads to ``public_port``."""

    def __init__(self, folder: Path, public_port: int, nodes: tuple[str, ...] = ("ctl1", "ctl2")) -> None:
        self.folder, self.public_port = folder, public_port
        self.port = {node: free_port() for node in nodes}
        self._bin = keystone_bin()
        self._config = folder / "keystone.conf"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def make(self) -> None:
        """Database, keys, the administrator and Keystone's own entry in the catalog."""
        (self.folder / "application.py").write_text(APPLICATION)
        self._config.write_text(f"""[DEFAULT]
log_file = {self.folder}/keystone.log
[database]
connection = sqlite:///{self.folder}/ks.db
[fernet_tokens]
key_repository = {self.folder}/fernet
[credential]
key_repository = {self.folder}/credential
[identity]
password_hash_rounds = 4
""")
        mine = ("--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid()))
        for name in ("fernet", "credential"):
            (self.folder / name).mkdir()
        self._manage("db_sync")
        self._manage("fernet_setup", *mine)
        self._manage("credential_setup", *mine)
        urls = [
            f"--bootstrap-{kind}-url=http://127.0.0.1:{self.public_port}/v3/"
            for kind in ("admin", "internal", "public")
        ]
        self._manage("bootstrap", "--bootstrap-password", PASSWORD, *urls, "--bootstrap-region-id", "RegionOne")

    def _manage(self, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / "keystone-manage", "--config-file", str(self._config), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, f"keystone-manage {arguments[0]}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"

    def start(self) -> None:
        for node, port in self.port.items():
            self._running[node] = subprocess.Popen(
                [
                    *(self._bin / "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}"),
                    *("--access-logfile", str(self.folder / f"{node}.access"), "--no-control-socket"),
                    "application:application",
                ],
                cwd=self.folder,
                env={**os.environ, "OS_KEYSTONE_CONFIG_FILES": str(self._config)},
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / f"{node}.log").open("ab"),
                start_new_session=True,
            )
        for node in self.port:
            eventually(lambda node=node: self._answers(node), lambda node=node: self._trouble(node), 90)

    def _answers(self, node: str) -> bool:
        assert self._running[node].poll() is None, self._trouble(node)
        try:
            return ask(self.port[node], "GET", "/v3").status == 200
        except OSError:
            return False

    def _trouble(self, node: str) -> str:
        return f"Keystone of {node} answers: " + (self.folder / f"{node}.log").read_text()[-2000:]

    def requests(self, node: str) -> list[str]:
        """A Keystone's access log; HAProxy's checks only connect and leave no line."""
        return (self.folder / f"{node}.access").read_text().splitlines()

    def token(self) -> str:
        """A token for the administrator, from a Keystone itself."""
        login = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}},
                },
                "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
            }
        }
        return self._post("auth/tokens", login).headers["x-subject-token"]

    def register(self, kind: str, name: str, url: str) -> None:
        """An entry in the catalog."""
        token = {"X-Auth-Token": self.token()}
        service = self._post("services", {"service": {"type": kind, "name": name}}, token).json["service"]["id"]
        for interface in ("public", "internal", "admin"):
            entry = {"service_id": service, "interface": interface, "url": url, "region_id": "RegionOne"}
            self._post("endpoints", {"endpoint": entry}, token)

    def _post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
        port = next(iter(self.port.values()))
        headers = {"Content-Type": "application/json", **(headers or {})}
        answer = ask(port, "POST", f"/v3/{path}", headers=headers, body=json.dumps(body).encode())
        assert answer.status == 201, answer
        return answer

    def stop(self) -> None:
        for process in self._running.values():  # with its workers; nothing of theirs is kept
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)
        self._running = {}


# ------------------------------------------------------------------------------------------ version documents


class Documents(http.server.ThreadingHTTPServer):
    """An API of fixed documents: path → (status, body). Everything else is a 404."""

    daemon_threads = True

    def __init__(self, documents: dict[str, tuple[int, Any]], port: int | None = None) -> None:
        self.documents = documents
        super().__init__(("127.0.0.1", port or free_port()), _DocumentHandler)
        self.port: int = self.server_address[1]
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that was cut


class _DocumentHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Documents = self.server  # type: ignore[assignment]
        self._answer(*server.documents.get(self.path, (404, {"error": {"code": 404, "message": "no such page"}})))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("X-Subject-Token", "token")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Catalog(Documents):
    """What stands in for a Keystone where only its catalog matters: gives everybody a token. type → URL."""

    def __init__(self, urls: dict[str, str]) -> None:
        port = free_port()
        self.login = {
            "auth": {
                "auth_url": f"http://127.0.0.1:{port}/v3",
                "username": "admin",
                "password": PASSWORD,
                "project_name": "admin",
                "user_domain_id": "default",
                "project_domain_id": "default",
            },
            "region_name": "RegionOne",
        }
        links = [{"rel": "self", "href": f"http://127.0.0.1:{port}/v3/"}]
        version = {"id": "v3.14", "status": "stable", "links": links}
        place = {"id": "1", "interface": "public", "region": "RegionOne", "region_id": "RegionOne"}
        domain = {"id": "default", "name": "Default"}
        token = {
            "methods": ["password"],
            "issued_at": "2024-01-01T00:00:00.000000Z",
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "audit_ids": ["1"],
            "user": {"id": "u", "name": "admin", "domain": domain},
            "project": {"id": "p", "name": "admin", "domain": domain},
            "roles": [{"id": "r", "name": "admin"}],
            "catalog": [
                {"type": kind, "name": kind, "id": kind, "endpoints": [{**place, "url": url}]}
                for kind, url in urls.items()
            ],
        }
        versions = dict.fromkeys(("/v3", "/v3/"), (200, {"version": version}))
        super().__init__({**versions, "/v3/auth/tokens": (201, {"token": token})}, port)


# ------------------------------------------------------------------------------------------------- the cloud


class Cloud:
    """HAProxy, adopted, with an agent, in front of two Keystones; ``behind``: more services, name → origin's port."""

    def __init__(self, behind: dict[str, int] | None = None, settings: dict[str, Any] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lbo-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.behind = behind or {}
        self.port = {name: free_port() for name in ("keystone", *self.behind)}
        self.keystones = Keystones(self.folder, self.port["keystone"])
        self.haproxy = HAProxy(self.folder)
        self.haproxy.config.write_text(self._text())
        haproxy = {
            "socket": str(self.haproxy.socket),
            "master_socket": str(self.haproxy.master_socket),
            "config": [str(self.haproxy.config)],
            "state_dir": str(self.folder / "state"),
            "check_command": [HAPROXY, "-c"],
        }
        self.agent = Agent(
            self.folder,
            {
                "node": "ctl1",
                "haproxy": haproxy,
                "control": {"socket": str(self.folder / "l.sock")},
                "metrics": {"listen": f"127.0.0.1:{free_port()}"},
                "store": {"path": str(self.folder / "intent.json")},
                **(settings or {}),
            },
        )
        self.agent.ok("haproxy", "adopt", str(self.haproxy.config), "--write")

    def _text(self) -> str:
        text = f"""global
  stats socket {self.haproxy.socket} mode 660 level admin
  hard-stop-after 60s
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout queue 20s
  option redispatch
  retries 3
"""
        servers = {name: {"ctl1": port} for name, port in self.behind.items()} | {"keystone": self.keystones.port}
        for name, ports in servers.items():
            text += f"frontend {name}_public\n  bind 127.0.0.1:{self.port[name]}\n  default_backend {name}\n"
            text += f"backend {name}\n  balance roundrobin\n"
            for node, port in ports.items():
                text += f"  server {node} 127.0.0.1:{port} check inter 500 fall 3 rise 1\n"
        return text

    def start(self) -> Cloud:
        self.keystones.make()
        self.keystones.start()
        self.haproxy.start()
        self.agent.start()
        eventually(self._healthy, "every server is up", 30)
        return self

    def _healthy(self) -> bool:
        servers = [s for service in self.agent.status()["services"] for s in service["servers"]]
        return bool(servers) and all(s["health"] == "up" for s in servers)

    def login(self) -> dict[str, Any]:
        """The cloud's entry in a clouds.yaml."""
        auth = {
            "auth_url": f"http://127.0.0.1:{self.port['keystone']}/v3",
            "username": "admin",
            "password": PASSWORD,
            "project_name": "admin",
            "user_domain_id": "default",
            "project_domain_id": "default",
        }
        return {"auth": auth, "region_name": "RegionOne", "identity_api_version": 3}

    def close(self) -> None:
        self.agent.kill()
        self.haproxy.kill()
        self.keystones.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
