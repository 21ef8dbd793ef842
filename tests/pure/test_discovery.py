"""Discovery: what deployers call things, and what an operator calls them. Pure tables."""

from __future__ import annotations

import pytest

from lbagent.model.observed import BackendSeen, ServerSeen
from lbagent.model.servers import Ref
from lbagent.topology import discovery, names
from tests.lab.model_haproxy import server


def seen(layout: dict[str, dict[str, str]], http: bool = True) -> dict[str, BackendSeen]:
    """Backends as they run: name → server name → address."""
    return {
        name: BackendSeen(
            name=name,
            http=http,
            sticky=False,
            guard=1,
            servers={s: one(name, s, address) for s, address in servers.items()},
        )
        for name, servers in layout.items()
    }


def one(backend: str, name: str, address: str) -> ServerSeen:
    import msgspec  # noqa: PLC0415

    return msgspec.structs.replace(server(Ref(backend, name)), address=address)


THREE = {f"control0{n}": f"10.0.0.1{n}" for n in (1, 2, 3)}


@pytest.mark.parametrize(
    ("backend", "service"),
    [
        ("keystone_internal_back", "keystone"),
        ("keystone_external_back", "keystone"),
        ("keystone_service-back", "keystone"),
        ("keystone_public", "keystone"),
        ("keystone_admin_be", "keystone"),
        ("nova_api_back", "nova"),
        ("nova_api_external_back", "nova"),
        ("nova_metadata_external_back", "nova"),
        ("nova_api_os_compute-back", "nova"),
        ("nova_osapi", "nova"),
        ("heat_api_cfn_external_back", "heat-cfn"),
        ("heat_cfn", "heat-cfn"),
        ("heat_api-back", "heat"),
        ("glance_api_internal", "glance"),
        ("radosgw_back", "rgw"),
        ("ceph-rgw-back", "rgw"),
        ("swift_proxy_server", "swift"),
        ("horizon-back", "horizon"),
        ("placement-back", "placement"),
        ("designate_api_back", "designate"),
        ("nova", "nova"),
        ("nova_backend", "nova"),
        ("keystone-backend", "keystone"),
    ],
)
def test_the_deployers_names(backend, service):
    assert names.service_of(backend)[0] == service
    assert discovery.services([backend]) == {service: (backend,)}


def test_a_services_backends_come_together():
    found = discovery.services(["keystone_internal_back", "keystone_external_back", "x_back"])
    assert found == {"keystone": ("keystone_external_back", "keystone_internal_back"), "x": ("x_back",)}


def test_unknown_names_are_not_thrown_together():
    """web and web_backend may be two things; Kolla's twins of an unknown API are one."""
    assert set(discovery.services(("web", "web_backend"))) == {"web", "web_backend"}
    assert set(discovery.services(("foo_api_back", "foo_api_external_back"))) == {"foo"}
    assert set(discovery.services(("shop",))) == {"shop"}


@pytest.mark.parametrize(
    ("server_name", "node"),
    [
        ("control01", "control01"),
        ("infra1_keystone_container-1a2b3c4d", "infra1"),
        ("infra-1_nova_api_container-1a2b3c4d", "infra-1"),
        ("overcloud-controller-0.internalapi.localdomain", "overcloud-controller-0"),
        ("10.0.0.11", "10.0.0.11"),
        ("node-1", "node-1"),
    ],
)
def test_a_node_by_its_servers_name(server_name, node):
    assert names.node_of(server_name) == node


def nodes(layout: dict[str, dict[str, str]]) -> dict[str, set[str]]:
    backends = seen(layout)
    refs = [Ref(b, s) for b, servers in layout.items() for s in servers]
    return {node: {str(ref) for ref in there} for node, there in discovery.nodes(refs, backends).items()}


def test_an_address_beats_a_name():
    layout = {"nova": THREE, "keystone": THREE, "odd": {"srv-a": "10.0.0.11", "srv-b": "10.0.0.12"}}
    found = nodes(layout)
    assert set(found) == {"control01", "control02", "control03"}
    assert found["control01"] == {"nova/control01", "keystone/control01", "odd/srv-a"}


def test_on_one_machine_the_address_tells_nothing():
    layout = {
        "nova": {"ctl1": "127.0.0.1", "ctl2": "127.0.0.1"},
        "keystone": {"ctl1": "127.0.0.1", "ctl2": "127.0.0.1"},
    }
    assert nodes(layout) == {"ctl1": {"nova/ctl1", "keystone/ctl1"}, "ctl2": {"nova/ctl2", "keystone/ctl2"}}


def test_loopback_tells_nothing_either():
    assert set(nodes({"nova": {"n1": "127.0.0.1"}, "keystone": {"k1": "127.0.0.1"}})) == {"n1", "k1"}


def test_containers_of_one_host_are_one_node():
    layout = {
        "keystone_service-back": {f"infra{n}_keystone_container-1a2b3c4d": f"172.29.0.1{n}" for n in (1, 2, 3)},
        "nova_api_os_compute-back": {f"infra{n}_nova_api_container-99aa88bb": f"172.29.1.1{n}" for n in (1, 2, 3)},
    }
    found = nodes(layout)
    assert set(found) == {"infra1", "infra2", "infra3"}
    assert len(found["infra1"]) == 2


@pytest.mark.parametrize(
    ("frontend", "public"),
    [
        ("nova_api_external_front", True),
        ("nova_api_front", False),
        ("keystone_service-front-1", True),
        ("keystone_service-front-2", False),
        ("nova_public", True),
        ("public", True),
        ("republican", False),
    ],
)
def test_frontends_that_face_the_public(frontend, public):
    assert (names.is_public(frontend) is not None) is public
