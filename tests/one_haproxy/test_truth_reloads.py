"""What survives a reload is what HAProxy loads: a drain that it would not load again is refused, not lost.

Each test reloads a real HAProxy, with the agent running and without it; the origins' logs decide.
"""

from __future__ import annotations

import shutil
import signal
import time

import pytest

from tests.lab.clients import Load, ask
from tests.lab.one_haproxy import Lab
from tests.lab.wait import eventually

TICK = 4.0  # seconds within which the agent has seen what HAProxy runs now, on a busy machine


def load_goes_on(load: Load, count: int = 100) -> None:
    seen = len(load.results)
    eventually(lambda: len(load.results) > seen + count, "the load goes on")


# ----------------------------------------------------------------------------------------- backends in mode tcp


@pytest.fixture
def database(make_lab) -> Lab:
    """Beside nova, a database that the configuration lists, in `mode tcp`."""
    return make_lab(("nova_back",), tcp=("db",), settings={"services": {"db": {"backends": ["db"]}}})


@pytest.mark.parametrize("agent", ["running", "stopped"])
def test_no_connection_reaches_a_drained_database_in_five_reloads(database, agent):
    with Load(database.port["db"], fresh=True) as load:
        database.agent.ok("drain", "ctl1")
        drained = time.time()
        if agent == "stopped":
            database.agent.stop()
        for _ in range(5):
            database.haproxy.reload()
            load_goes_on(load)
    late = database.requests("ctl1", drained, "db")
    assert late == [], f"{len(late)} connections reached the drained database"
    assert load.statuses() == {200}


def test_with_only_tcp_backends_adopt_keeps_drains(make_lab):
    lab = make_lab((), tcp=("db",), settings={"services": {"db": {"backends": ["db"]}}})
    assert "adopt" not in lab.agent.lbctl("doctor").stdout
    with Load(lab.port["db"], fresh=True) as load:
        lab.agent.ok("drain", "ctl1")
        drained = time.time()
        lab.agent.stop()
        lab.haproxy.reload()
        load_goes_on(load)
    assert lab.requests("ctl1", drained, "db") == []


# ----------------------------------------------------------------------------------- what HAProxy would not load


def test_a_drain_that_the_next_reload_would_end_is_refused(make_lab):
    """Given a configuration that nobody adopted, the remedy is named; `--until-reload` accepts what it costs."""
    lab = make_lab(("nova",), guard=False)
    done = lab.agent.lbctl("drain", "ctl1")
    assert (done.returncode, "adopt" in done.stderr, "--until-reload" in done.stderr) == (3, True, True), done.stderr
    assert lab.agent.node("ctl1")["state"] == "ready"
    assert lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "0"
    lab.agent.ok("drain", "ctl1", "--until-reload")
    since = time.time()
    for _ in range(6):
        ask(lab.port["nova"])
    assert lab.requests("ctl1", since) == []


def test_a_drain_is_refused_where_one_backend_of_several_would_lose_it(make_lab):
    """Adopted long ago, and since then somebody has added a database that nobody adopted."""
    lab = make_lab(("nova",))
    lab.serve_tcp("db")
    with lab.haproxy.config.open("a") as file:
        file.write(f"defaults\n  timeout client 9s\n  timeout server 9s\n{lab.configuration.backends['db']}")
    lab.agent.settings["services"] = {"db": {"backends": ["db"]}}
    lab.agent.write()
    lab.agent.process.send_signal(signal.SIGHUP)
    lab.haproxy.reload()
    eventually(lambda: any(s["name"] == "db" for s in lab.agent.status()["services"]), "status has the database", TICK)
    done = lab.agent.lbctl("drain", "ctl1")
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert "db" in done.stderr and "adopt" in done.stderr
    lab.agent.ok("drain", "ctl1", "--service", "nova")


def test_where_the_configuration_cannot_be_read_a_drain_is_refused(make_lab):
    lab = make_lab(("nova",), start=False)
    lab.agent.settings["haproxy"]["config"] = [str(lab.folder / "elsewhere.cfg")]
    lab.agent.write()
    lab.start()
    done = lab.agent.lbctl("drain", "ctl1")
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert "elsewhere.cfg" in done.stderr
    lab.agent.ok("drain", "ctl1", "--until-reload")


# ---------------------------------------------------------------------------- servers that the configuration disables


def disable(lab: Lab, server: str, disabled: bool) -> None:
    """Put `disabled` into a server's line, or take it out, and reload."""
    line = lab.configuration.backends["nova"].server(server)
    line.words = line.words.removesuffix(" disabled") + (" disabled" if disabled else "")
    lab.reload()


def serves(lab: Lab, node: str) -> None:
    """Within a tick and its checks, without another reload, the node gets requests."""
    since = time.time()

    def served() -> bool:
        for _ in range(3):
            ask(lab.port["nova"])
        return bool(lab.requests(node, since))

    eventually(served, lambda: f"{node} serves: {lab.haproxy.server(f'nova/{node}')}", TICK)


def test_a_server_that_was_disabled_when_its_node_was_drained_follows_the_configuration(make_lab):
    """Drain, take the word out, reload, ready: it serves. Its maint was the configuration's, and that is gone."""
    lab = make_lab(("nova",), start=False)
    lab.configuration.backends["nova"].server("ctl1").words += " disabled"
    lab.install()
    lab.start()
    lab.agent.ok("drain", "ctl1")
    disable(lab, "ctl1", False)
    lab.agent.ok("ready", "ctl1")
    serves(lab, "ctl1")


def test_a_server_that_is_disabled_while_its_node_is_drained_follows_the_configuration(lab):
    lab.agent.ok("drain", "ctl1")
    disable(lab, "ctl1", True)
    eventually(lambda: lab.agent.node("ctl1")["state"] == "drained", "status has seen it", TICK)
    disable(lab, "ctl1", False)
    lab.agent.ok("ready", "ctl1")
    serves(lab, "ctl1")


def test_a_disabled_server_stays_out_after_ready_until_the_configuration_enables_it(lab):
    lab.agent.ok("drain", "ctl1")
    disable(lab, "ctl1", True)
    lab.agent.lbctl("ready", "ctl1", "--timeout", "3s")  # what it says of a parked server is another matter
    since = time.time()
    for _ in range(9):
        ask(lab.port["nova"])
    assert lab.requests("ctl1", since, "nova") == []
    disable(lab, "ctl1", False)
    serves(lab, "ctl1")


def test_a_disabled_server_of_another_node_is_not_kept_by_a_drain(make_lab):
    lab = make_lab(("nova",), start=False)
    lab.configuration.backends["nova"].server("ctl2").words += " disabled"
    lab.install()
    lab.start()
    lab.agent.ok("drain", "ctl1")
    disable(lab, "ctl2", False)
    serves(lab, "ctl2")


# -------------------------------------------------------------------------------------------------- first start


@pytest.mark.parametrize("first", ["agent", "haproxy"])
def test_with_the_guard_in_place_and_an_empty_folder_both_start(make_lab, first):
    """Deployers' templates bring the guard before the agent ever ran: the agent lays down what HAProxy misses."""
    lab = make_lab(("nova",), start=False)
    shutil.rmtree(lab.state)
    if first == "haproxy":
        with pytest.raises(AssertionError):
            lab.haproxy.start(patience=2)
        lab.haproxy.kill()
    lab.agent.start(in_sync=False)
    lab.haproxy.start()
    eventually(lambda: lab.agent.status()["haproxy"]["in_sync"], "the agent is in sync")
    assert ask(lab.port["nova"]).status == 200
    lab.agent.ok("down", "nova")
    assert ask(lab.port["nova"]).status == 503


# -------------------------------------------------------------------------------------- the guard is written away


def test_a_closed_service_stays_closed_when_the_guard_is_written_away(lab):
    """Configuration management knows nothing of the guard: the service is open at most a tick; status says so."""
    lab.agent.ok("down", "nova")
    with Load(lab.port["nova"], pause=0.005) as load:
        load_goes_on(load)
        lab.reload(guard=False)
        reloaded = time.time()
        eventually(lambda: lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "1", "its servers are in maint", TICK)
        load_goes_on(load, 300)
    served = [began for began, status in load.results if status == 200]
    print(f"open for {max(served, default=reloaded) - min(served, default=reloaded):.2f} s, {len(served)} requests")
    assert max(served, default=0) - min(served, default=0) < 1.5
    assert set(load.statuses(since=reloaded + TICK)) <= {503}
    lab.reload()
    eventually(lambda: lab.haproxy.server("nova/ctl1")["srv_admin_state"] == "0", "the guard does it again", TICK + 3)
    assert ask(lab.port["nova"]).status == 503


@pytest.mark.parametrize("what", [("down", "nova"), ("drain", "ctl1")], ids=" ".join)
def test_the_guard_is_not_taken_out_by_us_with_something_closed(lab, what):
    lab.agent.ok(*what)
    before = lab.haproxy.config.read_text()
    done = lab.agent.lbctl("haproxy", "adopt", "--remove", "--write", str(lab.haproxy.config))
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert what[1] in done.stderr and "--force" in done.stderr
    assert lab.haproxy.config.read_text() == before
    lab.agent.ok("haproxy", "adopt", "--remove", "--write", "--force", str(lab.haproxy.config))
    assert "lbagent" not in lab.haproxy.config.read_text()


# ------------------------------------------------------------------------------------------- stopped agent, SIGHUP


def test_a_service_that_is_configured_later_is_closed_by_its_new_backends_too(make_lab):
    """SIGHUP: the intent is about the service; what the configuration says it owns now is covered."""
    lab = make_lab(("one", "two"), settings={"services": {"api": {"backends": ["one"]}}})
    lab.agent.ok("down", "api")
    assert ask(lab.port["two"]).status == 200
    lab.agent.settings["services"] = {"api": {"backends": ["one", "two"]}}
    lab.agent.write()
    lab.agent.process.send_signal(signal.SIGHUP)
    eventually(lambda: ask(lab.port["two"]).status == 503, "its new backend is closed", TICK)
    assert ask(lab.port["one"]).status == 503


def test_a_service_that_loses_a_backend_in_the_configuration_opens_nothing(make_lab):
    """Only a command opens: a mode keeps what it covered."""
    lab = make_lab(("one", "two"), settings={"services": {"api": {"backends": ["one", "two"]}}})
    lab.agent.ok("down", "api")
    lab.agent.settings["services"] = {"api": {"backends": ["one"]}}
    lab.agent.write()
    lab.agent.process.send_signal(signal.SIGHUP)
    ended = time.time() + 3
    with Load(lab.port["two"], pause=0.02) as load:
        eventually(lambda: time.time() > ended, "clients go on asking")
    assert load.statuses() == {503}
    lab.agent.ok("up", "api")
    assert (ask(lab.port["one"]).status, ask(lab.port["two"]).status) == (200, 200)
