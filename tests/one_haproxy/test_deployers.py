"""Layouts in the manner of Kolla-Ansible, OpenStack-Ansible and TripleO: adopted unedited, discovered, closed, restored."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.lab.agent import Agent
from tests.lab.clients import ask
from tests.lab.haproxy import HAPROXY, HAProxy
from tests.lab.origins import Origin
from tests.lab.ports import free_port
from tests.lab.wait import eventually


class Several(HAProxy):
    """An HAProxy with more than one configuration file."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        super().__init__(folder)
        self.files = files

    def start(self) -> None:
        named = [word for file in self.files for word in ("-f", str(file))]
        self._process = subprocess.Popen(
            [HAPROXY, "-W", "-db", "-S", str(self.master_socket), *named],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "haproxy.log").open("ab"),
        )
        self.wait_up()


class Site:
    """A folder with configuration files, their HAProxy and an agent with an empty configuration but for its paths."""

    def __init__(self, make, **settings: object) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lba-", dir="/tmp"))
        self.folder.chmod(0o755)
        (self.folder / "empty").mkdir()  # to chroot into
        self.port = {
            name: free_port() for name in ("keystone", "keystone_in", "nova", "nova_in", "horizon", "one", "db")
        }
        self.origin = Origin("any").start()
        texts = make(self)
        self.files = []
        for name, text in texts.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            self.files.append(path)
        self.before = {path: path.read_bytes() for path in self.files}
        self.haproxy = Several(self.folder, self.files)
        self.agent = Agent(
            self.folder,
            {
                "haproxy": {
                    "socket": str(self.haproxy.socket),
                    "master_socket": str(self.haproxy.master_socket),
                    "config": [str(path) for path in self.files],
                    "state_dir": str(self.folder / "state"),
                    "check_command": [HAPROXY, "-c"],
                },
                "control": {"socket": str(self.folder / "l.sock")},
                "metrics": {"listen": f"127.0.0.1:{free_port()}"},
                "store": {"path": str(self.folder / "intent.json")},
                **settings,
            },
        )

    def adopt(self) -> None:
        done = self.agent.lbctl("haproxy", "adopt", *map(str, self.files), "--write")
        assert done.returncode == 0, done.stderr
        again = self.agent.ok("haproxy", "adopt", *map(str, self.files))
        assert again == ""

    def start(self) -> None:
        self.haproxy.start()
        self.agent.start()

    def close(self) -> None:
        self.agent.kill()
        self.haproxy.kill()
        self.origin.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def kolla(site: Site) -> dict[str, str]:
    """haproxy.cfg and services.d/*.cfg; split frontends, an external twin, a single external frontend by map."""
    port = site.origin.port
    servers = "".join(
        f"    server control0{n} 127.0.0.{10 + n}:{port} check inter 2000 rise 2 fall 5\n" for n in (1, 2, 3)
    )
    servers = (
        servers.replace("127.0.0.11:", "127.0.0.1:")
        .replace("127.0.0.12:", "127.0.0.1:")
        .replace("127.0.0.13:", "127.0.0.1:")
    )
    head = f"""#jinja2: trim_blocks: False
global
    user root
    group root
    daemon
    maxconn 4000
    stats socket {site.haproxy_socket} group root mode 660 level admin
    ssl-default-bind-options prefer-client-ciphers no-sslv3 no-tlsv10 no-tlsv11

defaults
    option redispatch
    retries 3
    timeout http-request 10s
    timeout queue 1m
    timeout connect 10s
    timeout client 1m
    timeout server 1m
    timeout check 10s
    balance roundrobin
    maxconn 2000

frontend external_frontend
    mode http
    http-request del-header X-Forwarded-Proto
    option httplog
    option forwardfor
    bind 127.0.0.1:{site.port["one"]}
    use_backend %[req.hdr(host),lower,map_dom({site.folder}/external-frontend-map)]
"""
    site.folder.joinpath("external-frontend-map").write_text("nova.example.org nova_api_external_back\n")

    def service(name: str, internal: int, extra: str = "") -> str:
        return f"""frontend {name}_front
    mode http
    http-request del-header X-Forwarded-Proto
    option httplog
    option forwardfor
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    bind 127.0.0.1:{internal}
    default_backend {name}_back

backend {name}_back
    mode http
{extra}{servers}
backend {name}_external_back
    mode http
{extra}{servers}"""

    return {
        "haproxy.cfg": head,
        "services.d/horizon.cfg": service("horizon", site.port["horizon"], "    balance source\n"),
        "services.d/keystone.cfg": service(
            "keystone_internal", site.port["keystone_in"], "    option httpchk\n"
        ).replace("keystone_internal_external_back", "keystone_external_back")
        + f"""
frontend keystone_external_front
    mode http
    bind 127.0.0.1:{site.port["keystone"]}
    default_backend keystone_external_back
""",
        "services.d/mariadb.cfg": f"""frontend mariadb_front
    mode tcp
    option clitcpka
    timeout client 3600s
    option tcplog
    bind 127.0.0.1:{site.port["db"]}
    default_backend mariadb_back

backend mariadb_back
    mode tcp
    option srvtcpka
    timeout server 3600s
{servers}""",
        "services.d/nova.cfg": service("nova_api", site.port["nova_in"]),
    }


def osa(site: Site) -> dict[str, str]:
    """One file; frontends by number for each address, one shared backend; container names; a tcp redirect ahead."""
    port = site.origin.port

    def servers(what: str) -> str:
        return "".join(
            f"    server infra{n}_{what}_container-1a2b3c{n}d 127.0.0.1:{port} check port {port} inter 12000 rise 1 fall 1\n"
            for n in (1, 2, 3)
        )

    return {
        "haproxy.cfg": f"""# Ansible managed

global
        log /dev/log local0
        chroot {site.folder}/empty
        stats socket {site.haproxy_socket} level admin mode 600
        maxconn 4096

defaults
        log global
        option dontlognull
        option redispatch
        retries 3
        timeout client 50s
        timeout connect 10s
        timeout http-request 5s
        timeout server 50s
        maxconn 4096

frontend keystone_service-tcp-redirect-front-1
    bind 127.0.0.1:{site.port["one"]}
    mode tcp
    timeout client 5000s
    tcp-request inspect-delay 2s
    tcp-request content accept if HTTP
    use_backend keystone_service-back if HTTP

frontend keystone_service-front-1
    bind 127.0.0.1:{site.port["keystone"]}
    option httplog
    option forwardfor except 127.0.0.0/8
    mode http
    http-request add-header X-Forwarded-Proto https
    default_backend keystone_service-back

frontend keystone_service-front-2
    bind 127.0.0.1:{site.port["keystone_in"]}
    option httplog
    mode http
    default_backend keystone_service-back

backend keystone_service-back
    mode http
    balance leastconn
    stick store-request src
    stick-table type ip size 256k expire 30m
    stick on src
    option forwardfor
    option httpchk
    http-check send meth HEAD uri /healthcheck hdr User-Agent "osa-haproxy-healthcheck"
{servers("keystone")}
frontend nova_api_os_compute-front-1
    bind 127.0.0.1:{site.port["nova"]}
    mode http
    default_backend nova_api_os_compute-back

frontend nova_api_os_compute-front-2
    bind 127.0.0.1:{site.port["nova_in"]}
    mode http
    default_backend nova_api_os_compute-back

backend nova_api_os_compute-back
    mode http
    balance leastconn
{servers("nova_api")}
frontend galera-front-1
    bind 127.0.0.1:{site.port["db"]}
    mode tcp
    default_backend galera-back

backend galera-back
    mode tcp
    server infra1_galera_container-99887766 127.0.0.1:{port} check
"""
    }


def tripleo(site: Site) -> dict[str, str]:
    """listen sections that hold the internal and the public address together; `defaults mode tcp`; host names in full."""
    port = site.origin.port
    servers = "".join(
        f"  server overcloud-controller-{n}.internalapi.localdomain 127.0.0.1:{port} check fall 5 inter 2000 rise 2\n"
        for n in (0, 1, 2)
    )

    def listen(name: str, number: int, more: str = "") -> str:
        return f"""listen {name}
  bind 127.0.0.5:{number} transparent
  bind 127.0.0.6:{number} transparent
  mode http
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}
  http-request set-header X-Forwarded-Port %[dst_port]
  option httpchk
  option httplog
{more}{servers}
"""

    return {
        "haproxy.cfg": f"""# This file is managed by Puppet
global
  daemon
  group  root
  maxconn  2048
  stats  socket {site.haproxy_socket} mode 600 level admin
  user  root

defaults
  log  global
  maxconn  4096
  mode  tcp
  retries  3
  timeout  http-request 10s
  timeout  queue 2m
  timeout  connect 10s
  timeout  client 2m
  timeout  server 2m
  timeout  check 10s

"""
        + listen("keystone_public", site.port["keystone"])
        + listen("nova_osapi", site.port["nova"])
        + listen(
            "horizon", site.port["horizon"], "  cookie SERVERID insert indirect nocache\n  option forwardfor\n"
        ).replace("check fall", "check cookie overcloud fall")
        + f"""listen mysql
  bind 127.0.0.5:{site.port["db"]} transparent
  option tcpka
  stick on dst
  stick-table type ip size 1000
{servers}
"""
    }


LAYOUTS = {
    "kolla": (kolla, {"keystone", "nova", "horizon"}, "control01"),
    "osa": (osa, {"keystone", "nova"}, "infra1"),
    "tripleo": (tripleo, {"keystone", "nova", "horizon"}, "overcloud-controller-0"),
}


@pytest.fixture(params=LAYOUTS)
def site(request, monkeypatch):
    monkeypatch.setattr(Site, "haproxy_socket", property(lambda self: self.folder / "admin.sock"), raising=False)
    make, services, node = LAYOUTS[request.param]
    one = Site(make)
    one.layout, one.services, one.node = request.param, services, node
    yield one
    one.close()


def test_adopted_discovered_closed_and_restored(site):
    site.adopt()
    site.start()
    status = eventually(lambda: (s := site.agent.status())["haproxy"]["guard"] == "present" and s, "guarded")
    assert {s["name"] for s in status["services"]} == site.services
    assert site.node in {n["name"] for n in status["nodes"]}
    assert len(status["nodes"]) == 3
    host = "127.0.0.5" if site.layout == "tripleo" else "127.0.0.1"
    eventually(lambda: ask(site.port["keystone"], host=host).status == 200, "keystone answers")
    site.agent.ok("down", "nova", "--reason", "schema")
    nova = site.port["nova"] if site.layout != "kolla" else site.port["nova_in"]
    answer = ask(nova, host=host)
    assert answer.status == 503
    assert "schema" in answer.json["error"]["message"]
    if site.layout == "kolla":
        by_map = ask(site.port["one"], headers={"Host": "nova.example.org"})
        assert by_map.status == 503
    site.agent.ok("read-only", "keystone")
    assert ask(site.port["keystone"], "POST", "/v3/auth/tokens", host=host).status == 200
    assert ask(site.port["keystone"], "POST", "/v3/users", host=host).status == 503
    site.agent.ok("drain", site.node)
    databases = [
        r for r in site.haproxy.run("show servers state").splitlines() if "maria" in r or "galera" in r or "mysql" in r
    ]
    assert {r.split()[6] for r in databases} == {"0"}
    site.agent.ok("ready", site.node, "--force")
    doctor = site.agent.lbctl("doctor").stdout
    whose = {"kolla": "Kolla-Ansible", "osa": "OpenStack-Ansible", "tripleo": "by its name"}[site.layout]
    assert whose in doctor
    assert "frontends" in doctor
    site.agent.kill()
    site.agent.ok("haproxy", "adopt", "--remove", "--write", "--force", *map(str, site.files))
    assert {path: path.read_bytes() for path in site.files} == site.before


def test_one_listen_with_two_addresses(monkeypatch):
    """TripleO: only the address the client came to tells the public from the internal side."""
    monkeypatch.setattr(Site, "haproxy_socket", property(lambda self: self.folder / "admin.sock"), raising=False)
    one = Site(
        tripleo, services={"keystone": {"backends": ["keystone_public"], "frontends": ["keystone_public@127.0.0.6"]}}
    )
    try:
        one.adopt()
        one.start()
        eventually(lambda: ask(one.port["keystone"], host="127.0.0.5").status == 200, "it answers")
        one.agent.ok("down", "keystone")
        assert ask(one.port["keystone"], host="127.0.0.6").status == 503
        assert ask(one.port["keystone"], host="127.0.0.5").status == 200
        assert "x-maintenance" not in ask(one.port["keystone"], host="127.0.0.5").headers
        one.haproxy.reload()
        assert ask(one.port["keystone"], host="127.0.0.6").status == 503
        assert ask(one.port["keystone"], host="127.0.0.5").status == 200
    finally:
        one.close()
