"""Two real Keystones that share a database."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.lab.clients import Answer, ask
from tests.lab.openstack import PASSWORD, keystone_bin
from tests.lab.ports import free_port
from tests.lab.wait import eventually

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
