"""Which backends a service owns, which servers a node has."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from lbagent.model.servers import Ref
from lbagent.settings.load import parse
from lbagent.topology.resolve import Topology, topology
from tests.lab.model_haproxy import backend, server

SEEN = {
    "nova_api": backend("nova_api"),
    "nova_meta": backend("nova_meta", server("nova_meta", "ctl1"), server("nova_meta", "ctl2")),
    "keystone": backend("keystone"),
    "galera": backend("galera", http=False),
    "stats": backend("stats", servers={}),
}
SERVICES = "services: {nova: {backends: [nova_api, nova_meta]}, keystone: {}, db: {backends: [galera]}}\n"


def of(text: str) -> Topology:
    return topology(parse(text), SEEN)


def test_with_nothing_configured_each_http_backend_with_servers_is_a_service() -> None:
    found = of("")
    assert list(found.services) == ["keystone", "nova", "nova_meta"]
    assert found.services["keystone"].config.preset == "keystone"
    assert list(found.nodes) == ["ctl1", "ctl2", "ctl3"]
    assert found.nodes["ctl3"] == (Ref("keystone", "ctl3"), Ref("nova_api", "ctl3"))


def test_one_key_of_one_service_changes_that_one_and_hides_no_other() -> None:
    found = of("services: {keystone: {frontends: [public]}}")
    assert set(found.services) == {"keystone", "nova", "nova_meta"}
    assert found.services["keystone"].http == ("keystone",)
    assert found.services["keystone"].config.frontends == ("public",)
    assert found.services["keystone"].config.preset == "keystone"
    assert list(found.nodes) == ["ctl1", "ctl2", "ctl3"]


def test_listed_backends_replace_the_discovered_ones_and_what_is_left_out_is_named() -> None:
    seen = SEEN | {"nova_metadata": backend("nova_metadata")}
    assert topology(parse(""), seen).services["nova"].http == ("nova_api", "nova_metadata")
    found = topology(parse("services: {nova: {backends: [nova_api]}}"), seen)
    assert found.services["nova"].http == ("nova_api",)
    assert found.unowned == ("nova_metadata",)
    other = topology(parse("services: {meta: {backends: [nova_metadata]}}"), seen)
    assert other.services["nova"].http == ("nova_api",)
    assert other.unowned == ()


def test_a_service_whose_every_backend_is_listed_elsewhere_is_gone() -> None:
    found = of("services: {login: {backends: [keystone]}}")
    assert "keystone" not in found.services
    assert found.services["login"].config.preset == "default"


def test_without_discovery_there_is_what_the_configuration_lists() -> None:
    found = of("discover: false\nservices: {keystone: {}}")
    assert list(found.services) == ["keystone"]
    assert found.services["keystone"].http == ("keystone",)
    assert found.unowned == ("nova_api", "nova_meta")


def test_a_service_has_http_and_tcp_backends_and_some_that_haproxy_does_not_know() -> None:
    nova = of("services: {nova: {backends: [nova_api, galera, gone]}}").services["nova"]
    assert (nova.http, nova.tcp, nova.missing) == (("nova_api",), ("galera",), ("gone",))
    assert nova.backends == ("nova_api", "galera")


@pytest.mark.parametrize(
    ("frontends", "keys"),
    [
        ("[]", ("nova_api", "nova_meta")),
        ("[public]", ("public/nova_api", "public/nova_meta")),
        ("[a@10.0.0.5, b]", ("a@10.0.0.5/nova_api", "b/nova_api", "a@10.0.0.5/nova_meta", "b/nova_meta")),
    ],
)
def test_a_mode_is_looked_up_by_frontend_and_backend(frontends: str, keys: tuple[str, ...]) -> None:
    found = of(f"services: {{nova: {{backends: [nova_api, nova_meta], frontends: {frontends}}}}}")
    assert found.services["nova"].keys() == keys


def test_a_node_owns_the_servers_with_its_name_in_configured_services() -> None:
    found = of(SERVICES + "nodes: {ctl1: {}, ctl3: {}}")
    assert found.nodes["ctl1"] == tuple(Ref(b, "ctl1") for b in ("nova_api", "nova_meta", "keystone", "galera"))
    assert found.owner[Ref("galera", "ctl3")] == "ctl3"
    assert found.owner[Ref("keystone", "ctl2")] == "ctl2", "the others are there all the same"
    assert Ref("keystone", "ctl2") not in of("discover: false\n" + SERVICES + "nodes: {ctl1: {}}").owner


def test_listed_servers_replace_the_discovered_ones_of_a_node() -> None:
    found = of("nodes: {ctl1: {servers: [ctl2]}}")
    assert {ref.server for ref in found.nodes["ctl1"]} == {"ctl2"}
    assert {ref.server for ref in found.nodeless} == {"ctl1"}
    assert "ctl2" not in found.nodes


def test_an_address_decides_before_a_name() -> None:
    moved = {"nova_api": backend("nova_api"), "keystone": backend("keystone")}
    slot = moved["nova_api"].servers["ctl2"]
    moved["nova_api"].servers["ctl2"] = replace(slot, address=moved["nova_api"].servers["ctl1"].address)
    found = topology(parse("nodes: {ctl1: {addresses: [10.0.0.1]}, ctl2: {addresses: [10.0.0.2]}}"), moved)
    assert Ref("nova_api", "ctl2") in found.nodes["ctl1"]
    assert found.nodes["ctl2"] == (Ref("keystone", "ctl2"),)
    alone = topology(parse(""), moved)
    assert Ref("nova_api", "ctl2") in alone.nodes["ctl1"], "discovered nodes go by the address as well"


def test_what_no_service_owns_stays_in_traffic_and_is_told_by_node() -> None:
    found = of("")
    assert found.stays["ctl1"] == (Ref("galera", "ctl1"),)
    partly = of("services: {nova: {backends: [nova_api]}, meta: {backends: [nova_meta]}, galera: {}}")
    assert partly.stays == {}
    assert of("discover: false\nservices: {nova: {backends: [nova_api]}}\nnodes: {ctl1: {}}").stays == {
        "ctl1": (Ref("nova_meta", "ctl1"), Ref("keystone", "ctl1"), Ref("galera", "ctl1"))
    }


def test_a_node_owns_servers_by_other_names_and_by_address() -> None:
    found = of(SERVICES + "nodes: {one: {servers: [ctl1]}, two: {servers: [], addresses: [10.0.0.2]}}")
    assert {ref.server for ref in found.nodes["one"]} == {"ctl1"}
    assert {ref.server for ref in found.nodes["two"]} == {"ctl2"}


def test_the_services_of_a_node() -> None:
    found = of(SERVICES)
    assert found.node_services("ctl3") == {
        "nova": (Ref("nova_api", "ctl3"),),
        "keystone": (Ref("keystone", "ctl3"),),
        "db": (Ref("galera", "ctl3"),),
    }
    assert found.node_services("nobody") == {}


def test_a_backend_that_two_services_share_has_its_servers_once() -> None:
    shared = "services: {pub: {backends: [keystone], frontends: [a]}, int: {backends: [keystone], frontends: [b]}}"
    found = of(shared)
    assert found.nodes["ctl1"].count(Ref("keystone", "ctl1")) == 1
    on = found.node_services("ctl1")
    assert on["pub"] == on["int"] == (Ref("keystone", "ctl1"),)


def test_an_haproxy_that_was_never_seen_leaves_services_without_backends() -> None:
    found = topology(parse(SERVICES), {})
    assert found.services["nova"].missing == ("nova_api", "nova_meta")
    assert found.nodes == {}
