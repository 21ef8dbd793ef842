"""Discovery: what deployers call things, and what an operator calls them. Pure tables."""

from __future__ import annotations

import pytest

from lbagent.model.observed import BackendSeen, ServerSeen
from lbagent.model.servers import Ref
from lbagent.settings import deployers
from lbagent.topology import discovery
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
        ("nova-api", "nova"),
        ("Nova-API_back", "nova"),
        ("nova_compute_api_cluster", "nova"),
        ("nova_metadata_api_cluster", "nova"),
        ("keystone_public_internal_cluster", "keystone"),
        ("glance_registry_cluster", "glance"),
        ("neutron_api_cluster", "neutron"),
        ("swift_proxy_cluster", "swift"),
        ("dashboard_cluster", "horizon"),
        ("opensearch-dashboards_back", "opensearch-dashboards"),
        ("opensearch_dashboards_external_back", "opensearch-dashboards"),
        ("skyline_apiserver_back", "skyline"),
        ("skyline-back", "skyline"),
        ("ironic_inspector-back", "ironic-inspector"),
        ("ironic-inspector", "ironic-inspector"),
        ("nova_novnc_console-back", "nova-novncproxy"),
        ("nova_novncproxy", "nova-novncproxy"),
        ("be_cinder-api", "cinder"),
        ("backend_placement", "placement"),
        ("prometheus_alertmanager_external_back", "alertmanager"),
    ],
)
def test_the_deployers_names(backend, service):
    assert deployers.service_of(backend)[0] == service
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
        ("infra1-nova-api-container-80d0ced2", "infra1"),
        ("infra1-neutron-server-container-55ee66ff", "infra1"),
        ("aio1-keystone-container-11aa22bb", "aio1"),
        ("rack2-infra1-nova-api-container-80d0ced2", "rack2-infra1"),
        ("rack2-infra1-heat-api-container-80d0ced2", "rack2-infra1"),
        ("nova-api-3-glance-container-80d0ced2", "nova-api-3"),
        ("cloud-control-a-rabbit-mq-container-80d0ced2", "cloud-control-a"),
        ("infra1-own-thing-container-80d0ced2", "infra1"),
        ("rack-infra2-own-thing-container-80d0ced2", "rack-infra2"),
        ("infraone-own-container-80d0ced2", "infraone"),
        ("infra1_own_thing_container-80d0ced2", "infra1"),
        ("infra-1_nova_api_os_compute_container-1a2b3c4d", "infra-1"),
        ("container-host", "container-host"),
        ("overcloud-controller-0.internalapi.localdomain", "overcloud-controller-0"),
        ("overcloud-controller-0.storagemgmt.cloud.example.org", "overcloud-controller-0"),
        ("ctl1.example.net", "ctl1"),
        ("10.0.0.11", "10.0.0.11"),
        ("fd00::11", "fd00::11"),
        ("node-1", "node-1"),
        ("1.2", "1.2"),
    ],
)
def test_a_node_by_its_servers_name(server_name, node):
    assert deployers.node_of(server_name).name == node


def nodes(layout: dict[str, dict[str, str]]) -> dict[str, set[str]]:
    backends = seen(layout)
    refs = [Ref(b, s) for b, servers in layout.items() for s in servers]
    return {found.name: {str(ref) for ref in found.refs} for found in discovery.nodes(refs, backends)}


def test_an_address_beats_a_name():
    layout = {"nova": THREE, "keystone": THREE, "odd": {"srv-a": "10.0.0.11", "srv-b": "10.0.0.12"}}
    found = nodes(layout)
    assert set(found) == {"control01", "control02", "control03"}
    assert found["control01"] == {"nova/control01", "keystone/control01", "odd/srv-a"}


def test_openstack_ansibles_containers_of_today():
    """A container has an address of its own, and its component may have two words, as its host may."""
    components = ("nova-api", "keystone", "neutron-server", "glance", "heat-api")
    layout = {
        f"{component}-back": {
            f"cloud-infra{n}-{component}-container-{n}a{number}b3c4d": f"172.29.{number}.1{n}" for n in (1, 2, 3)
        }
        for number, component in enumerate(components)
    }
    found = nodes(layout)
    assert {node: len(there) for node, there in found.items()} == {f"cloud-infra{n}": 5 for n in (1, 2, 3)}


def test_a_single_controllers_containers_are_one_node():
    layout = {
        "keystone_service-back": {"aio1-keystone-container-11aa22bb": "172.29.0.1"},
        "nova_api_os_compute-back": {"aio1-nova-api-container-55ee66ff": "172.29.0.2"},
    }
    assert set(nodes(layout)) == {"aio1"}


def test_a_host_on_several_networks_of_tripleos_is_one_node():
    layout = {
        "nova_osapi": {f"controller-{n}.internalapi.localdomain": f"172.17.0.1{n}" for n in (0, 1, 2)},
        "swift_proxy_server": {f"controller-{n}.storage.localdomain": f"172.18.0.1{n}" for n in (0, 1, 2)},
    }
    assert {node: len(there) for node, there in nodes(layout).items()} == {f"controller-{n}": 2 for n in (0, 1, 2)}


def test_hosts_of_one_name_in_two_domains_are_two_nodes():
    layout = {
        "web": {
            "web1.ams.example.net": "10.0.0.1",
            "web1.fra.example.net": "10.9.0.1",
            "web2.ams.example.net": "10.0.0.2",
        }
    }
    assert set(nodes(layout)) == {"web1.ams.example.net", "web1.fra.example.net", "web2"}


def test_equal_names_in_unrelated_backends_are_two_nodes():
    layout = {
        "shop": {"s1": "10.0.0.1", "s2": "10.0.0.2"},
        "mail": {"s1": "10.9.0.1", "m2": "10.9.0.2"},
    }
    assert set(nodes(layout)) == {"s1@10.0.0.1", "s1@10.9.0.1", "s2", "m2"}


def test_equal_names_in_backends_that_share_another_name_are_one_node():
    layout = {
        "nova": {"ctl1": "10.0.0.1", "ctl2": "10.0.0.2", "ctl3": "10.0.0.3"},
        "swift": {"ctl1": "10.9.0.1", "ctl2": "10.9.0.2"},
    }
    assert {node: len(there) for node, there in nodes(layout).items()} == {"ctl1": 2, "ctl2": 2, "ctl3": 1}


def test_backends_are_alike_by_way_of_a_third():
    layout = {
        "a": {"s1": "10.1.0.1", "s2": "10.1.0.2"},
        "b": {"s1": "10.2.0.1", "s2": "10.2.0.2", "s3": "10.2.0.3"},
        "c": {"s1": "10.3.0.1", "s3": "10.3.0.3"},
    }
    assert set(nodes(layout)) == {"s1", "s2", "s3"}


def test_addresses_that_cross_are_not_joined_by_their_names():
    layout = {
        "a": {"web1": "10.0.0.1", "web2": "10.0.0.2"},
        "b": {"web1": "10.0.0.2", "web2": "10.0.0.1"},
    }
    assert len(nodes(layout)) == 2
    assert {len(there) for there in nodes(layout).values()} == {2}


def test_a_slot_that_moved_is_on_the_machine_it_moved_to():
    layout = {
        "nova": {"ctl1": "10.0.0.1", "ctl2": "10.0.0.1", "ctl3": "10.0.0.3"},
        "keystone": {"ctl1": "10.0.0.1", "ctl2": "10.0.0.2", "ctl3": "10.0.0.3"},
    }
    assert nodes(layout)["ctl1"] == {"nova/ctl1", "nova/ctl2", "keystone/ctl1"}


def test_doctor_can_say_why():
    layout = {
        "nova": {"infra1-nova-api-container-80d0ced2": "10.0.0.1"},
        "a": {"s1": "10.1.0.1"},
        "b": {"s1": "10.2.0.1"},
    }
    backends = seen(layout)
    refs = [Ref(b, s) for b, servers in layout.items() for s in servers]
    why = {found.name: found.why for found in discovery.nodes(refs, backends)}
    assert why["infra1"] == "by its deployer's names"
    assert "other addresses" in why["s1@10.1.0.1"]


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
    assert (deployers.is_public(frontend) is not None) is public
