"""etcd in every kind of trouble: modes stay as they are, commands work or name etcd, nothing is lost, nothing flaps.

First the store by itself against a single real etcd, then a control plane of three hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbagent.cluster.cluster import Member
from lbagent.errors import Conflict, StoreError
from lbagent.model.intent import Drain, Held, Mode, ServiceIntent, Shared, Stamp
from lbagent.settings.etcd import Endpoint, EtcdConfig
from lbagent.store.codec import Damaged, encode
from lbagent.store.etcd.store import EtcdStore
from tests.lab.one_haproxy import Load, eventually, free_port
from tests.lab.several_haproxies import PORTS, ControlPlane, Host, control_plane

CLOSED = (
    Shared()
    .with_service("nova", ServiceIntent(mode=Mode.DOWN, start=5, reason="é😀\n", by="root", keys=("nova",)))
    .with_drain("ctl1", "nova", Drain(servers=(Held(backend="nova", server="ctl1"),)))
)


USER = {"user": "lbagent", "password": "secret"}


class Single:
    """An etcd of one member on loopback; ``options`` are what it is started with besides."""

    def __init__(self, folder: Path, *options: str, scheme: str = "http") -> None:
        self.folder, self.options = folder, options
        self.port, self.peer, self.scheme = free_port(), free_port(), scheme
        self.client_options: tuple[str, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self, data: str = "data") -> Single:
        peer = f"http://127.0.0.1:{self.peer}"
        self.process = subprocess.Popen(
            [
                *("etcd", "--name", "one", "--data-dir", self.folder / data, "--log-level", "error"),
                *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                *(
                    "--listen-peer-urls",
                    peer,
                    "--initial-advertise-peer-urls",
                    peer,
                    "--initial-cluster",
                    f"one={peer}",
                ),
                *self.options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "etcd.log").open("ab"),
        )
        eventually(
            lambda: "is healthy" in self.ctl("endpoint", "health", check=False),
            lambda: "etcd answers: " + (self.folder / "etcd.log").read_text()[-2000:],
        )
        return self

    def ctl(self, *words: str, check: bool = True, text: str = "") -> str:
        done = subprocess.run(
            ["etcdctl", "--endpoints", self.url, "--command-timeout", "2s", *self.client_options, *words],
            capture_output=True,
            input=text,
            text=True,
            check=False,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout + done.stderr

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def create_user(self) -> None:
        """As the manual says: a role for what is below the prefix, a user that has nothing else."""
        for line in (
            "user add root:top",
            "user grant-role root root",
            "role add lbagent",
            "role grant-permission lbagent readwrite --prefix=true /lbagent/",
            "user add lbagent:secret",
            "user grant-role lbagent lbagent",
            "auth enable",
        ):
            self.ctl(*line.split())
        self.client_options = ("--user", "root:top")


class Proxy:
    """Forwards TCP to ``port``, and can be told to do that badly."""

    def __init__(self, port: int, host: str = "127.0.0.1", listen: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self.delay = 0.0  # seconds that every answer takes longer
        self.drop: Callable[[bytes], bool] = lambda _: False  # of a request: its answer is lost
        self.hang = False  # connections are taken, and nothing is ever said
        self.dropped = 0
        self.before_cut: Callable[[float], Any] = lambda _: None
        self._listener = socket.create_server((listen, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as server:
            lost = threading.Event()
            threading.Thread(target=self._back, args=(server, client, lost), daemon=True).start()
            while data := client.recv(65536):
                if self.drop(data):
                    lost.set()
                while self.hang:
                    time.sleep(0.01)
                server.sendall(data)

    def _back(self, server: socket.socket, client: socket.socket, lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if lost.is_set():
                    self.before_cut(5.0)
                    self.dropped += 1
                    break
                time.sleep(self.delay)
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="lba-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def etcd(folder: Path) -> Iterator[Single]:
    one = Single(folder)
    try:
        yield one.start()
    finally:
        one.kill()


@pytest.fixture
def proxy(etcd: Single) -> Iterator[Proxy]:
    made = Proxy(etcd.port)
    yield made
    made.close()


@pytest.fixture
def make_store() -> Iterator[Callable[..., EtcdStore]]:
    made = []

    def make(*ports: int, node: str = "ctl1", scheme: str = "http", **settings: Any) -> EtcdStore:
        endpoints = tuple(Endpoint(scheme, "127.0.0.1", port) for port in ports)
        made.append(EtcdStore(EtcdConfig(endpoints=endpoints, **settings), node))
        return made[-1]

    yield make
    for one in made:
        one.close()


async def read(store: EtcdStore) -> Shared | None:
    return (await store.look()).intent


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"took {took:.1f} s"


# ------------------------------------------------------------------------------------------------ store


async def test_what_was_never_stored_is_none_and_not_an_empty_intent(etcd, make_store):
    assert await read(make_store(etcd.port)) is None


async def test_what_is_stored_is_read_back_by_all_one_revision_on(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    assert await read(one) is None
    stored = await one.swap(0, CLOSED)
    assert stored.revision == 1
    assert (stored.services, stored.drains) == (CLOSED.services, CLOSED.drains)
    assert await read(one) == await read(other) == stored


async def test_what_somebody_else_changed_meanwhile_is_a_conflict_and_stays(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    await read(one), await read(other)
    stored = await one.swap(0, CLOSED)
    for _ in range(2):
        with pytest.raises(Conflict, match="has changed since revision 0"):
            await other.swap(0, Shared())
    assert await read(other) == stored
    assert (await other.swap(1, Shared())).revision == 2


async def test_of_many_who_swap_at_once_one_wins(etcd, make_store):
    stores = [make_store(etcd.port, node=f"ctl{i}") for i in range(5)]
    for store in stores:
        await read(store)
    outcomes = await asyncio.gather(*(store.swap(0, CLOSED) for store in stores), return_exceptions=True)
    assert sorted(type(o).__name__ for o in outcomes) == ["Conflict"] * 4 + ["Shared"]


async def test_a_drain_is_stored_only_while_no_haproxy_finds_other_servers_sick(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    await other.report(Member(node="ctl2"), ())
    await read(one)
    await other.report(Member(node="ctl2"), ())
    stored = await one.swap(0, CLOSED, healthy=True)  # the same again is no change
    await read(one)
    await other.report(Member(node="ctl2"), ("nova/ctl3",))
    with pytest.raises(Conflict):
        await one.swap(1, CLOSED, healthy=True)
    assert await read(one) == stored


async def test_watch_wakes_with_each_new_revision(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    await wakes_with_a_swap(one, other)


async def wakes_with_a_swap(watching: EtcdStore, swapping: EtcdStore) -> None:
    """A watch may wake for nothing; it has to within a second of a swap."""
    async with Wakes(watching) as wakes:
        for _ in range(3):
            await wakes.quiet()
            await wakes.with_a_swap(swapping)


class Wakes:
    """Counts how often a store's watch wakes."""

    def __init__(self, store: EtcdStore) -> None:
        self._store, self.count, self._woken = store, 0, asyncio.Event()

    async def __aenter__(self) -> Wakes:
        self._task = asyncio.create_task(self._run())
        await self.more_than(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        async for _ in self._store.watch():
            self.count += 1
            self._woken.set()

    async def more_than(self, count: int, seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while self.count <= count:
                self._woken.clear()
                await self._woken.wait()

    async def quiet(self) -> None:
        """Until it has not woken for a second, more than a watch that fails takes to be begun again."""
        for _ in range(10):
            before = self.count
            await asyncio.sleep(1)
            if self.count == before:
                return
        raise AssertionError("it never stops waking")

    async def with_a_swap(self, other: EtcdStore) -> None:
        stored = await read(other)
        before = self.count
        await other.swap(stored.revision if stored else 0, CLOSED)
        await self.more_than(before, 1.0)


async def test_a_sign_of_life_ends_with_the_agent_and_its_report_stays(etcd, make_store):
    one, other = make_store(etcd.port), make_store(etcd.port, node="ctl2")
    await one.report(Member(node="ctl1", followed=Stamp(7, "x")), ("nova/ctl3",))
    await one.look()
    await one.renew()
    view = await other.look()
    assert view.alive == {"ctl1"}
    assert view.members["ctl1"].revision == 7
    assert view.sick == {"ctl1": ("nova/ctl3",)}
    one.close()
    deadline = time.monotonic() + 10
    while (view := await other.look()).alive:
        assert time.monotonic() < deadline
    assert set(view.members) == {"ctl1"}
    await other.forget("ctl1")
    view = await other.look()
    assert (view.members, view.sick) == ({}, {})


@pytest.mark.parametrize(
    "content", ["", "{}", "\x00\x01", "[" * 5000, encode(CLOSED)[:-40], encode(CLOSED).replace("down", "up")]
)
async def test_damaged_content_is_said_to_be_and_left_alone(etcd, make_store, content):
    store = make_store(etcd.port)
    etcd.ctl("put", "/lbagent/intent", *([] if content else [""]), text=content)
    with pytest.raises(Damaged, match=r"/lbagent/intent in etcd is damaged .* nothing is opened .* once it is deleted"):
        await store.look()
    assert etcd.ctl("get", "/lbagent/intent", "--print-value-only").rstrip("\n") == content.rstrip("\n")


async def test_another_agents_report_that_cannot_be_read_stops_nobody(etcd, make_store, caplog):
    store = make_store(etcd.port)
    await read(store)
    await store.swap(0, CLOSED)
    for key in ("agents/ctl2", "sick/ctl2", "what/else", "agents/ctl3"):
        etcd.ctl("put", f"/lbagent/{key}", "{nonsense")
    for _ in range(3):
        assert (await store.look()).intent.services == CLOSED.services
    assert caplog.text.count("agents/ctl2 in etcd cannot be read") == 1


async def test_what_lies_beside_the_prefix_is_not_looked_at(etcd, make_store):
    etcd.ctl("put", "/lbagent0", "x")
    etcd.ctl("put", "/lbagent-of-another/intent", "x")
    etcd.ctl("put", "/other/intent", "x")
    assert await read(make_store(etcd.port)) is None
    assert await read(make_store(etcd.port, prefix="/region/one")) is None


async def test_two_agents_of_one_name_are_noticed_and_a_restart_is_not(etcd, make_store):
    first = make_store(etcd.port)
    await first.look()
    await first.renew()
    first.close()
    second = make_store(etcd.port)
    await second.look()
    await second.renew()
    await second.look()
    assert not second.rival
    third = make_store(etcd.port)
    deadline = time.monotonic() + 15
    while not second.rival and not third.rival:
        assert time.monotonic() < deadline
        for store in (second, third):
            await store.look()
            await store.renew()
        await asyncio.sleep(0.1)


# --------------------------------------------------------------------------------------------- failover


async def test_an_endpoint_that_is_dead_is_passed_over(etcd, make_store):
    store = make_store(free_port(), etcd.port)
    with within(1):
        assert await read(store) is None
        await store.swap(0, CLOSED)
    with within(0.5):
        assert (await read(store)).revision == 1


async def test_an_endpoint_that_hangs_is_passed_over_and_then_left_alone(etcd, make_store):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        store = make_store(hanging.getsockname()[1], etcd.port)
        with within(2.5):
            assert await read(store) is None
        with within(0.5):
            await store.swap(0, CLOSED)
            await store.report(Member(node="ctl1"), ())
            assert (await read(store)).revision == 1


async def test_an_endpoint_that_begins_to_hang_keeps_a_command_waiting_for_a_bounded_time(etcd, proxy, make_store):
    store = make_store(proxy.port, etcd.port)
    assert await read(store) is None
    proxy.hang = True
    with within(3.5):
        await store.swap(0, CLOSED)
    with within(0.5):
        assert (await read(store)).revision == 1
    proxy.hang = False


async def test_nobody_there_is_said_within_the_time_that_lbctl_waits(make_store):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        hangs, dead = hanging.getsockname()[1], free_port()
        store = make_store(hangs, dead)
        for _ in range(3):
            with within(4), pytest.raises(StoreError) as failed:
                await store.look()
            assert "etcd cannot be used" in failed.value.message
            assert f"http://127.0.0.1:{hangs}: it does not answer in time" in failed.value.message
            assert f"http://127.0.0.1:{dead}: connection refused" in failed.value.message


async def test_one_that_is_back_is_found_at_once(etcd, make_store):
    etcd.kill()
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        store = make_store(hanging.getsockname()[1], etcd.port)
        for _ in range(2):
            with pytest.raises(StoreError):
                await store.look()
        etcd.start()
        with within(0.5):
            await store.look()


@pytest.mark.parametrize("second", [True, False])
async def test_a_swap_whose_answer_is_lost_is_known_for_its_own(etcd, proxy, make_store, second):
    store = make_store(proxy.port, *([etcd.port] if second else []))
    assert await read(store) is None
    proxy.drop = lambda data: b"/kv/txn" in data and not proxy.dropped
    stored = await store.swap(0, CLOSED)
    assert proxy.dropped == 1
    assert await read(store) == stored
    assert json.loads(etcd.ctl("get", "/lbagent/intent", "-w", "json").splitlines()[0])["kvs"][0]["version"] == 1
    assert (await store.swap(1, CLOSED)).revision == 2


async def test_it_is_known_when_another_has_built_on_it_since(etcd, proxy, make_store):
    store, other = make_store(proxy.port, etcd.port), make_store(etcd.port, node="ctl2")
    assert await read(store) is None
    loop, built = asyncio.get_running_loop(), threading.Event()

    async def build() -> None:
        deadline = time.monotonic() + 2
        while (stored := await read(other)) is None:
            assert time.monotonic() < deadline
        await other.swap(1, stored.with_service("glance", ServiceIntent(mode=Mode.DOWN, start=5)))
        built.set()

    def drop(data: bytes) -> bool:
        if b"/kv/txn" in data and not proxy.dropped:
            asyncio.run_coroutine_threadsafe(build(), loop)
            return True
        return False

    proxy.drop = drop
    proxy.before_cut = built.wait
    stored = await store.swap(0, CLOSED)
    assert stored.revision == 1
    now = await read(store)
    assert (now.revision, set(now.services)) == (2, {"nova", "glance"})


async def test_slow_answers_are_waited_for(proxy, make_store):
    store = make_store(proxy.port)
    await store.look()
    proxy.delay = 1.3
    for _ in range(2):
        with contextlib.suppress(StoreError):
            await store.look()
    assert await read(store) is None
    assert (await store.swap(0, CLOSED)).revision == 1


# -------------------------------------------------------------------------------------------------- TLS


class Authority:
    """A CA and what it signs, by openssl."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder, self.name = folder, name
        self._openssl("req", "-x509", *self._new(name), "-out", f"{name}.crt", "-days", "2")

    def certificate(self, name: str, extension: str, days: int = 2) -> tuple[str, str]:
        """(certificate, key)"""
        self._openssl("req", *self._new(name), "-out", f"{name}.csr")
        (self.folder / "extension").write_text(extension)
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{self.name}.crt", "-CAkey", f"{self.name}.key"),
            *("-CAcreateserial", "-days", str(days), "-extfile", "extension", "-out", f"{name}.crt"),
        )
        return str(self.folder / f"{name}.crt"), str(self.folder / f"{name}.key")

    @property
    def ca(self) -> str:
        return str(self.folder / f"{self.name}.crt")

    def _new(self, name: str) -> list[str]:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        return [*curve, "-keyout", f"{name}.key", "-subj", f"/CN={name}"]

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def secure(folder: Path) -> Iterator[tuple[Single, Authority, dict[str, str]]]:
    """An etcd that asks for certificates, its authority, and what makes it answer."""
    authority = Authority(folder)
    cert, key = authority.certificate("etcd", "subjectAltName=IP:127.0.0.1")
    mine, my_key = authority.certificate("agent", "extendedKeyUsage=clientAuth")
    asked = ("--cert-file", cert, "--key-file", key, "--trusted-ca-file", authority.ca, "--client-cert-auth")
    one = Single(folder, *asked, scheme="https")
    one.client_options = ("--cacert", authority.ca, "--cert", mine, "--key", my_key)
    try:
        yield one.start(), authority, {"ca": authority.ca, "cert": mine, "key": my_key}
    finally:
        one.kill()


async def test_with_certificates_all_works(secure, make_store):
    etcd, _, good = secure
    one = make_store(etcd.port, scheme="https", **good)
    other = make_store(etcd.port, scheme="https", node="ctl2", **good)
    assert await read(one) is None
    await wakes_with_a_swap(one, other)
    await one.report(Member(node="ctl1"), ())
    await one.renew()
    assert (await other.look()).alive == {"ctl1"}


async def test_with_wrong_certificates_the_key_of_the_configuration_is_named(secure, make_store):
    etcd, authority, good = secure
    stranger = Authority(authority.folder, "stranger")
    cert, key = stranger.certificate("stranger-agent", "extendedKeyUsage=clientAuth")
    for scheme, change, named in (
        ("https", {"ca": stranger.ca}, "its certificate is not signed by store.etcd.ca"),
        ("https", {"ca": None}, "its certificate is not signed by store.etcd.ca"),
        ("https", {"cert": None, "key": None}, "store.etcd.cert and key"),
        ("https", {"cert": cert, "key": key}, "store.etcd.cert and key"),
        ("https", {"key": key}, "store.etcd.key is not the key of store.etcd.cert"),
        ("https", {"ca": "/nowhere"}, "store.etcd.ca: no such file"),
        ("https", {"cert": "/nowhere"}, "store.etcd.cert: no such file"),
        ("https", {"key": "/nowhere"}, "store.etcd.key: no such file"),
        ("https", {"ca": good["key"]}, "store.etcd.ca holds no certificate"),
        ("http", {"ca": None, "cert": None, "key": None}, "store.etcd.endpoints"),
    ):
        with pytest.raises(StoreError) as failed:
            await make_store(etcd.port, scheme=scheme, **{**good, **change}).look()
        assert "etcd cannot be used: " in failed.value.message
        assert named in failed.value.message, change


async def test_https_where_http_is_served_is_named(etcd, make_store):
    with pytest.raises(StoreError, match=r"does not speak TLS: store\.etcd\.endpoints has https"):
        await make_store(etcd.port, scheme="https").look()


async def test_a_certificate_for_another_name_is_named(
    secure,
    make_store,
):
    etcd, authority, good = secure
    etcd.kill()
    cert, key = authority.certificate("elsewhere", "subjectAltName=DNS:elsewhere")
    etcd.options = ("--cert-file", cert, "--key-file", key)
    etcd.client_options = ("--insecure-skip-tls-verify", "--insecure-transport=false")
    etcd.start()
    with pytest.raises(StoreError, match=r"its certificate is not for this name: see store\.etcd\.endpoints"):
        await make_store(etcd.port, scheme="https", ca=good["ca"]).look()


# ------------------------------------------------------------------------------------------------- users


async def test_a_user_with_nothing_but_the_prefix_can_do_it_all(etcd, make_store):
    etcd.create_user()
    one = make_store(etcd.port, **USER)
    other = make_store(etcd.port, **USER, node="ctl2")
    assert await read(one) is None
    await wakes_with_a_swap(one, other)
    await one.report(Member(node="ctl1"), ("nova/ctl1",))
    await one.renew()
    assert (await other.look()).alive == {"ctl1"}
    await one.swap((await read(one)).revision, CLOSED, healthy=True)
    one._lease._renewed = 0.0
    await one.renew()
    await other.forget("ctl1")
    assert not (await other.look()).members


async def test_a_token_that_has_ended_is_asked_for_anew(etcd, make_store):
    """etcd forgets simple tokens with a restart: reads, swaps, leases and the watch go on."""
    etcd.create_user()
    one = make_store(etcd.port, **USER)
    other = make_store(etcd.port, **USER, node="ctl2")
    async with Wakes(one) as wakes:
        assert await read(one) is None
        etcd.restart()
        assert await read(one) is None
        await one.renew()
        await one.swap(0, CLOSED)
        await wakes.quiet()
        await wakes.with_a_swap(other)


async def test_the_password_may_lie_in_a_file_that_changes(etcd, make_store, folder):
    etcd.create_user()
    file = folder / "password"
    file.write_text("wrong\n")
    store = make_store(etcd.port, user="lbagent", password_file=str(file))
    for user, password in (("lbagent", "wrong"), ("nobody", "secret")):
        with pytest.raises(StoreError, match=r"it does not know store\.etcd\.user with this password"):
            await make_store(etcd.port, user=user, password=password).look()
    with pytest.raises(StoreError, match="with this password"):
        await store.look()
    file.write_text("secret\n")
    assert await read(store) is None
    file.unlink()
    with pytest.raises(StoreError, match=r"store\.etcd\.password_file cannot be read: .*No such file"):
        await make_store(etcd.port, user="lbagent", password_file=str(file)).look()


async def test_no_user_or_one_without_the_role_is_said(etcd, make_store):
    etcd.create_user()
    with pytest.raises(StoreError, match=r"it asks who this is: store\.etcd\.user"):
        await make_store(etcd.port).look()
    with pytest.raises(StoreError, match=r"may not read and write below store\.etcd\.prefix"):
        await make_store(etcd.port, **USER, prefix="/elsewhere").look()
    etcd.ctl("role", "revoke-permission", "lbagent", "--prefix=true", "/lbagent/")
    etcd.ctl("role", "grant-permission", "lbagent", "read", "--prefix=true", "/lbagent/")
    store = make_store(etcd.port, **USER)
    assert await read(store) is None
    with pytest.raises(StoreError, match=r"may not read and write below store\.etcd\.prefix"):
        await store.swap(0, CLOSED)


async def test_users_are_configured_before_etcd_asks_for_them_and_after(etcd, make_store):
    store = make_store(etcd.port, **USER)
    assert await read(store) is None
    await store.swap(0, CLOSED)
    etcd.create_user()
    assert (await read(store)).revision == 1
    await store.swap(1, CLOSED)
    etcd.ctl("auth", "disable")
    assert (await read(store)).revision == 2
    await store.swap(2, CLOSED)


# ------------------------------------------------------------------------------------- a control plane


@pytest.fixture
def three() -> Iterator[ControlPlane]:
    with control_plane() as made:
        yield made


def closed(three: ControlPlane, service: str = "nova") -> list[int]:
    return [host.ask(service).status for host in three.hosts]


@contextlib.contextmanager
def nobody_flaps(three: ControlPlane, down: str = "nova", up: str = "keystone") -> Iterator[None]:
    """Under load, what is closed answers 503 and what is open 200, on every HAProxy, all the time."""
    with contextlib.ExitStack() as stack:
        loads = [
            (expected, stack.enter_context(Load(PORTS[name], host=host.address, clients=1, pause=0.02, seconds=300)))
            for host in three.hosts
            for name, expected in ((down, 503), (up, 200))
        ]
        yield
    for expected, load in loads:
        assert load.statuses() == {expected}, (load.host, load.port)


def works_within(host: Host, seconds: float, *command: str) -> float:
    """How long it takes until ``command`` succeeds; until then it may only fail naming etcd, quickly."""
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        done = host.agent.lbctl(*command)
        if done.returncode == 0:
            return time.monotonic() - began
        assert time.monotonic() - asked < 5
        assert done.returncode == 1 and "etcd" in done.stderr, (done.returncode, done.stderr)
        assert time.monotonic() - began < seconds, done.stderr


def fails_naming_etcd(host: Host, *command: str) -> str:
    with within(5):
        done = host.agent.lbctl(*command)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "etcd" in done.stderr
    return done.stderr


def stop(three: ControlPlane, *names: str) -> None:
    for name in names:
        three.etcd[name].process.send_signal(signal.SIGSTOP)


def go_on(three: ControlPlane, *names: str) -> None:
    for name in names:
        three.etcd[name].process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_leader_lost_then_quorum_lost_then_back(three):
    one, two, _ = three.hosts
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        lost = three.leader()
        three.etcd[lost].kill()
        other = next(h for h in three.hosts if h.name != lost)
        took = works_within(other, 10, "drain", "ctl1")
        print(f"a command works {took:.1f} s after the leader was killed")
        assert three.host[lost].agent.lbctl("ready", "ctl1").returncode == 0  # beside the dead member
        second = next(n for n in three.names if n != lost)
        three.etcd[second].kill()
        for host in three.hosts:
            fails_naming_etcd(host, "up", "nova")
        two.agent.ok("drain", "ctl3", "--local", "--reason", "quorum lost")
        assert two.haproxy.server("keystone/ctl3")["srv_admin_state"] == "8"
        assert one.haproxy.server("keystone/ctl3")["srv_admin_state"] == "0"
        eventually(lambda: "alone since" in one.agent.status()["trouble"], "it says that it is alone")
        for name in (lost, second):
            three.etcd[name].start()
        eventually(three.agree, lambda: "all agree" + three.log(), 30)
        eventually(
            lambda: [h.haproxy.server("keystone/ctl3")["srv_admin_state"] for h in three.hosts] == ["8"] * 3,
            lambda: "what was drained alone is drained everywhere" + three.log(),
        )
        assert "reconcile" in two.agent.ok("history")
        one.agent.ok("ready", "ctl3")
    one.agent.ok("up", "nova")
    assert closed(three) == [200] * 3


@pytest.mark.slow
def test_a_member_that_hangs_delays_a_command_and_no_more(three):
    one, two, _ = three.hosts
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        follower = next(n for n in three.names if n != three.leader())
        stop(three, follower)
        took = [works_within(three.host[follower], 5, "drain", "ctl1")]  # its own member hangs
        took += [works_within(h, 5, "ready", "ctl1") for h in three.hosts]
        go_on(three, follower)
        eventually(three.agree, "all agree")
        leader = three.leader()
        stop(three, leader)
        took += [works_within(three.host[leader], 12, "drain", "ctl1"), works_within(two, 5, "ready", "ctl1")]
        go_on(three, leader)
        eventually(three.agree, "all agree")
        print("with a member that hangs, commands took " + ", ".join(f"{t:.1f} s" for t in took))
    assert all(h.agent.node("ctl1")["state"] == "ready" for h in three.hosts)
    one.agent.ok("up", "nova")
    assert closed(three) == [200] * 3


@pytest.mark.slow
def test_while_all_of_etcd_hangs_commands_fail_in_time_and_haproxy_is_looked_after(three):
    one, _, last = three.hosts
    one.agent.ok("drain", "ctl3")
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        stop(three, *three.names)
        fails_naming_etcd(one, "up", "nova")
        for host in three.hosts:
            fails_naming_etcd(host, "ready", "ctl3")
        fails_naming_etcd(one, "forget", "ctl3")
        waiting = [host.agent.begin("up", "nova") for host in three.hosts]
        for _ in range(5):
            with within(1):
                assert "alone since" in one.agent.status()["trouble"]
        last.haproxy.run("set server keystone/ctl3 state ready")
        eventually(lambda: last.haproxy.server("keystone/ctl3")["srv_admin_state"] == "8", "drift is repaired", 2.0)
        for process in waiting:
            _, said = process.communicate(timeout=10)
            assert (process.returncode, "etcd" in said) == (1, True), said
        with within(3):
            one.agent.ok("drain", "ctl1", "--local", "--force")
        go_on(three, *three.names)
        eventually(three.agree, lambda: "all agree" + three.log(), 30)
        assert closed(three) == [503] * 3
        one.agent.ok("ready", "ctl3")
    works_within(one, 10, "up", "nova")


@pytest.mark.slow
def test_a_slow_etcd_makes_commands_slow_and_nothing_else():
    made = ControlPlane()
    proxies = {name: Proxy(2379, address, made.net.host) for name, address in made.net.address.items()}
    for host in made.hosts:  # its own first
        order = sorted(proxies, key=lambda name, host=host: name != host.name)
        urls = [f"http://{made.net.host}:{proxies[name].port}" for name in order]
        host.agent.settings["store"]["etcd"]["endpoints"] = urls
        host.agent.write()
    try:
        one, two, last = made.start().hosts
        one.agent.ok("down", "nova")
        with nobody_flaps(made):
            for proxy in proxies.values():
                proxy.delay = 0.3
            began = time.monotonic()
            took = []
            for _ in range(3):
                took += [works_within(one, 12, "drain", "ctl1"), works_within(two, 12, "ready", "ctl1")]
            print("with answers that take 0.3 s, commands took " + ", ".join(f"{t:.1f} s" for t in took))
            assert max(took) < 12, took
            eventually(lambda: time.monotonic() - began > 15, "longer than a lease", 16)
            for host in made.hosts:
                assert host.agent.log.read_text().count("what is in force stays") <= 1, made.log()  # at the start
        for proxy in proxies.values():
            proxy.delay = 0.0
        last.agent.ok("up", "nova")
        assert closed(made) == [200] * 3
    finally:
        made.close()
        for proxy in proxies.values():
            proxy.close()


@pytest.mark.slow
def test_compacted_and_restarted_under_the_watch(three):
    one, two, last = three.hosts
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        for _ in range(3):
            head = json.loads(three.ctl("endpoint", "status", "-w", "json").splitlines()[0])
            revision = max(row["Status"]["header"]["revision"] for row in head)
            three.ctl("compact", str(revision), "--physical")
            two.agent.ok("drain", "ctl1")
            assert [h.haproxy.server("keystone/ctl1")["srv_admin_state"] for h in three.hosts] == ["8"] * 3
            last.agent.ok("ready", "ctl1")
        for name in three.names:  # rolling
            three.etcd[name].kill()
            three.etcd[name].start()
            eventually(three.etcd_answers, "etcd answers", 30)
            began = time.monotonic()
            works_within(one, 10, "drain", "ctl1")
            assert [h.haproxy.server("keystone/ctl1")["srv_admin_state"] for h in three.hosts] == ["8"] * 3
            works_within(one, 10, "ready", "ctl1")
            print(f"a drain and its end, after {name}'s etcd was restarted: {time.monotonic() - began:.1f} s")
        for name in three.names:  # all at once
            three.etcd[name].kill()
        for name in three.names:
            three.etcd[name].start()
        eventually(lambda: three.etcd_answers() and three.agree(), lambda: "all agree" + three.log(), 30)
        with within(5):
            one.agent.ok("drain", "ctl1")
        one.agent.ok("ready", "ctl1")


def restore(three: ControlPlane, snapshot: Path) -> None:
    """A new cluster out of ``snapshot``, as etcd's manual has it."""
    for member in three.etcd.values():
        member.kill()
    peers = {name: f"http://{address}:2380" for name, address in three.net.address.items()}
    for name in three.names:
        data = three.folder / f"etcd-{name}"
        shutil.rmtree(data)
        three.ctl(
            *("snapshot", "restore", str(snapshot), "--name", name, "--data-dir", str(data)),
            *("--initial-cluster", ",".join(f"{n}={u}" for n, u in peers.items())),
            *("--initial-cluster-token", "restored", "--initial-advertise-peer-urls", peers[name]),
        )
    for member in three.etcd.values():
        member.start()
    eventually(three.etcd_answers, "etcd answers", 30)


@pytest.mark.slow
def test_restored_from_an_older_snapshot_it_opens_nothing(three):
    one, two, last = three.hosts
    snapshot = three.folder / "snapshot"
    one.agent.ok("down", "keystone")
    three.ctl("snapshot", "save", str(snapshot), endpoints=[three.etcd["ctl1"].url])
    one.agent.ok("up", "keystone")
    two.agent.ok("down", "nova")
    last.agent.ok("drain", "ctl3")
    revision = one.agent.status()["revision"]
    with nobody_flaps(three):
        restore(three, snapshot)
        eventually(
            lambda: three.agree() and one.agent.status()["revision"] > revision, lambda: "put back" + three.log(), 30
        )
    assert closed(three) == [503] * 3
    for host in three.hosts:
        assert host.haproxy.server("keystone/ctl3")["srv_admin_state"] == "8"
    one.agent.ok("up", "nova", "keystone")
    two.agent.ok("ready", "ctl3")
    assert (closed(three), closed(three, "keystone")) == ([200] * 3, [200] * 3)
    eventually(lambda: not any(h.agent.status()["trouble"] for h in three.hosts), three.log)


@pytest.mark.slow
def test_an_agent_of_another_history_brings_what_it_has_closed(three):
    """It alone followed a revision that the restored etcd never held; since then there is another of that number."""
    one, two, last = three.hosts
    snapshot = three.folder / "snapshot"
    one.agent.ok("down", "nova")
    three.ctl("snapshot", "save", str(snapshot), endpoints=[three.etcd["ctl1"].url])
    one.agent.kill()
    two.agent.kill()
    assert last.agent.lbctl("down", "keystone").returncode == 7
    knows = last.agent.status()["revision"]
    last.agent.kill()
    restore(three, snapshot)
    one.agent.start(in_sync=False)
    two.agent.start(in_sync=False)
    eventually(lambda: three.agree(["ctl1", "ctl2"]), "those two agree")
    while one.agent.status()["revision"] <= knows:
        assert one.agent.lbctl("drain", "ctl1").returncode in (0, 7)
        assert one.agent.lbctl("read-only", "nova").returncode in (0, 7)
    assert [h.ask("keystone").status for h in (one, two)] == [200, 200]
    assert [h.ask().status for h in (one, two, last)] == [200, 200, 503]  # ctl3's HAProxy has not heard
    last.agent.start(in_sync=False)
    eventually(three.agree, lambda: "all agree" + three.log(), 20)
    assert (closed(three), closed(three, "keystone")) == ([503] * 3, [503] * 3)
    assert "comes from another history" in last.agent.log.read_text()
    one.agent.ok("up", "nova", "keystone")
    one.agent.ok("ready", "ctl1")
    assert (closed(three), closed(three, "keystone")) == ([200] * 3, [200] * 3)


@pytest.mark.slow
def test_a_damaged_intent_opens_nothing_and_deleting_it_mends(three):
    one, two, last = three.hosts
    one.agent.ok("down", "nova")
    with nobody_flaps(three):
        three.ctl("put", "/lbagent/intent", "{nonsense")
        eventually(lambda: "is damaged" in last.agent.status()["trouble"], "it says so")
        said = fails_naming_etcd(two, "up", "nova")
        assert "/lbagent/intent in etcd is damaged" in said
        two.agent.kill()
        two.agent.start(in_sync=False)
        fails_naming_etcd(two, "up", "nova")
        three.ctl("del", "/lbagent/intent")
        eventually(three.agree, lambda: "all agree" + three.log())
    two.agent.ok("up", "nova")
    assert closed(three) == [200] * 3


@pytest.mark.slow
def test_two_agents_that_call_themselves_the_same_are_told(three):
    one, two, _ = three.hosts
    one.agent.ok("down", "nova")
    three.host["ctl3"].agent.stop()
    three.host["ctl3"].agent.settings["node"] = "ctl2"
    three.host["ctl3"].agent.write()
    three.host["ctl3"].agent.start(in_sync=False)
    eventually(
        lambda: "another agent calls itself ctl2" in two.agent.status()["trouble"],
        lambda: two.agent.status()["trouble"],
    )
    assert "another agent" not in one.agent.status()["trouble"]
    three.host["ctl3"].agent.stop()
    eventually(lambda: not two.agent.status()["trouble"], lambda: two.agent.status()["trouble"], 30)
    assert closed(three) == [503] * 3


# ------------------------------------------------------------------------------------------------ clocks


AHEAD = 120  # seconds


@pytest.fixture
def askew() -> Iterator[ControlPlane]:
    """The agent of ctl2 is two minutes ahead."""
    made = ControlPlane()
    two = made.host["ctl2"].agent
    two.prefix = (*two.prefix, "env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", f"+{AHEAD}s")
    try:
        yield made.start()
    finally:
        made.close()


class Slow:
    """A request through ``host`` that lasts; ``node`` works on it."""

    def __init__(self, three: ControlPlane, host: Host) -> None:
        since = time.time()  # an origin goes on with what was cut before
        self._curl = subprocess.Popen(
            [
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                f"http://{host.address}:{PORTS['nova']}/wait/25000",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.node = eventually(
            lambda: next((n for n in three.names if any(e.ended is None for e in three.requests(n, since))), None),
            "it waits",
        )

    @property
    def open(self) -> bool:
        return self._curl.poll() is None

    def end(self) -> None:
        self._curl.kill()
        self._curl.wait()


@pytest.mark.slow
def test_a_clock_that_is_ahead_cuts_nobody_early(askew):
    one, two, last = askew.hosts
    eventually(
        lambda: re.search(r"the clock of ctl2 is 1[12]\d s ahead", one.agent.status()["trouble"]),
        lambda: one.agent.status()["trouble"],
    )
    eventually(lambda: re.search(r"the clock of ctl1 is 1[12]\d s behind", two.agent.status()["trouble"]), "so does it")
    for asked, through in ((one, two), (two, one), (one, last)):
        slow = Slow(askew, through)
        began = time.monotonic()
        draining = asked.agent.begin("drain", slow.node, "--kill", "--deadline", "4s")
        eventually(lambda slow=slow: not slow.open, "it is cut in the end", 12)
        took = time.monotonic() - began
        assert took >= 3, f"asked of {asked.name}, cut on {through.name} after {took:.1f} s"
        _, said = draining.communicate(timeout=20)
        assert draining.returncode == 0, said
        last.agent.ok("ready", slow.node)
    for host in askew.hosts:
        host.agent.ok("down", "nova", "--for", "5m")
        assert closed(askew) == [503] * 3
        host.agent.ok("up", "nova")
        assert closed(askew) == [200] * 3


@pytest.mark.slow
def test_one_that_hears_of_a_drain_late_cuts_nobody_early_for_a_later_askers_clock(askew):
    one, two, last = askew.hosts
    last.agent.kill()
    slow = Slow(askew, last)
    try:
        assert one.agent.lbctl("drain", slow.node, "--kill", "--deadline", "60s", "--detach").returncode in (0, 7)
        two.agent.lbctl("down", "keystone", "--detach")
        last.agent.start(in_sync=False)
        eventually(askew.agree, lambda: "all agree" + askew.log())
        assert slow.open
        deadlines = [h.agent.node(slow.node)["deadline"] for h in (one, last)]
        assert all(50 < d - time.time() <= 60 for d in deadlines), deadlines
    finally:
        slow.end()


@pytest.mark.slow
def test_the_timeout_of_ready_is_by_the_askers_clock(askew):
    one, two, last = askew.hosts
    one.agent.ok("drain", "ctl1")
    askew.origins["ctl1"]["nova"].sick = True
    for asked in (two, one, last):
        began = time.monotonic()
        late = asked.agent.lbctl("ready", "ctl1", "--timeout", "3s")
        took = time.monotonic() - began
        assert late.returncode == 4, late.stderr
        assert 1.9 < took < 10, f"asked of {asked.name}: {took:.1f} s"
        eventually(lambda: all(h.agent.node("ctl1")["state"] == "drained" for h in askew.hosts), "drained as a whole")
    askew.origins["ctl1"]["nova"].sick = False
    two.agent.ok("ready", "ctl1")
    assert [h.agent.node("ctl1")["state"] for h in askew.hosts] == ["ready"] * 3
