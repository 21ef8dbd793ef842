"""Read-only by name: every row of OpenStack's own lists, through a real HAProxy, with the origin's log as judge."""

from __future__ import annotations

import contextlib
import json
import time

import pytest

from tests.lab.clients import ask
from tests.lab.one_haproxy import Lab

SERVICES = (
    "keystone", "nova", "cinder", "glance", "neutron", "placement", "heat", "heat-cfn", "swift", "horizon", "ironic",
    "octavia", "magnum", "mistral", "aodh", "gnocchi", "zun",
    "blazar", "cloudkitty", "cyborg", "tacker", "watcher", "adjutant", "freezer", "ironic-inspector", "skyline",
    "nova-novncproxy",
)  # fmt: skip
U = "6f70656e-7374-6163-6b20-697320676f6f"

PASS = {
    "keystone": [
        *(("POST", f"{p}{path}") for p in ("", "/identity") for path in (
            "/v3/auth/tokens", "/v3/auth/tokens/", "/v3/ec2tokens", "/v3/s3tokens", "/v3/OS-OAUTH2/token",
            "/v3/auth/OS-FEDERATION/saml2", "/v3/auth/OS-FEDERATION/saml2/ecp", "/v3/auth/OS-FEDERATION/websso/saml2",
            "/v3/auth/OS-FEDERATION/identity_providers/idp/protocols/saml2/websso",
            "/v3/OS-FEDERATION/identity_providers/idp/protocols/saml2/auth",
        )),
    ],
    "nova": [("POST", f"{v}/servers/{U}/remote-consoles") for v in ("/v2.1", "/v2", "/v2.0", f"/v2.1/{U}", "/compute/v2.1")],
    "heat": [
        ("POST", "/v1/tenant/validate"), ("POST", "/v1/tenant/stacks/preview"),
        ("PUT", "/v1/tenant/stacks/name/id/preview"), ("PATCH", "/v1/tenant/stacks/name/id/preview"),
    ],
    "mistral": [("POST", f"/v2/{kind}/validate") for kind in ("workflows", "workbooks", "actions")],
    "aodh": [("POST", "/v2/query/alarms"), ("POST", "/v2/query/alarms/history")],
    "gnocchi": [
        ("POST", "/v1/aggregates"), ("POST", "/v1/search/resource/generic"), ("POST", "/v1/search/metric"),
        ("POST", "/v1/aggregation/metric"), ("POST", "/v1/aggregation/resource/generic/metric/cpu"),
        ("GET", "/v1/metric/x/measures?refresh=false"),
    ],
    "magnum": [("POST", "/v1/certificates")],
    "horizon": [("POST", p) for p in ("/auth/login/", "/auth/logout/", "/auth/websso/", "/api/policy/", "/horizon/auth/login/")],
    "heat-cfn": [("GET", f"/v1/?Action={a}") for a in ("DescribeStacks", "ListStacks", "GetTemplate", "ValidateTemplate", "EstimateTemplateCost")],
    "swift": [("GET", "/v1/AUTH_x/c/a//b/./c;d"), ("HEAD", "/v1/AUTH_x/c/o%2fp")],
    "neutron": [("GET", "/v2.0/networks"), ("GET", "/v2.0/networks?name=a%20b&fields=id")],
    "ironic": [("GET", "/v1/nodes")],
    "zun": [("GET", "/v1/containers/x")],
    "blazar": [("GET", "/v1/leases"), ("GET", "/v1/os-hosts/properties")],
    "cloudkitty": [("POST", "/v1/rating/quote"), ("POST", "/rating/v1/rating/quote/"), ("GET", "/v2/summary?begin=2026-01-01")],
    "cyborg": [("GET", "/accelerator/v2/accelerator_requests")],
    "tacker": [("GET", "/vnflcm/v2/vnf_instances")],
    "watcher": [("GET", "/v1/audits/detail")],
    "adjutant": [("GET", "/v1/tasks"), ("GET", "/v1/openstack/quotas/")],
    "freezer": [("GET", "/v2/tenant/jobs?offset=1")],
    "ironic-inspector": [("GET", f"/v1/introspection/{U}/data")],
    "skyline": [
        *(("POST", f"{p}/api/v1/{path}") for p in ("", "/api/openstack/skyline") for path in (
            "login", "login/totp", "logout", "websso", "switch_project/x", "switch_region/y", "policies/check",
        )),
        ("GET", "/api/v1/extension/servers"),
    ],
    "nova-novncproxy": [("GET", "/vnc_lite.html?path=%3Ftoken%3D1")],
}  # fmt: skip

REFUSED = {
    "blazar": [("POST", "/v1/leases"), ("DELETE", "/v1/leases/x"), ("GET", "/v2/leases/x?_method=delete")],
    "cloudkitty": [
        ("GET", "/v1/rating/reload_modules"), ("HEAD", "/v1/rating/reload_modules/"), ("GET", "/v1/rating/reload_modules.json"),
        ("GET", "/v1/rating/%72eload_modules"), ("POST", "/v2/dataframes"), ("PUT", "/v2/rating/modules/hashmap"),
        ("POST", "/v2/task/reprocesses"),
    ],
    "cyborg": [("PATCH", "/v2/accelerator_requests"), ("POST", "/v2/devices/x/disable")],
    "tacker": [("POST", "/vnflcm/v2/vnf_instances/x/terminate"), ("DELETE", "/v1.0/vims/x")],
    "watcher": [("POST", "/v1/webhooks/x"), ("POST", "/v1/action_plans/x/start")],
    "adjutant": [("POST", "/v1/actions/ResetPassword"), ("POST", "/v1/tokens/x"), ("PUT", "/v1/tasks/x")],
    "freezer": [("POST", "/v2/tenant/jobs/x/event"), ("PATCH", "/v2/tenant/backups/x")],
    "ironic-inspector": [("POST", "/v1/continue"), ("POST", f"/v1/introspection/{U}"), ("DELETE", "/v1/rules")],
    "skyline": [
        ("PUT", "/api/v1/setting"), ("POST", "/api/openstack/regionone/nova/servers"), ("POST", "/api/v1/login/x"),
        ("POST", "/x/api/v1/login"),
    ],
    "nova-novncproxy": [("POST", "/websockify")],
    "keystone": [
        ("DELETE", "/v3/auth/tokens"), ("POST", "/v3/OS-OAUTH1/request_token"), ("POST", f"/v3/users/{U}/password"),
        ("POST", "/v3/projects"), ("POST", "/a/b/v3/auth/tokens"), ("POST", "/v3/OS-FEDERATION/mappings"),
        ("POST", "/v3/auth/OS-FEDERATION/websso/a/b"),
    ],
    "nova": [
        ("POST", "/v2.1/servers"), ("POST", f"/v2.1/servers/{U}/remote-consoles/x"), ("DELETE", f"/v2.1/servers/{U}"),
        ("POST", f"/v2.1/servers/../servers/{U}/remote-consoles"),
    ],
    "neutron": [
        ("GET", "/v2.0/auto-allocated-topology/p"), ("GET", "/v2.0/%61uto-allocated-topology/p"),
        ("GET", "/network/v2.0/auto-allocated-topology/p?x=1"), ("GET", "/v2.0//auto-allocated-topology/p"),
        ("GET", "/v2.0/x/../auto-allocated-topology/p"), ("GET", "/v2.0/auto-allocated-topology/p.json"),
        ("HEAD", "/v2.0/auto-allocated-topology/p"), ("POST", "/v2.0/networks"),
    ],
    "heat-cfn": [
        ("GET", f"/v1/?{q}") for q in (
            "Action=CreateStack", "Action=DeleteStack", "Action=DescribeStacks&Action=DeleteStack", "Action=",
            "Action=DeleteStack&Action=DescribeStacks", "%41ction=DeleteStack", "Action=%44eleteStack",
            "x=1&Action=UpdateStack", "Action=DescribeStacks;Action=DeleteStack", "Action=describe&Action=Delete",
            "Action=DescribeStacks&%41ction=DeleteStack", "Action=SignalResource", "Action=Descri", "Action=Li",
        )
    ],
    "ironic": [("GET", "/v1/lookup"), ("GET", "/v1/lookup?addresses=x"), ("POST", "/v1/heartbeat/x"), ("GET", "/v1//lookup")],
    "gnocchi": [("GET", f"/v1/metric/x/measures?{q}") for q in ("refresh=true", "refresh=1", "a=b&refresh=True", "refresh=yes", "refresh=on", "refresh=t", "%72efresh=true", "refresh=%74rue")]
    + [("POST", "/v1/metric"), ("POST", "/v1/aggregates?refresh=true")],
    "zun": [("GET", "/v1/containers/x/attach"), ("GET", "/containers/x/attach")],
    "octavia": [("GET", "/v2/lbaas/loadbalancers/x?_method=delete"), ("GET", "/v2/x?%5fmethod=delete"), ("GET", "/v2/x?_method=post")],
    "magnum": [("POST", "/v1/clusters"), ("PATCH", "/v1/certificates")],
    "mistral": [("POST", "/v2/workflows")],
    "aodh": [("POST", "/v2/alarms"), ("GET", "/v2/alarms?_method=DELETE")],
    "heat": [("POST", "/v1/tenant/stacks"), ("PUT", "/v1/tenant/stacks/name/id"), ("POST", "/v1/a/b/validate")],
    "horizon": [("POST", "/project/instances/"), ("POST", "/auth/login/x")],
    "swift": [("PUT", "/v1/AUTH_x/c/o"), ("POST", "/v1/AUTH_x"), ("COPY", "/v1/AUTH_x/c/o"), ("DELETE", "/v1/AUTH_x/c/o")],
    "cinder": [("POST", "/v3/p/volumes"), ("DELETE", "/v3/p/volumes/x")],
    "glance": [("PUT", "/v2/images/x/file"), ("POST", "/v2/images")],
    "placement": [("PUT", "/resource_providers/x/inventories"), ("POST", "/allocations")],
}  # fmt: skip

ACTION = f"/v2.1/servers/{U}/action"
VOLUME = f"/v3/p/volumes/{U}/action"
READING_BODIES = [
    ("nova", ACTION, {"os-getConsoleOutput": {"length": 50}}),
    ("nova", ACTION, {"os-getConsoleOutput": None}),
    *(("nova", ACTION, {f"os-get{k}Console": {"type": "novnc"}}) for k in ("VNC", "SPICE", "Serial", "RDP", "MKS")),
    ("cinder", VOLUME, {"os-show_image_metadata": {}}),
]
WRITING_BODIES = [
    ("nova", ACTION, b'{"reboot": {"type": "HARD"}}'),
    ("nova", ACTION, b'{"os-getConsoleOutput": {}, "reboot": {"type": "HARD"}}'),
    ("nova", ACTION, b'{"reboot": {"type": "HARD"}, "os-getConsoleOutput": {}}'),
    ("nova", ACTION, b'{"os-getConsoleOutput": {}}{"reboot": null}'),
    ("nova", ACTION, b'{"os-getConsole\\u004futput": {}}'),
    ("nova", ACTION, b'{"os-getConsoleOutput": {"a": {"b": 1}}}'),
    ("nova", ACTION, b'{"os-getConsoleOutput": [], "x": 1}'),
    ("nova", ACTION, b""),
    ("nova", ACTION, b"null"),
    ("nova", ACTION, b'{"os-getConsoleOutput": {}}' + b" " * 20000),
    ("nova", ACTION, b'{"os-getConsoleOutput": {}}\x00'),
    ("nova", ACTION, '{"os-getConsoleOutput": {}}'.encode("utf-16")),
    ("nova", "/v2.1/servers/../servers/x/action", b'{"os-getConsoleOutput": {}}'),
    ("nova", ACTION + "?_method=delete", b'{"os-getConsoleOutput": {}}'),
    ("cinder", VOLUME, b'{"os-detach": {}}'),
    ("cinder", VOLUME, b'{"os-getConsoleOutput": {}}'),
]


@pytest.fixture(scope="module")
def restricted():
    made = Lab(services=SERVICES, nodes=1, check="")
    made.start()
    made.agent.ok("read-only", *SERVICES, "--reason", "upgrade")
    yield made
    made.close()


@pytest.mark.parametrize("service", SERVICES)
def test_every_row(restricted, service):
    port = restricted.port[service]
    for method, path in [("GET", "/"), ("HEAD", "/v1"), ("OPTIONS", "/"), *PASS.get(service, [])]:
        assert ask(port, method, path).status == 200, (method, path)
    since = time.time()
    for method, path in [("POST", "/"), ("PUT", "/x"), ("PATCH", "/x"), ("DELETE", "/x"), *REFUSED.get(service, [])]:
        assert ask(port, method, path).status == 503, (method, path)
    assert [(e.method, e.path) for e in restricted.requests("ctl1", since, service)] == []


@pytest.mark.parametrize(("service", "path", "body"), READING_BODIES, ids=lambda v: str(v)[:40])
def test_actions_that_read_pass_by_their_body(restricted, service, path, body):
    raw = json.dumps(body).encode()
    assert ask(restricted.port[service], "POST", path, body=raw).status == 200
    assert ask(restricted.port[service], "POST", path, body=b" \n" + raw + b"\r\n ").status == 200
    assert chunked(restricted.port[service], path, [raw[:9], raw[9:]]) == 200


@pytest.mark.parametrize(("service", "path", "body"), WRITING_BODIES, ids=lambda v: str(v)[:40])
def test_actions_that_write_are_refused(restricted, service, path, body):
    since = time.time()
    assert ask(restricted.port[service], "POST", path, body=body).status == 503
    if body:
        assert chunked(restricted.port[service], path, [body[:9], body[9:]]) == 503
    assert [(e.method, e.path) for e in restricted.requests("ctl1", since, service)] == []


def test_a_body_that_does_not_come_is_not_waited_for(restricted):
    """Two seconds at most, then it is refused: a promise of a body passes nothing."""
    import socket  # noqa: PLC0415

    with socket.create_connection(("127.0.0.1", restricted.port["nova"]), timeout=20) as connection:
        began = time.monotonic()
        head = f"POST {ACTION} HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n"
        connection.sendall(head.encode() + b'{"os-getConsoleOutput": {}}')
        assert connection.recv(65536).split()[1] in (b"408", b"503")  # HAProxy's own word for a body that is late
        assert time.monotonic() - began < 8


def chunked(port: int, path: str, chunks: list[bytes]) -> int:
    import http.client  # noqa: PLC0415

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before the body was through
        connection.request("POST", path, iter(chunks), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    status = connection.getresponse().status
    connection.close()
    return status
