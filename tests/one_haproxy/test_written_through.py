"""Requests by which real services were written through the read-only guard of the first release: refused by now."""

from __future__ import annotations

import pytest

from tests.lab.clients import ask

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}

WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}

REFUSED = [
    ("heat-cfn", "GET", "/v1/?x=%0a&Action=DeleteStack&StackName=prod", {}, None),
    ("heat-cfn", "HEAD", "/v1/?x=%0a&Action=DeleteStack&StackName=prod", {}, None),
    ("heat-cfn", "OPTIONS", "/v1/", FORM, b"Action=DeleteStack"),
    ("gnocchi", "GET", "/v1/metric/x/measures?x=%0a&refresh=true", {}, None),
    ("designate", "OPTIONS", "/v2/zones/1", FORM, b"_method=delete"),
    ("designate", "OPTIONS", "/v2/zones/1", MULTIPART, b'--x\r\nContent-Disposition: form-data; name="_method"\r\n'),
    ("ironic", "GET", "/v1/lookup.json", {}, None),
    ("ironic", "GET", "/a/b/v1/lookup", {}, None),
    ("zun", "GET", "/v1/containers/1/attach.json", {}, None),
    ("zun", "GET", "/v1/containers/attach?container_ident=1", {}, None),
    ("designate", "GET", "/v2/zones", {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}, None),
    ("designate", "GET", "/v2/zones", WEBSOCKET, None),
    ("designate", "GET", "/v2/zones/1", {"X_HTTP_Method_Override": "DELETE"}, None),
    ("designate", "GET", "/v2/zones/1", {"X-HTTP_Method-Override": "DELETE"}, None),
    ("designate", "GET", "/v2/zones/1", {"X_Method_Override": "DELETE"}, None),
    ("designate", "GET", "/v2/zones/%0a1", {}, None),
    ("gnocchi", "POST", "/v1/aggregates", FORM, b"_method=delete"),
    ("designate", "GET", "/v2/zones/1?_method=delete", {}, None),
    ("designate", "GET", "/v2/zones/1?%5fmethod=delete", {}, None),
]

PASSED = [
    ("heat-cfn", "GET", "/v1/?Action=DescribeStacks&StackName=prod", {}, None),
    ("gnocchi", "GET", "/v1/metric/x/measures?granularity=60&start=-1h", {}, None),
    ("gnocchi", "POST", "/v1/aggregates", {"Content-Type": "application/json"}, b"{}"),
    ("designate", "GET", "/v2/zones?name=example.org.&limit=10", {"If-None-Match": '"x"'}, None),
    ("designate", "GET", "/v2/zones?q=a%0ab", {}, None),
    ("designate", "OPTIONS", "/v2/zones", {"Origin": "http://x", "Access-Control-Request-Method": "DELETE"}, None),
    ("ironic", "GET", "/v1/nodes/lookup-rack-1", {}, None),
    ("zun", "GET", "/v1/containers/attached-1", {}, None),
    ("designate", "GET", "/v2/zones/%C3%BC", {"Range": "bytes=0-10"}, None),
    ("keystone", "POST", "/v3/auth/tokens", {"Content-Type": "application/json"}, b"{}"),
    ("keystone", "POST", "/v3/auth/OS-FEDERATION/websso/saml2", FORM, b"SAMLResponse=x"),
    ("swift", "GET", "/v1/AUTH_x/c/a%01b", {}, None),
]

SERVICES = ("heat-cfn", "gnocchi", "designate", "ironic", "zun", "keystone", "swift")


@pytest.fixture(scope="module")
def restricted():
    from tests.lab.one_haproxy import Lab  # noqa: PLC0415

    lab = Lab(SERVICES, nodes=1).start()
    lab.agent.ok("read-only", *SERVICES)
    yield lab
    lab.close()


def reaches(lab, service, method, path, headers, body):
    before = len(lab.origins["ctl1"][service].requests())
    answer = ask(lab.port[service], method, path, headers=headers, body=body)
    return answer.status, len(lab.origins["ctl1"][service].requests()) - before


@pytest.mark.parametrize(("service", "method", "path", "headers", "body"), REFUSED)
def test_what_would_write_is_refused(restricted, service, method, path, headers, body):
    assert reaches(restricted, service, method, path, headers, body) == (503, 0)


@pytest.mark.parametrize(("service", "method", "path", "headers", "body"), PASSED)
def test_what_only_reads_passes(restricted, service, method, path, headers, body):
    assert reaches(restricted, service, method, path, headers, body) == (200, 1)
