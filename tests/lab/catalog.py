"""An API of fixed documents, and a catalog that gives everybody a token."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Any

from tests.lab.openstack import PASSWORD
from tests.lab.ports import free_port


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
