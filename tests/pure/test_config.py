"""The configuration file: what it means when it says nothing, and what is wrong with it, all at once."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lbagent.settings.config import Config, NodeConfig, ServiceConfig, WebhookConfig
from lbagent.settings.load import ConfigError, load, parse
from tests.lab.model_haproxy import examples


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as bad:
        parse(text)
    return bad.value.problems


# ------------------------------------------------------------------------------------------ defaults

DEFAULTS = {
    "haproxy.socket": "/run/haproxy/admin.sock",
    "haproxy.master_socket": None,
    "haproxy.config": ("/etc/haproxy/haproxy.cfg",),
    "haproxy.state_dir": "/var/lib/lbagent/haproxy",
    "haproxy.state_dir_in_haproxy": None,
    "haproxy.seen_dir": "/var/lib/lbagent/haproxy",
    "haproxy.code_dir": "/usr/share/lbagent/haproxy",
    "haproxy.seen_code_dir": "/usr/share/lbagent/haproxy",
    "haproxy.check_command": ("haproxy", "-c"),
    "control.socket": "/run/lbagent/lbagent.sock",
    "control.admins": ("root", "@lbagent"),
    "control.viewers": ("@adm",),
    "metrics_listen": "127.0.0.1:9779",
    "retry_after.floor": 30,
    "retry_after.cap": 3600,
    "retry_after.spread": 30,
    "bypass.networks": (),
    "bypass.secret_file": None,
    "services": {},
    "nodes": {},
    "store.path": "/var/lib/lbagent/intent.json",
    "discover": True,
    "page.title": None,
    "page.file": None,
    "announce": 604800,
    "notify.webhooks": (),
    "notify.horizon_messages": None,
    "web_listen": None,
}


@pytest.mark.parametrize(("key", "value"), DEFAULTS.items())
@pytest.mark.parametrize("text", ["", "# nothing\n", "haproxy:\nservices:\nstore: {}\n"])
def test_an_empty_file_is_valid_and_every_key_has_a_default(text: str, key: str, value: object) -> None:
    assert reduce(getattr, key.split("."), parse(text)) == value


def test_the_node_is_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "ctl1.example.org")
    (tmp_path / "empty.yaml").touch()
    assert load(tmp_path / "empty.yaml").node == "ctl1"
    assert parse("", "ctl2").node == "ctl2"


def test_a_service_and_a_node_that_say_nothing_are_what_their_names_say() -> None:
    config = parse("services: {nova: , keystone: {}}\nnodes: {ctl1: }")
    assert config.services["nova"] == ServiceConfig(backends=None, preset="nova", min_ready=1)
    assert config.services["keystone"] == ServiceConfig(backends=None, preset="keystone", min_ready=1)
    assert config.nodes == {"ctl1": NodeConfig(servers=None, addresses=())}


def test_every_key_is_taken() -> None:
    config = parse("""
        node: ctl1
        haproxy:
          socket: /a
          master_socket: /b
          config: [/c, /d]
          state_dir: /e/
          state_dir_in_haproxy: /f
          code_dir: /usr/share/x
          code_dir_in_haproxy: /y
          check_command: [docker, exec, haproxy, haproxy, -c]
        control: {socket: /g, admins: [root], viewers: []}
        metrics: {listen: "[::]:9000"}
        retry_after: {floor: 1, cap: 2, spread: 0}
        bypass: {networks: [10.0.0.0/8, "2001:DB8::/32"], secret_file: /h}
        services:
          nova:
            backends: [nova_api, nova_internal]
            frontends: [public, "internal@2001:DB8:0::1", "v4@::ffff:10.0.0.5"]
            preset: keystone
            read_only: {allow: ["POST /search"], deny: ["GET /v2[.]1/.*/vnc"]}
            probes: ["GET /healthcheck"]
            depends_on: [keystone]
            ready: {check: [/usr/local/bin/probe, --fast]}
            min_ready: 0
          glance: {ready: {check: GET /versions}}
        nodes: {ctl1: {servers: [one, two], addresses: ["2001:DB8:0::1"]}}
        store: {path: /i}
        discover: false
        page: {title: Back soon, contact: "cloud@example.org, 555 01", status_url: "https://status.example.org/"}
        announce: 2h
        notify:
          webhooks:
            - {url: "https://example.org/hook", events: [started, ended], format: slack}
            - {url_file: /j}
          horizon_messages: /k
        web: {listen: 127.0.0.1:9780}
        """)
    assert config.node == "ctl1"
    assert config.haproxy.config == ("/c", "/d")
    assert config.haproxy.check_command == ("docker", "exec", "haproxy", "haproxy", "-c")
    assert (config.haproxy.state_dir, config.haproxy.seen_dir) == ("/e", "/f")
    assert config.metrics_listen == "[::]:9000"
    assert config.bypass.networks == ("10.0.0.0/8", "2001:db8::/32")
    assert config.services["nova"] == ServiceConfig(
        backends=("nova_api", "nova_internal"),
        frontends=("public", "internal@2001:db8::1", "v4@10.0.0.5"),
        preset="keystone",
        allow=("POST /search",),
        deny=("GET /v2[.]1/.*/vnc",),
        probes=("GET /healthcheck",),
        depends_on=("keystone",),
        ready_check=("/usr/local/bin/probe", "--fast"),
        min_ready=0,
    )
    assert config.services["glance"].ready_check == "GET /versions"
    assert config.nodes["ctl1"] == NodeConfig(servers=("one", "two"), addresses=("2001:db8::1",))
    assert config.store.path == "/i"
    assert config.haproxy.seen_code_dir == "/y"
    assert config.discover is False
    assert config.page.contact == "cloud@example.org, 555 01"
    assert config.announce == 7200
    assert config.notify.webhooks == (
        WebhookConfig(url="https://example.org/hook", events=("started", "ended"), format="slack"),
        WebhookConfig(url_file="/j"),
    )
    assert config.notify.webhooks[1].events == ("scheduled", "started", "ended", "overdue")
    assert config.notify.horizon_messages == "/k"
    assert config.web_listen == "127.0.0.1:9780"


# ------------------------------------------------------------------------------------------ problems

BAD_NAMES = ["a b", "a;b", "a/b", "a\tb", "a\nb", "", "ü", "a|b", "a" * 201, "a@b", "a\x00b", "a\x7f", "nova\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(
    ("tree", "path"),
    [
        (lambda name: {"services": {"nova": {"backends": ["ok", name]}}}, "$.services.nova.backends[1]: "),
        (lambda name: {"services": {name: {}}}, "$.services: "),
        (lambda name: {"services": {"nova": {"frontends": [f"{name}@10.0.0.1"]}}}, "$.services.nova.frontends[0]: "),
        (lambda name: {"nodes": {"ctl1": {"servers": [name]}}}, "$.nodes.ctl1.servers[0]: "),
        (lambda name: {"nodes": {name: {}}}, "$.nodes: "),
        (lambda name: {"node": name}, "$.node: "),
    ],
)
def test_a_name_that_haproxy_could_not_have_is_refused(name: str, tree: Any, path: str) -> None:
    if name == "a@b" and "frontends" in path:
        path = "$.services.nova.frontends[0]: "  # what follows the first @ is no address
    [problem] = problems(yaml.safe_dump(tree(name)))
    assert problem.startswith(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "nodde: a",
            "$: unknown key 'nodde'; there are: announce, bypass, control, discover, haproxy, max_una",
        ),
        ("haproxy: {sokcet: /a}", "$.haproxy: unknown key 'sokcet'"),
        ("control: {admin: []}", "$.control: unknown key 'admin'"),
        ("metrics: {port: 1}", "$.metrics: unknown key 'port'"),
        ("retry_after: {max: 1}", "$.retry_after: unknown key 'max'"),
        ("bypass: {secret: x}", "$.bypass: unknown key 'secret'"),
        ("services: {nova: {backend: nova}}", "$.services.nova: unknown key 'backend'"),
        ("services: {nova: {read_only: {alow: []}}}", "$.services.nova.read_only: unknown key 'alow'"),
        ("nodes: {ctl1: {server: a}}", "$.nodes.ctl1: unknown key 'server'"),
        ("store: {etcdd: {}}", "$.store: unknown key 'etcdd'"),
        ("[]", "$: expected a mapping, got a list"),
        ("nova", "$: expected a mapping, got a string"),
        ("node: 5", "$.node: expected a string, got 5"),
        ("node: no", "$.node: expected a string, got a yes or no"),
        ("haproxy: [/a]", "$.haproxy: expected a mapping, got a list"),
        ("haproxy: {socket: null}", "$.haproxy.socket: expected a string, got nothing"),
        ("haproxy: {socket: run/a}", "$.haproxy.socket: 'run/a' is not an absolute path"),
        ("haproxy: {config: /a}", "$.haproxy.config: expected a list, got a string"),
        ("haproxy: {config: []}", "$.haproxy.config: expected at least one entry"),
        ("haproxy: {config: [/a, /a]}", "$.haproxy.config[1]: '/a' is there twice"),
        ("haproxy: {state_dir: '/a b'}", "$.haproxy.state_dir: '/a b' has to stand in haproxy.cfg"),
        ("haproxy: {state_dir: /}", "$.haproxy.state_dir: "),
        ("haproxy: {check_command: haproxy -c}", "$.haproxy.check_command: expected a list, got a string"),
        ("control: {admins: [0]}", "$.control.admins[0]: expected a string, got 0"),
        ("metrics: {listen: 9779}", "$.metrics.listen: expected a string, got 9779"),
        ("metrics: {listen: ':9779'}", "$.metrics.listen: ':9779' is not ADDRESS:PORT"),
        ("metrics: {listen: 'a:65536'}", "$.metrics.listen: 'a:65536' is not ADDRESS:PORT"),
        ("metrics: {listen: 'a b:80'}", "$.metrics.listen: 'a b:80' is not ADDRESS:PORT"),
        ("retry_after: {floor: 0}", "$.retry_after.floor: expected a whole number from 1 to 86400, got 0"),
        ("retry_after: {floor: yes}", "$.retry_after.floor: expected a whole number from 1 to 86400, got a yes or no"),
        ("retry_after: {floor: 1.5}", "$.retry_after.floor: expected a whole number from 1 to 86400, got 1.5"),
        ("retry_after: {floor: 90, cap: 60}", "$.retry_after.cap: is below the floor of 90"),
        ("retry_after: {floor: 4000}", "$.retry_after.cap: is below the floor of 4000"),
        ("bypass: {networks: [10.0.0.1/8]}", "$.bypass.networks[0]: 10.0.0.1/8 has host bits set"),
        ("bypass: {networks: ['fe80::%a b/128']}", "$.bypass.networks[0]: "),
        ("services: [nova]", "$.services: expected a mapping, got a list"),
        ("services: {nova: []}", "$.services.nova: expected a mapping, got a list"),
        ("services: {nova: no}", "$.services.nova: expected a mapping, got a yes or no"),
        ("services: {nova: {backends: []}}", "$.services.nova.backends: expected at least one entry"),
        ("services: {nova: {frontends: [a@b]}}", "$.services.nova.frontends[0]: 'b' is not an IP address"),
        (
            "services: {nova: {frontends: ['a@fe80::1%x y']}}",
            "$.services.nova.frontends[0]: 'fe80::1%x y' is not an IP",
        ),
        ("services: {nova: {preset: nova2}}", "$.services.nova.preset: no preset 'nova2'; there are: adjutant, "),
        ("services: {nova: {probes: [/health]}}", "$.services.nova.probes[0]: '/health' is not METHOD path"),
        ("services: {nova: {read_only: []}}", "$.services.nova.read_only: expected a mapping, got a list"),
        ("services: {nova: {min_ready: -1}}", "$.services.nova.min_ready: expected a whole number from 0 to 1000"),
        ("nodes: {ctl1: {addresses: [ctl1]}}", "$.nodes.ctl1.addresses[0]: 'ctl1' is not an IP address"),
        (
            "services: {a: {backends: [x]}, b: {backends: [x]}}",
            "$.services.b.backends[0]: x belongs to service a already",
        ),
        (
            "services: {a: {backends: [x], frontends: [f, g]}, b: {backends: [x], frontends: [f, g]}}",
            "$.services.b.backends[0]: x belongs to service a already",
        ),
        ("nodes: {a: {servers: [x]}, b: {servers: [y, x]}}", "$.nodes.b.servers[1]: x belongs to node a already"),
        ("discover: 1", "$.discover: expected true or false, got 1"),
        ("page: {title: ''}", "$.page.title: is empty"),
        ("page: {contact: " + "x" * 201 + "}", "$.page.contact: has 201 characters, at most 200"),
        ("page: {status_url: status.example.org}", "$.page.status_url: 'status.example.org' is not a URL"),
        ("page: {file: page.html}", "$.page.file: 'page.html' is not an absolute path"),
        ("announce: soon", "$.announce: 'soon' is not a duration"),
        ("announce: yes", "$.announce: expected a string, got a yes or no"),
        ("notify: {webhooks: {url: x}}", "$.notify.webhooks: expected a list, got a mapping"),
        ("notify: {webhooks: [{}]}", "$.notify.webhooks[0].url: or url_file has to be given"),
        ("notify: {webhooks: [{url: 'https://x', url_file: /y}]}", "$.notify.webhooks[0].url: or url_file"),
        (
            "notify: {webhooks: [{url: 'https://x'}, {url: 'https://x', uri: /y}]}",
            "$.notify.webhooks[1]: unknown key 'uri'; there are: events, format, url, url_file",
        ),
        (
            "notify: {webhooks: [{url: 'https://x', events: [begun]}]}",
            "$.notify.webhooks[0].events[0]: expected",
        ),
        ("notify: {webhooks: [{url: 'https://x', format: xml}]}", "$.notify.webhooks[0].format: expected one of json"),
        ("notify: {horizon_messages: x}", "$.notify.horizon_messages: 'x' is not an absolute path"),
        ("web: {listen: '9780'}", "$.web.listen: '9780' is not ADDRESS:PORT"),
        ("haproxy: {code_dir: '/a b'}", "$.haproxy.code_dir: '/a b' has to stand in haproxy.cfg"),
        ("services: {nova: {depends_on: [a b]}}", "$.services.nova.depends_on[0]: 'a b' is not a name"),
        ("services: {nova: {ready: {check: POST /x}}}", "$.services.nova.ready.check: 'POST /x' is neither"),
        ("services: {nova: {ready: {check: []}}}", "$.services.nova.ready.check: expected at least one entry"),
        ("services: {nova: {ready: {chek: x}}}", "$.services.nova.ready: unknown key 'chek'; there are: check"),
        ("node: a\nnode: b", "$: not YAML: node is there twice"),
        ("services: {nova: {}, nova: {}}", "$: not YAML: nova is there twice"),
        ("services: {1: {}}", "$: not YAML: key 1 is not a string"),
        ("services: {on: {}}", "$: not YAML: key True is not a string"),
        ("node: {", "$: not YAML: "),
        ("a: &x [*x]", "$: unknown key 'a'"),
        ('node: !!int ""', "$: not YAML: "),
        ("node: !!bool maybe", "$: not YAML: "),
        ("node: !!timestamp soon", "$: not YAML: "),
        ("node: !!map [a]", "$: not YAML: "),
        ("retry_after: {floor: 0x" + "f" * 5000 + "}", "$.retry_after.floor: expected a whole number"),
        ("metrics: {listen: 'a:" + "1" * 5000 + "'}", "$.metrics.listen: "),
    ],
)
def test_a_problem_says_where_and_what(text: str, problem: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(problem), found


def test_all_problems_come_at_once_each_with_its_path() -> None:
    found = problems("""
        node: a b
        haproxy: {socket: 1, sokcet: 2}
        retry_after: {cap: x}
        services:
          nova: {backends: [a/b, 3, "c d"], preset: none-such, read_only: {deny: [x]}}
          "n;a": {}
        nodes: {ctl1: {addresses: [x]}}
        extra: 1
        """)
    assert sorted(line.partition(": ")[0] for line in found) == [
        "$",
        "$.haproxy",
        "$.haproxy.socket",
        "$.node",
        "$.nodes.ctl1.addresses[0]",
        "$.retry_after.cap",
        "$.services",
        "$.services.nova.backends[0]",
        "$.services.nova.backends[1]",
        "$.services.nova.backends[2]",
        "$.services.nova.preset",
        "$.services.nova.read_only.deny[0]",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "services: {pub: {backends: [x], frontends: [a]}, int: {backends: [x], frontends: [b]}}",
        "services: {pub: {backends: [x], frontends: [a@10.0.0.1]}, int: {backends: [x], frontends: [a@10.0.0.2]}}",
    ],
)
def test_one_backend_may_belong_to_two_services_by_their_frontends(text: str) -> None:
    assert len(parse(text).services) == 2


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    missing, binary = tmp_path / "none.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"node: \xff")
    with pytest.raises(ConfigError, match=r"none.yaml: no such file; an empty one is valid: touch "):
        load(missing)
    with pytest.raises(ConfigError, match=r"binary.yaml: cannot be read: "):
        load(binary)
    with pytest.raises(ConfigError, match=r"cannot be read: "):
        load(tmp_path)


# ---------------------------------------------------------------------------------------- properties


def _only_config_error(text: str) -> None:
    try:
        assert isinstance(parse(text), Config)
    except ConfigError as bad:
        assert bad.problems
        assert all(line.startswith("$") and "\n" not in line for line in bad.problems)


@examples(100)
@given(st.text())
def test_any_text_is_a_configuration_or_a_configuration_error(text: str) -> None:
    _only_config_error(text)


TAGS = ["!!int", "!!map", "!!set", "!!bool", "!!binary", "!!omap", "!!timestamp"]
FRAGMENTS = ["node", "haproxy", "services", "nova:", *"{}[],-?&*ax", "''", '"', "\n", *TAGS]


@examples(200)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12))
def test_anything_that_looks_like_yaml_likewise(parts: list[str]) -> None:
    _only_config_error(" ".join(parts))


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=8
)
KNOWN = st.fixed_dictionaries(
    {},
    optional={
        "node": TREES,
        "haproxy": TREES
        | st.fixed_dictionaries(
            {}, optional={"socket": TREES, "config": TREES, "state_dir": TREES, "check_command": TREES}
        ),
        "control": TREES | st.fixed_dictionaries({}, optional={"socket": TREES, "admins": TREES}),
        "metrics": st.fixed_dictionaries({"listen": TREES}),
        "retry_after": st.fixed_dictionaries({}, optional={"floor": TREES, "cap": TREES, "spread": TREES}),
        "bypass": st.fixed_dictionaries({}, optional={"networks": TREES, "secret_file": TREES}),
        "services": TREES
        | st.dictionaries(
            st.text(max_size=4),
            st.fixed_dictionaries(
                {},
                optional={"backends": TREES, "frontends": TREES, "read_only": TREES, "probes": TREES, "preset": TREES},
            ),
            max_size=2,
        ),
        "nodes": st.dictionaries(st.text(max_size=4), TREES, max_size=2),
        "store": TREES,
    },
)


@examples(120)
@given(TREES | KNOWN)
def test_any_structure_likewise(tree: Any) -> None:
    _only_config_error(yaml.safe_dump(tree))
