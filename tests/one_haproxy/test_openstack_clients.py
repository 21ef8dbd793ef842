"""What people see of a closed service in OpenStack's own clients: the service and the reason, never a stack trace."""

from __future__ import annotations

import html
import json

import pytest

from tests.lab.catalog import Catalog
from tests.lab.clients import ask
from tests.lab.one_haproxy import Lab
from tests.lab.openstack import Clients

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # whoever comes first on a machine installs the clients

REASON = 'swap of disks, row 7 | 50% "done"'
CATALOG = {  # as deployers write it: some with a version, some without
    "nova": ("compute", "/v2.1"),
    "glance": ("image", ""),
    "neutron": ("network", ""),
    "cinder": ("block-storage", "/v3/p"),
    "heat": ("orchestration", "/v1/p"),
    "placement": ("placement", ""),
    "keystone": ("identity", "/v3"),
    "swift": ("object-store", "/v1/AUTH_p"),
    "ironic": ("baremetal", ""),
    "barbican": ("key-manager", ""),
}
SEE = """
import json, logging, sys, warnings
warnings.simplefilter("ignore"), logging.disable(logging.CRITICAL)
ports, seen = json.loads(sys.argv[1]), {}

def url(service, path=""):
    return f"http://127.0.0.1:{ports[service]}{path}"

def see(service, name, call):
    try:
        seen[f"{name} {service}"] = ["nothing", repr(call())]
    except BaseException as error:
        seen[f"{name} {service}"] = [type(error).__name__, str(error)]
"""
SDK = (
    SEE
    + """
import openstack
for service, kind, call in (
    ("nova", "compute", "servers"), ("glance", "image", "images"), ("neutron", "network", "networks"),
    ("cinder", "block_storage", "volumes"), ("heat", "orchestration", "stacks"), ("keystone", "identity", "projects"),
    ("placement", "placement", "resource_providers"), ("swift", "object_store", "containers"),
    ("ironic", "baremetal", "nodes"), ("barbican", "key_manager", "secrets"),
):
    # By itself the SDK asks six times for images and nodes; this is about what it says in the end.
    cloud = openstack.connect(cloud="test", **{f"{kind}_status_code_retries": "0"})
    see(service, "sdk", lambda: list(getattr(getattr(cloud, kind), call)()))
print(json.dumps(seen))
"""
)
OTHERS = (
    SEE
    + """
from keystoneauth1 import noauth, session
import glanceclient
from cinderclient import client as cinder
from heatclient import client as heat
from neutronclient.v2_0 import client as neutron
from novaclient import client as nova
plain = session.Session(auth=noauth.NoAuth())
for service in ports:
    see(service, "keystoneauth1", lambda: plain.get(url(service, "/v3/x")))
over = dict(session=plain, endpoint_override=url("nova", "/v2.1"))
see("nova", "novaclient", lambda: nova.Client("2.1", **over).servers.list())
see("glance", "glanceclient", lambda: list(glanceclient.Client("2", endpoint=url("glance"), token="x").images.list()))
see("neutron", "neutronclient", lambda: neutron.Client(endpoint_url=url("neutron"), token="x").list_networks())
over = dict(session=plain, endpoint_override=url("cinder", "/v3/p"))
see("cinder", "cinderclient", lambda: cinder.Client("3", **over).volumes.list())
see("heat", "heatclient", lambda: list(heat.Client("1", endpoint=url("heat", "/v1/p"), token="x").stacks.list()))
over = dict(session=plain, endpoint_override=url("glance", "/v2"))
see("glance", "glanceclient with a session", lambda: list(glanceclient.Client("2", **over).images.list()))
over = dict(session=plain, endpoint_override=url("neutron"))
see("neutron", "neutronclient with a session", lambda: neutron.Client(**over).list_networks())
over = dict(session=plain, endpoint_override=url("heat", "/v1/p"))
see("heat", "heatclient with a session", lambda: list(heat.Client("1", **over).stacks.list()))
print(json.dumps(seen))
"""
)
SEEN = [
    *(f"sdk {service}" for service in CATALOG),
    *(f"keystoneauth1 {service}" for service in CATALOG),
    *("novaclient nova", "glanceclient glance", "neutronclient neutron", "cinderclient cinder", "heatclient heat"),
    *(f"{name}client with a session {name}" for name in ("glance", "neutron", "heat")),
]
GENERIC = {
    "keystoneauth1 neutron",
}  # it knows one shape; these are for the services' own clients


@pytest.fixture(scope="module")
def closed():
    """Every service closed, its servers stopped: what clients learn, HAProxy tells them."""
    made = Lab(services=tuple(CATALOG), nodes=1, check="")
    made.start()
    made.agent.ok("down", *CATALOG, "--reason", REASON)
    for origin in made.origins["ctl1"].values():
        origin.stop()
    made.catalog = Catalog({kind: f"http://127.0.0.1:{made.port[n]}{path}" for n, (kind, path) in CATALOG.items()})
    made.clients = Clients(made.folder, made.catalog.login | {"image_status_code_retries": "0"})  # or it asks six times
    yield made
    made.catalog.stop()
    made.close()


@pytest.fixture(scope="module")
def seen(closed):
    ports = json.dumps(closed.port)
    return closed.clients.script(SDK, ports, timeout=300) | closed.clients.script(OTHERS, ports, timeout=300)


@pytest.mark.parametrize("name", SEEN)
def test_clients_say_which_service_is_closed_and_why(seen, name):
    kind, text = seen[name]
    assert kind not in ("nothing", "AttributeError", "KeyError", "TypeError"), text
    if name in GENERIC:
        assert "503" in text
    else:
        assert f"{name.split()[-1]} is closed for maintenance: {REASON}" in html.unescape(text)


@pytest.mark.parametrize(
    ("command", "service"),
    [
        ("server list", "nova"),
        ("image list", "glance"),
        ("network list", "neutron"),
        ("volume list", "cinder"),
        ("stack list", "heat"),
        ("project list", "keystone"),
    ],
)
def test_the_command_says_it_too(closed, command, service):
    done = closed.clients.openstack(*command.split())
    assert done.returncode == 1
    assert f"{service} is closed for maintenance: {REASON}" in done.stderr
    assert "Traceback" not in done.stderr and "AttributeError" not in done.stderr


def test_only_openstacks_clients_are_told_versions(closed):
    """Everyone else gets the 503 at the root too, and OpenStack's clients everywhere but there."""
    client = {"User-Agent": "openstacksdk/4.22.0 keystoneauth1/5.18.0 python-requests/2.32 CPython/3.11"}
    told = ask(closed.port["glance"], headers=client)
    assert told.status == 200
    assert told.json["versions"][0]["links"][0]["href"] == "v2/"
    assert told.headers["x-maintenance"] == "down"
    assert ask(closed.port["glance"]).status == 503
    assert ask(closed.port["glance"], path="/v2/images", headers=client).status == 503
    assert ask(closed.port["glance"], "POST", headers=client).status == 503
    assert ask(closed.port["placement"], path="/traits", headers=client).status == 503
    assert ask(closed.port["nova"], headers=client).status == 503


def test_barbicans_sdk_is_told_versions_at_v1_too(closed):
    """The same document, whose href leads to /v1 from either place; no other service's /v1 has one."""
    client = {"User-Agent": "openstacksdk/4.22.0 keystoneauth1/5.18.0 python-requests/2.32 CPython/3.11"}
    for path in ("/", "/v1", "/key-manager", "/key-manager/", "/key-manager/v1"):
        told = ask(closed.port["barbican"], path=path, headers=client)
        assert (told.status, told.json["versions"][0]["links"][0]["href"]) == (200, "v1")
    for path in ("/v1/", "/v1/secrets", "/x/v1"):
        assert ask(closed.port["barbican"], path=path, headers=client).status == 503
    assert ask(closed.port["barbican"], path="/v1").status == 503
    assert ask(closed.port["ironic"], path="/v1", headers=client).status == 503
