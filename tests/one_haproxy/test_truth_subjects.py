"""A mode follows its service and a drain its node, whatever their backends, servers and addresses come to be called.

Each test is one way in which the configuration goes on living after a command; the origins' logs decide.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.claims import Claims, Hit, StatusLog, contradictions
from tests.lab.clients import Load, ask
from tests.lab.configuration import CHECK, Server
from tests.lab.one_haproxy import Lab
from tests.lab.ports import free_port
from tests.lab.wait import eventually

TICK = 4.0  # seconds within which a command covers what has come: a tick of one second, on a busy machine

INTERNAL, EXTERNAL = "keystone_internal_back", "keystone_external_back"


def hits(lab: Lab, services: dict[str, str]) -> list[Hit]:
    """What clients asked of the origins; ``services`` says which service a backend is of."""
    return [
        Hit(node, services[backend], entry.started)
        for node, origins in lab.origins.items()
        for backend, origin in origins.items()
        for entry in origin.requests()
    ]


@pytest.fixture
def watched() -> Iterator[Callable[[Lab], Claims]]:
    """Reads status all the time from when it is called; the claims so far."""
    running = []

    def watch(lab: Lab) -> Claims:
        log = StatusLog(str(lab.agent.socket))
        running.append(log)
        return log.__enter__().claims

    yield watch
    for log in running:
        log.__exit__()


# ---------------------------------------------------------------------- a closed service gets another backend


def listing(*backends: str) -> dict[str, object]:
    """keystone with these backends, in the agent's configuration."""
    return {"keystone": {"backends": list(backends)}}


def renamed(lab: Lab) -> None:
    """keystone's backend has another name from now on; its frontends and servers are the same."""
    backend = lab.configuration.backends.pop(INTERNAL)
    backend.name = EXTERNAL
    lab.configuration.backends[EXTERNAL] = backend
    for frontend in lab.configuration.frontends.values():
        if frontend.backend == INTERNAL:
            frontend.backend = EXTERNAL
    lab.port[EXTERNAL] = lab.port[INTERNAL]
    for origins in lab.origins.values():
        origins[EXTERNAL] = origins.pop(INTERNAL)


CHANGES: dict[str, Callable[[Lab], object]] = {"added": lambda lab: lab.serve(EXTERNAL), "renamed": renamed}


@pytest.mark.parametrize("listed", [False, True], ids=["discovered", "listed"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", ["down", "read-only"])
def test_a_new_backend_of_a_closed_service_is_closed(make_lab, watched, mode, change, listed):
    """Given keystone closed, when the configuration gets a backend of keystone's, no client gets through it."""
    lab = make_lab((INTERNAL, "nova_back"), settings={"services": listing(INTERNAL)} if listed else None)
    lab.agent.ok(mode, "keystone", "--reason", "schema upgrade")
    claims = watched(lab)
    CHANGES[change](lab)
    if listed:
        lab.agent.settings["services"] = listing(*(b for b in lab.configuration.backends if b != "nova_back"))
        lab.agent.write()
        lab.agent.process.send_signal(signal.SIGHUP)
    since = lab.reload()
    method = "GET" if mode == "down" else "POST"
    eventually(
        lambda: ask(lab.port[EXTERNAL], method, "/v3").status == 503,
        lambda: f"it is closed: {lab.agent.service('keystone')}",
        TICK,
    )
    closed = time.time()
    with Load(lab.port[EXTERNAL], "/v3", method, pause=0.02) as load:
        eventually(lambda: time.time() > closed + 2, "clients go on asking", 5)
    assert load.statuses() == {503}
    late = [entry for node in lab.nodes for entry in lab.requests(node, closed, EXTERNAL)]
    assert [entry for entry in late if mode == "down" or entry.method == method] == []
    seen = hits(lab, {INTERNAL: "keystone", EXTERNAL: "keystone", "nova_back": "nova"})
    assert contradictions(claims.made, seen, [since]) == []
    assert lab.agent.service("keystone")["mode"] == mode
    assert ask(lab.port["nova_back"]).status == 200


@pytest.mark.parametrize("change", CHANGES)
def test_a_backend_that_came_while_the_agent_was_away_is_closed(make_lab, change):
    """The intent says keystone, not which backends it had when the command was given."""
    lab = make_lab((INTERNAL,))
    lab.agent.ok("down", "keystone")
    lab.agent.stop()
    CHANGES[change](lab)
    lab.reload()
    lab.agent.start()
    eventually(lambda: ask(lab.port[EXTERNAL]).status == 503, "it is closed", TICK)
    assert lab.agent.service("keystone")["mode"] == "down"
    lab.agent.ok("up", "keystone")
    assert ask(lab.port[EXTERNAL]).status == 200


def test_status_never_says_down_of_a_service_with_an_open_backend(make_lab):
    """A new backend without the guard cannot be closed by the map: its servers are taken out, or it is named open."""
    lab = make_lab((INTERNAL,))
    lab.agent.ok("down", "keystone")
    lab.serve(EXTERNAL)
    new = [f for f in lab.configuration.frontends.values() if f.backend == EXTERNAL]
    with lab.haproxy.config.open("a") as file:
        file.write("".join(map(str, (*new, lab.configuration.backends[EXTERNAL]))))
    lab.haproxy.reload()

    def honest() -> bool:
        before = time.time()
        mode = lab.agent.service("keystone")["mode"]
        return (ask(lab.port[EXTERNAL]).status == 503 and not lab.requests("ctl1", before)) or mode != "down"

    eventually(honest, "it is closed, or said to be open", TICK)
    for _ in range(10):
        assert honest()


# ------------------------------------------------------------------------------ a drained node gets more servers


@pytest.fixture
def by_address(make_lab) -> Lab:
    """Three nodes, known by their addresses; ctl1 is drained."""
    lab = make_lab(("nova_back",), by_address=True)
    lab.agent.ok("drain", "ctl1", "--reason", "disk")
    return lab


def renamed_line(lab: Lab) -> None:
    lab.configuration.backends["nova_back"].server("api1").name = "first"
    lab.reload()


def new_service(lab: Lab) -> None:
    lab.serve("glance_back")
    lab.reload()


def another_server(lab: Lab) -> None:
    port = lab.origins["ctl1"]["nova_back"].port
    lab.configuration.backends["nova_back"].servers.append(Server("new", port, lab.address["ctl1"], CHECK))
    lab.reload()


def moved(lab: Lab) -> None:
    at = lab.origins["ctl1"]["nova_back"]
    said = lab.haproxy.run(f"set server nova_back/api2 addr {at.host} port {at.port}")
    assert "changed" in said, said


def added_at_run_time(lab: Lab) -> None:
    at = lab.origins["ctl1"]["nova_back"]
    lab.haproxy.run(f"add server nova_back/new {at.host}:{at.port}")
    lab.haproxy.run("enable server nova_back/new")
    assert lab.haproxy.server("nova_back/new")["srv_admin_state"] == "0"


WAYS = (renamed_line, new_service, another_server, moved, added_at_run_time)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_whatever_comes_to_a_drained_node_gets_no_request(by_address, watched, way):
    """Given ctl1 drained, when a server comes to its address, clients do not reach it once a tick has passed."""
    lab = by_address
    claims = watched(lab)
    way(lab)
    changed = time.time()
    loads = [Load(port, pause=0.01, seconds=30) for port in lab.port.values()]
    with contextlib.ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)
        eventually(lambda: time.time() > changed + TICK + 3, "clients go on asking", TICK + 10)
    late = lab.requests("ctl1", changed + TICK)
    assert late == [], f"{len(late)} requests reached ctl1: {lab.agent.node('ctl1')}"
    services = {"nova_back": "nova", "glance_back": "glance"}
    assert contradictions(claims.made, hits(lab, services), [changed]) == []
    assert lab.agent.node("ctl1")["state"] == "drained"
    for load in loads:
        assert load.statuses() == {200}


def test_a_server_that_leaves_a_drained_node_is_given_back(by_address):
    """A drain covers addresses: whatever has moved to a node that nobody named serves again, after a passed check."""
    lab = by_address
    at = lab.origins["ctl2"]["nova_back"]
    lab.haproxy.run(f"set server nova_back/api1 addr {at.host} port {at.port}")
    eventually(
        lambda: lab.haproxy.server("nova_back/api1")["srv_admin_state"] == "0",
        lambda: f"it serves: {lab.haproxy.server('nova_back/api1')}",
        TICK + 3,
    )
    for _ in range(9):
        assert ask(lab.port["nova_back"]).status == 200
    assert lab.requests("ctl1", time.time() - 1) == []


def test_a_server_that_moves_to_a_sick_address_of_another_node_waits_for_its_check(by_address):
    lab = by_address
    lab.haproxy.run(f"set server nova_back/api1 addr {lab.address['ctl2']} port {free_port()}")
    ended = time.time() + TICK
    with Load(lab.port["nova_back"], pause=0.01) as load:
        eventually(lambda: time.time() > ended, "clients go on asking", TICK + 5)
    assert load.statuses() == {200}


def test_after_a_move_ready_gives_back_what_the_node_has_now(by_address):
    lab = by_address
    renamed_line(lab)
    eventually(lambda: lab.haproxy.server("nova_back/first")["srv_admin_state"] != "0", "it is covered", TICK)
    lab.agent.ok("ready", "ctl1")
    assert lab.haproxy.server("nova_back/first")["srv_admin_state"] == "0"
    since = time.time()
    for _ in range(6):
        ask(lab.port["nova_back"])
    assert lab.requests("ctl1", since)


def test_a_change_while_the_agent_was_away_is_covered_when_it_is_back(by_address):
    lab = by_address
    lab.agent.stop()
    another_server(lab)
    lab.agent.start()
    eventually(lambda: lab.haproxy.server("nova_back/new")["srv_admin_state"] != "0", "it is covered", TICK)
    since = time.time()
    for _ in range(12):
        assert ask(lab.port["nova_back"]).status == 200
    assert lab.requests("ctl1", since) == []


# ------------------------------------------------------------------------------------------- scopes by address


def scoped(make_lab: Callable[..., Lab], bind: str, scope: str) -> Lab:
    lab = make_lab(("nova",), start=False, settings={"services": {"nova": {"frontends": [scope]}}})
    port = lab.port["nova"]
    lab.configuration.frontends["nova_public"].bind = bind.replace("PORT", str(port))
    lab.install()
    return lab.start()


@pytest.mark.parametrize(
    ("bind", "scope"),
    [
        ("127.0.0.1:PORT", "nova_public@127.0.0.1"),
        (":::PORT v4v6", "nova_public@127.0.0.1"),
        (":PORT", "nova_public@127.0.0.1"),
        ("*:PORT", "nova_public@::ffff:127.0.0.1"),
        (":::PORT v4v6", "nova_public@::ffff:127.0.0.1"),
        ("127.0.0.1:PORT", "nova_public@::ffff:127.0.0.1"),
        ("::ffff:127.0.0.1:PORT", "nova_public@127.0.0.1"),
    ],
)
def test_a_scope_by_address_closes_what_it_names(make_lab, bind, scope):
    """However bind and scope write the address: a client that comes to it is refused, or the command is."""
    lab = scoped(make_lab, bind, scope)
    done = lab.agent.lbctl("down", "nova")
    assert done.returncode == 0, done.stderr
    assert ask(lab.port["nova"], "DELETE", "/servers/1").status == 503
    assert [entry for node in lab.nodes for entry in lab.requests(node)] == []
    assert ask(lab.internal["nova"]).status == 200


@pytest.mark.parametrize(
    ("bind", "scope"),
    [
        ("127.0.0.1:PORT", "nova_public@10.1.2.3"),
        ("127.0.0.1:PORT", "nova_public@127.0.0.2"),
        ("127.0.0.1:PORT", "nova_public@::1"),
        ("127.0.0.1:PORT", "nova_private"),
    ],
)
def test_a_scope_that_matches_nothing_is_refused(make_lab, bind, scope):
    """Nobody is told that a service is down while every client gets through."""
    lab = scoped(make_lab, bind, scope)
    done = lab.agent.lbctl("down", "nova")
    assert done.returncode == 3, (done.returncode, done.stdout, done.stderr)
    assert scope.rpartition("@")[2] in done.stderr
    assert lab.agent.service("nova")["mode"] == "up"
    assert ask(lab.port["nova"]).status == 200
