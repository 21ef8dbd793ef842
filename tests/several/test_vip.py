"""The virtual address, moved by a real keepalived that is told by the agent; its configuration is the manual's."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import shutil
import threading
import time
from dataclasses import dataclass, field

import pytest

from tests.docs.blocks import blocks
from tests.lab.network import sh
from tests.lab.one_haproxy import running_lab
from tests.lab.several_haproxies import PORTS, ControlPlane, Host, control_plane
from tests.lab.wait import eventually

MANUAL = "docs/virtual-address.md"
MOVES = 4.0  # seconds: what the manual says, and a busy machine


def configuration(made: ControlPlane, host: Host) -> str:
    """The manual's, with the addresses of ``host``."""
    text = next(block.text for block in blocks(MANUAL) if block.language == "keepalived")
    others = [made.net.address[n] for n in made.names if n != host.name]
    for old, new in {
        "interface eth0": f"interface {made.net.card(host.name)}",
        "priority 150": f"priority {150 - made.names.index(host.name)}",
        "unicast_src_ip 10.0.0.11": f"unicast_src_ip {host.address}",
        "10.0.0.12\n": f"{others[0]}\n",
        "10.0.0.13\n": f"{others[1]}\n",
        "10.0.0.100/24": f"{made.net.vip}/24",
        "/var/lib/lbagent/vip": str(host.track),
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def faulting(made: ControlPlane, host: Host) -> str:
    """What the manual says for those who have nopreempt."""
    text = configuration(made, host).replace("weight -50", "weight 0").replace("weight -100", "weight 0")
    return re.sub(r"init_file.*", "", text).replace("state BACKUP", "state BACKUP\n    nopreempt")


@pytest.fixture
def three():
    with control_plane(vip=configuration, bind="transparent") as made:
        yield made


@dataclass
class Call:
    path: str
    began: float
    ended: float
    outcome: int | str  # status, or what the client saw instead
    reused: bool


@dataclass
class Callers:
    """Clients that ask until stopped, half of them on a connection each, half on a new one for each request."""

    host: str
    clients: int = 8
    work: int = 20  # milliseconds that an origin takes
    service: str = "nova"
    calls: list[Call] = field(default_factory=list)

    def __enter__(self) -> Callers:
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._threads = [
            threading.Thread(target=self._run, args=(n % 2 == 0,), daemon=True) for n in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(self.calls) > 4 * self.clients, "the load runs")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, keep: bool) -> None:
        connection = http.client.HTTPConnection(self.host, PORTS[self.service], timeout=10)
        while not self._stop.is_set():
            path, began, reused = (
                f"/v2/{next(self._numbers)}/wait/{self.work}",
                time.time(),
                connection.sock is not None,
            )
            outcome: int | str
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                outcome = response.status
            except (OSError, http.client.HTTPException) as error:
                outcome = repr(error)
                connection.close()
            if not keep:
                connection.close()
            self.calls.append(Call(path, began, time.time(), outcome, reused))
            self._stop.wait(0.002)

    def statuses(self, since: float = 0.0) -> set[int]:
        """Of the answers to what was asked after ``since``."""
        return {c.outcome for c in list(self.calls) if c.began > since and isinstance(c.outcome, int)}

    def answered_since(self, since: float) -> int:
        return sum(c.began > since and isinstance(c.outcome, int) for c in list(self.calls))

    def lost(self, made: ControlPlane) -> tuple[list[Call], list[Call], list[Call]]:
        """Without an answer: (an origin had begun it, begun by none on a new connection, or on an idle one)."""
        begun = {e.path for node in made.names for e in made.requests(node)}
        lost = [c for c in list(self.calls) if not isinstance(c.outcome, int)]
        unseen = [c for c in lost if c.path not in begun]
        return (
            [c for c in lost if c.path in begun],
            [c for c in unseen if not c.reused],
            [c for c in unseen if c.reused],
        )

    def goes_on(self) -> None:
        since = time.time()
        eventually(lambda: self.answered_since(since) > 4 * self.clients, "answers come again")


def moved_by_drain_and_ready(three: ControlPlane, load: Callers) -> tuple[float, float]:
    """ctl1, which has the address, is drained by ctl2 and comes back; seconds from the command to the moves."""
    two = three.host["ctl2"].agent
    began = time.monotonic()
    two.ok("drain", "ctl1")
    returned = time.time()
    three.address_is_on("ctl2", MOVES)
    away = time.monotonic() - began
    load.goes_on()
    assert not three.requests("ctl1", returned + 0.001)
    assert three.host["ctl1"].track.read_text() == "1\n"
    began = time.monotonic()
    two.ok("ready", "ctl1")
    three.address_is_on("ctl1", 2 * MOVES)
    back = time.monotonic() - began
    load.goes_on()
    return away, back


@pytest.mark.slow
def test_a_drain_moves_the_address_and_loses_no_request(three, capsys):
    rounds = 3
    with Callers(three.net.vip) as load:
        for _ in range(rounds):
            away, back = moved_by_drain_and_ready(three, load)
    begun, opening, idle = load.lost(three)
    with capsys.disabled():
        print(
            f"\nmoved in {away:.1f} s, back in {back:.1f} s; of {len(load.calls)} requests lost in {2 * rounds} moves:"
            f" {len(begun)} begun, {len(opening)} while connecting, {len(idle)} on idle connections"
        )
    assert load.statuses() == {200}
    assert not begun, begun
    # Reset before any server was asked: clients repeat these. At most each client's one connection a move.
    assert len(opening) + len(idle) <= 2 * rounds * load.clients
    assert max(c.ended - c.began for c in load.calls) < 2.0


@pytest.mark.slow
def test_without_transparent_a_move_costs_what_is_in_flight():
    with control_plane(vip=configuration) as three:
        with Callers(three.net.vip) as load:
            moved_by_drain_and_ready(three, load)
        begun, opening, idle = load.lost(three)
        assert load.statuses() == {200}
        assert begun
        assert len(begun) + len(opening) + len(idle) <= 2 * load.clients


@pytest.mark.slow
def test_with_nopreempt_weight_0_moves_the_address_once():
    with control_plane(vip=faulting, bind="transparent") as three:
        two = three.host["ctl2"].agent
        with Callers(three.net.vip) as load:
            two.ok("drain", "ctl1")
            (now,) = eventually(lambda: len(h := three.holders()) == 1 and h != ["ctl1"] and h, three.log, MOVES)
            load.goes_on()
            two.ok("ready", "ctl1")
            eventually(lambda: three.host["ctl1"].track.read_text() == "0\n", "it is home")
            two.ok("drain", "ctl3" if now == "ctl2" else "ctl2")  # another's drain moves nothing
            load.goes_on()
            assert three.holders() == [now]
        assert load.statuses() == {200}
        assert not load.lost(three)[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["keepalived stops", "the file is written"])
def test_down_while_the_address_moves(three, how):
    one, two, _ = three.hosts
    with Callers(three.net.vip) as load:
        command = two.agent.begin("down", "nova", "--reason", "schema")
        if how == "keepalived stops":
            three.keepalived["ctl1"].stop()
        else:
            one.agent.stop()
            one.track.write_text("1\n")
            one.agent.start(in_sync=False)
        out, err = command.communicate(timeout=60)
        returned = time.time()
        assert command.returncode in {0, 7}, out + err
        if command.returncode == 7:  # its agent was being restarted: named, and repeated until it holds everywhere
            assert "ctl1 is away" in err
            eventually(lambda: two.agent.lbctl("down", "nova").returncode == 0, three.log)
            returned = time.time()
        load.goes_on()
        assert load.statuses(returned) == {503}
        three.address_is_on("ctl2" if how == "keepalived stops" else "ctl1")
        load.goes_on()
        assert load.statuses(returned) == {503}
        assert not [e for node in three.names for e in three.requests(node, returned + 0.001, "nova")]
        assert load.statuses() == {200, 503}
        one.agent.ok("up", "nova")
        opened = time.time()
        load.goes_on()
        assert load.statuses(opened) == {200}


@pytest.mark.slow
def test_drain_while_the_address_moves(three):
    _, two, last = three.hosts
    with Callers(three.net.vip) as load:
        for keepalived in (three.keepalived["ctl1"], three.keepalived["ctl2"]):
            command = last.agent.begin("drain", "ctl3")
            keepalived.stop()
            out, err = command.communicate(timeout=60)
            returned = time.time()
            assert command.returncode == 0, out + err
            load.goes_on()
            assert not three.requests("ctl3", returned + 0.001)
            two.agent.ok("ready", "ctl3")
        three.address_is_on("ctl3")
        load.goes_on()
    assert load.statuses() == {200}


@pytest.mark.slow
def test_a_host_that_missed_a_command_gets_the_address_only_when_it_knows(three):
    one, two, _ = three.hosts
    with Callers(three.net.vip) as load:
        one.agent.kill()
        one.haproxy.kill()
        three.address_is_on("ctl2", 2 * MOVES)
        three.keepalived["ctl1"].stop()
        assert one.track.read_text() == "0\n"  # a stopped agent leaves it as it is
        load.goes_on()
        assert two.agent.lbctl("down", "nova").returncode == 7
        closed = time.time()
        # The power is back. Its HAProxy starts with what it was told last, and nobody has told it yet.
        one.haproxy.start()
        three.keepalived["ctl1"].start()
        eventually(
            lambda: one.track.read_text().strip() == "1", "keepalived has started, and wrote what the manual says"
        )
        assert one.ask().status == 200
        load.goes_on()
        for member in three.etcd.values():  # nor does a start without etcd
            member.kill()
        one.agent.start(in_sync=False)
        eventually(lambda: one.agent.status()["haproxy"]["in_sync"], "in sync without etcd")
        load.goes_on()
        assert one.track.read_text().strip() == "1"
        assert three.holders() == ["ctl2"]
        for member in three.etcd.values():
            member.start()
        three.address_is_on("ctl1", 20)
        load.goes_on()
        assert one.ask().status == 503
        assert load.statuses(closed) == {503}
        assert not [e for node in three.names for e in three.requests(node, closed + 0.001, "nova") if "wait" in e.path]


@pytest.mark.slow
def test_the_track_file_says_1_for_a_whole_drain_of_its_own_node_only(three):
    one, two, last = three.hosts
    files = [host.track for host in three.hosts]

    def read() -> str:
        return "".join(file.read_text().strip() for file in files)

    eventually(lambda: read() == "000", "all are home")
    last.agent.ok("drain", "ctl1", "--service", "nova")
    assert read() == "000"
    last.agent.ok("drain", "ctl1")
    assert read() == "100"
    last.agent.ok("ready", "ctl1", "--service", "nova")
    assert read() == "100"  # keystone is still out
    for origin in three.origins["ctl1"].values():
        origin.sick = True
    assert last.agent.lbctl("ready", "ctl1", "--timeout", "1s").returncode == 4
    assert read() == "100"
    one.agent.kill()
    assert read() == "100"
    files[0].unlink()
    one.agent.start(in_sync=False)
    eventually(lambda: files[0].exists() and read() == "100", "written again")
    one.haproxy.kill()
    for origin in three.origins["ctl1"].values():
        origin.sick = False
    assert last.agent.lbctl("ready", "ctl1").returncode in {0, 7}
    eventually(lambda: two.agent.node("ctl1")["state"] == "ready", "it is back for the others")
    assert read() == "100"  # but its own HAProxy is down
    one.haproxy.start()
    eventually(lambda: read() == "000", three.log)
    one.haproxy.kill()
    last.agent.lbctl("drain", "ctl1", "--deadline", "1s")
    eventually(lambda: read() == "100", three.log)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["no folder", "a folder in its place"])
def test_a_track_file_that_cannot_be_written_is_shown_and_holds_nothing_up(three, broken):
    one, two, _ = three.hosts
    shutil.rmtree(one.track.parent)
    if broken == "a folder in its place":
        one.track.mkdir(parents=True)
    eventually(lambda: str(one.track) in one.agent.status()["trouble"], lambda: one.agent.status()["trouble"])
    eventually(lambda: str(one.track) in two.agent_of("ctl1")["trouble"], "shown elsewhere")
    assert "keepalived does not hear of drains" in two.agent.ok("status")
    connection = http.client.HTTPConnection(one.address, PORTS["nova"])
    connection.request("GET", "/v2")
    connection.getresponse().read()
    eventually(lambda: two.agent_of("ctl1")["clients"], "it is counted")
    done = two.agent.lbctl("drain", "ctl1")
    assert done.returncode == 0
    assert "ove its virtual address first" in done.stderr
    two.agent.ok("down", "nova")
    assert [host.ask().status for host in three.hosts] == [503] * 3
    shutil.rmtree(one.track.parent, ignore_errors=True)
    one.track.parent.mkdir()
    eventually(lambda: one.track.exists() and one.track.read_text() == "1\n", "written")
    eventually(lambda: not one.agent.status()["trouble"], lambda: one.agent.status()["trouble"])
    connection.close()


def established(made: ControlPlane, host: Host) -> int:
    """What the kernel says: connections to the ports of the frontends."""
    rows = sh(*made.net.inside(host.name), "ss", "-Htn", "state", "established").splitlines()
    return sum(row.split()[2].rpartition(":")[2] in {str(port) for port in PORTS.values()} for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("track", [True, False])
def test_status_counts_client_connections_and_a_drain_tells_how_to_move_them(track):
    with control_plane(settings=None if track else {"haproxy": {"vip_track_file": None}}, vip=configuration) as three:
        for daemon in three.keepalived.values():  # its checks of HAProxy come and go
            daemon.stop()
        one, two, last = three.hosts
        connections = [http.client.HTTPConnection(one.address, PORTS[s]) for s in ("nova", "nova", "keystone")]
        for connection in connections:
            connection.request("GET", "/v2")
            connection.getresponse().read()  # and stays open, idle
        assert established(three, one) == 3
        eventually(lambda: one.agent.status()["haproxy"]["clients"] == 3, "here")
        eventually(
            lambda: [two.agent_of(n)["clients"] for n in three.names] == [3, 0, 0], lambda: str(two.agent.status())
        )
        assert "3 client connections" in one.agent.ok("status")
        connections[0].request("GET", "/v2/wait/4000")  # an old worker keeps this one
        eventually(lambda: one.agent.service("nova")["sessions"] == 1, lambda: str(one.agent.status()))
        one.haproxy.reload()
        eventually(lambda: one.agent.status()["haproxy"]["old_workers"] == 1, "an old worker")
        eventually(lambda: one.agent.status()["haproxy"]["clients"] == established(three, one) >= 1, "it is counted")
        assert connections[0].getresponse().status == 200
        for connection in connections:
            connection.close()
        fresh = [http.client.HTTPConnection(one.address, PORTS["nova"]) for _ in range(2)]
        for connection in fresh:
            connection.request("GET", "/v2")
            connection.getresponse().read()
        eventually(lambda: two.agent_of("ctl1")["clients"] == 2, "the closed ones are gone")
        assert "note" not in two.agent.lbctl("drain", "ctl1", "--service", "nova").stderr
        notes = two.agent.lbctl("drain", "ctl1").stderr
        assert "ctl1's own HAProxy has 2 client connections, which patching ctl1 would cut" in notes
        assert ("keepalived is told to move its virtual address" in notes) is track
        assert ("systemctl stop keepalived" in notes) is not track
        two.agent.ok("ready", "ctl1")
        assert "client connection" not in one.agent.lbctl("drain", "ctl3").stderr
        for connection in fresh:
            connection.close()
        eventually(lambda: last.agent_of("ctl1")["clients"] == 0 == established(three, one), "none is left")


def test_an_haproxy_of_its_own_says_it_too():
    with running_lab() as one:
        connection = http.client.HTTPConnection("127.0.0.1", one.port["nova"])
        connection.request("GET", "/v2")
        connection.getresponse().read()
        eventually(lambda: one.agent.status()["haproxy"]["clients"] == 1, "it is counted")
        answer = json.loads(one.agent.ok("drain", "ctl1", "--json").splitlines()[-1])
        assert "ctl1's own HAProxy has 1 client connection, which" in " ".join(answer["notes"])
        assert "client connection" not in one.agent.lbctl("drain", "ctl2").stderr
        connection.close()
