"""The shared intent in etcd, through etcd3gw (etcd's gRPC gateway, API v3): read, compare-and-swap, watch, and reports.

Below the prefix::

    intent          what operators asked for, for every HAProxy
    agents/NODE     what NODE's agent last reported; it stays until `lbctl forget NODE`
    sick/NODE       the servers that NODE's HAProxy finds not ready: part of the transaction that drains
    alive/NODE      there while NODE's agent renews its lease

etcd3gw speaks to one host and does not log in: here is one client per endpoint, tried in turn, and a token in its
session (etcd's manual, "Role-based access control"). Its watch neither ends nor reports trouble, so it only wakes: a
range read every second is the truth. Every read is linearizable: one that no quorum confirms fails. Only an agent
that is alone also glances at what each member holds by itself: what has come of the intent that it follows can be
followed, though it be old, before a leader is elected (etcd's manual, "KV API guarantees", linearizability).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import msgspec
import requests
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import ConnectionTimeoutError, Etcd3Exception
from msgspec.structs import replace

from lbagent.cluster.cluster import TRAIL, Member, View
from lbagent.errors import Conflict, StoreError
from lbagent.model.intent import Shared, Stamp
from lbagent.settings.config import EtcdConfig
from lbagent.store.file import Damaged, decode, encode

log = logging.getLogger(__name__)
T = TypeVar("T")

TTL = 5  # seconds without a sign of life until an agent counts as away
RENEW = 1.5  # seconds between two signs of life
CONNECT, ANSWER = 1.0, 2.0  # seconds that an endpoint is given
AGAIN = 0.2  # seconds until one that failed is asked again, while another may still answer
LONGEST = 3.0  # seconds for all of them one after the other
GLANCE = 0.5  # seconds that an endpoint is given for what it holds by itself
LISTEN = 10.0  # seconds of silence after which a watch is begun again: that of a member that hangs says nothing
RIVALRY = 15.0  # seconds for which another agent of this name is remembered
LOGIN_AGAIN = ("auth token", "user name is empty", "revision of auth store is old")


class EtcdStore:
    """One agent's access to the shared store. Calls block in threads of its own; one at a time, as its owner asks."""

    def __init__(self, config: EtcdConfig, node: str) -> None:
        self._config, self._node = config, node
        self._clients = [_Endpoint(config, index) for index in range(len(config.endpoints))]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="etcd")
        self._glances = [_Endpoint(config, index, self._clients[index]) for index in range(len(config.endpoints))]
        self._glancers = ThreadPoolExecutor(max_workers=2 * len(self._clients), thread_name_prefix="etcd-glance")
        self._racers = ThreadPoolExecutor(max_workers=2 * len(self._clients), thread_name_prefix="etcd-race")
        self._healthy = True
        self._mods: dict[str, int] = {}  # key → its mod_revision at the last look
        self._lease: int | None = None
        self._renewed = 0.0  # by the monotonic clock
        self._instance = uuid.uuid4().hex[:8]
        self._rivals: list[float] = []  # when somebody else was seen to be this node, by the monotonic clock
        self._unreadable: set[str] = set()
        self.requests = 0
        self._closed = False

    @property
    def rival(self) -> bool:
        """Another agent of this name is at work. Seen once, it may have been this one before a restart."""
        return sum(time.monotonic() - seen < RIVALRY for seen in self._rivals) > 1

    # ---------------------------------------------------------------------------------------------- store

    async def read(self) -> Shared | None:
        return (await self.look()).intent

    async def look(self) -> View:
        """Everything below the prefix at one moment; StoreError names etcd."""
        return await self._off_loop(self._look)

    async def glance(self) -> list[Shared]:
        """The intents that members of etcd hold, each by itself: committed, perhaps old. It never fails."""
        return await asyncio.get_running_loop().run_in_executor(self._glancers, self._glance)

    async def swap(self, expected: int, intent: Shared, healthy: bool = False) -> Shared:
        """Store ``intent`` as ``expected + 1`` in place of the one of the last look; Conflict when it has changed.

        ``healthy``: also only if no HAProxy finds other servers sick than at the last look.
        """
        new_stamp = Stamp(expected + 1, uuid.uuid4().hex[:8])
        new = replace(intent, revision=expected + 1, trail=(*intent.trail, new_stamp)[-TRAIL:])
        await self._off_loop(self._swap, new, healthy)
        return new

    async def watch(self) -> AsyncIterator[int]:
        """Something below ``intent`` has changed, or may have. It only wakes; it never ends."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        threading.Thread(target=self._listen, args=(loop, woken.set), daemon=True, name="etcd-watch").start()
        while True:
            await woken.wait()
            woken.clear()
            yield 0

    # -------------------------------------------------------------------------------------------- reports

    async def report(self, member: Member, sick: tuple[str, ...]) -> None:
        await self._off_loop(self._report, member, sick)

    async def renew(self) -> None:
        """A sign of life, when it is time for one."""
        if time.monotonic() - self._renewed >= RENEW:
            await self._off_loop(self._renew)

    async def forget(self, node: str) -> None:
        await self._off_loop(self._forget, node)

    def close(self) -> None:
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._racers.shutdown(wait=False, cancel_futures=True)
        self._glancers.shutdown(wait=False, cancel_futures=True)

    # -------------------------------------------------------------------------------------------- blocking

    def _look(self) -> View:
        below = {"key": self._key(""), "range_end": _b64(f"{self._config.prefix}0")}  # 0 follows / in ASCII
        rows = self._ask(lambda c: c.post(c.get_url("/kv/range"), json=below), race=True).get("kvs", ())
        intent, members, sick, alive, unreadable = None, {}, {}, set(), set()
        mods: dict[str, int] = {}
        for row in rows:
            key = b64decode(row["key"]).decode(errors="replace").removeprefix(f"{self._config.prefix}/")
            value = b64decode(row.get("value", ""))  # an empty one is left out
            mods[key] = int(row["mod_revision"])
            kind, _, node = key.partition("/")
            try:
                if key == "intent":
                    intent = decode(value, f"{self._config.prefix}/intent in etcd", Shared)
                elif kind == "agents":
                    members[node] = msgspec.json.decode(value, type=Member)
                elif kind == "sick":
                    sick[node] = msgspec.json.decode(value, type=tuple[str, ...])
                elif kind == "alive":
                    alive.add(node)
                    if node == self._node and self._lease is not None and value != self._instance.encode():
                        self._rivals = [*self._rivals[-1:], time.monotonic()]
                        self._lease = None
            except Damaged as damaged:
                raise Damaged(f"{damaged.message}; the agents put it back once it is deleted (etcdctl del)") from None
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                unreadable.add(key)
                if key not in self._unreadable:
                    log.warning("%s/%s in etcd cannot be read: %s", self._config.prefix, key, error)
        self._mods, self._unreadable = mods, unreadable
        if self._node not in alive:
            self._renewed = -RENEW
        return View(intent=intent, members=members, alive=frozenset(alive), sick=sick)

    def _glance(self) -> list[Shared]:
        what = {"key": self._key("intent"), "serializable": True}
        asked = [
            self._glancers.submit(e.ask, lambda c: c.post(c.get_url("/kv/range"), json=what), GLANCE, GLANCE)
            for e in self._glances
        ]
        found = []
        for future in wait(asked, timeout=2 * GLANCE).done:
            with contextlib.suppress(_Trouble, Damaged, KeyError, ValueError):
                found += [decode(b64decode(row["value"]), "", Shared) for row in future.result().get("kvs", ())]
        return found

    def _swap(self, new: Shared, healthy: bool) -> None:
        text = encode(new)
        compare = [self._unchanged("intent")]
        if healthy:
            compare.append(self._none_newer("sick/", max(self._mods.values(), default=0)))
        key = self._key("intent")
        txn = {
            "compare": compare,
            "success": [{"request_put": {"key": key, "value": _b64(text)}}],
            "failure": [{"request_range": {"key": key}}],
        }
        try:
            answer = self._ask(lambda client: client.transaction(txn))
        except StoreError as error:
            raise StoreError(
                f"{error.message}. Nothing is in force by this command, unless etcd took it without saying so: "
                "see `lbctl status` once it answers, and repeat"
            ) from error
        if answer.get("succeeded"):
            return
        # An endpoint may have taken it and died before it said so. The next one then finds our own work, and perhaps
        # what another agent has built on it since.
        for row in answer["responses"][0].get("response_range", {}).get("kvs", ()):
            with contextlib.suppress(Damaged):
                if new.trail[-1] in decode(b64decode(row.get("value", "")), "", Shared).trail:
                    return
        raise Conflict(f"the shared intent has changed since revision {new.revision - 1}, or a server's health has")

    def _unchanged(self, key: str) -> dict[str, Any]:
        return {
            "key": self._key(key),
            "target": "MOD",
            "result": "EQUAL",
            "mod_revision": self._mods.get(key, 0),
        }

    def _none_newer(self, kind: str, mod: int) -> dict[str, Any]:
        """One comparison for all keys below ``kind``, new ones too: etcd takes 128 a transaction."""
        return {
            "key": self._key(kind),
            "range_end": self._key(f"{kind[:-1]}{chr(ord(kind[-1]) + 1)}"),
            "target": "MOD",
            "result": "LESS",
            "mod_revision": mod + 1,
        }

    def _report(self, member: Member, sick: tuple[str, ...]) -> None:
        puts = [{"request_put": {"key": self._key(f"agents/{member.node}"), "value": _b64(_json(member))}}]
        wanted = _b64(_json(sick))
        same = {"key": self._key(f"sick/{member.node}"), "target": "VALUE", "result": "EQUAL", "value": wanted}
        other = {"request_put": {"key": self._key(f"sick/{member.node}"), "value": wanted}}
        self._ask(lambda c: c.transaction({"compare": [same], "success": puts, "failure": [*puts, other]}))

    def _renew(self) -> None:
        began = time.monotonic()
        if self._lease is not None:
            answer = self._ask(lambda c: c.post(c.get_url("/lease/keepalive"), json={"ID": self._lease}))
            if int(answer.get("result", {}).get("TTL", 0)) <= 0:
                self._lease = None
        if self._lease is None or f"alive/{self._node}" not in self._mods:
            self._lease = int(self._ask(lambda c: c.post(c.get_url("/lease/grant"), json={"TTL": TTL, "ID": 0}))["ID"])
            sign = {"key": self._key(f"alive/{self._node}"), "value": _b64(self._instance), "lease": self._lease}
            self._ask(lambda c: c.transaction({"compare": [], "success": [{"request_put": sign}], "failure": []}))
        self._renewed = began

    def _forget(self, node: str) -> None:
        gone = [{"request_delete_range": {"key": self._key(f"{kind}/{node}")}} for kind in ("agents", "sick", "alive")]
        self._ask(lambda c: c.transaction({"compare": [], "success": gone, "failure": []}))

    def _key(self, name: str) -> str:
        return _b64(f"{self._config.prefix}/{name}")

    # ------------------------------------------------------------------------------------------- failover

    def _ask(self, ask: Callable[[Etcd3Client], T], race: bool = False) -> T:
        """The first endpoint's answer. ``race``: once one has failed, all are asked together."""
        self.requests += 1
        failed: dict[str, str] = {}
        if race and not self._healthy:
            return self._race(ask, failed)
        until = time.monotonic() + LONGEST
        for endpoint in (*self._clients, self._clients[0]):  # the first once more: its answer may have been lost
            patience = min(ANSWER / 2 if race else ANSWER, until - time.monotonic())
            if patience <= 0.1:
                failed.setdefault(str(endpoint), "not asked")
                continue
            try:
                answer = endpoint.ask(ask, patience)
            except _Trouble as trouble:
                failed[str(endpoint)] = str(trouble)
                self._healthy = False
                if race:
                    return self._race(ask, failed)
            else:
                self._prefer(endpoint)
                return answer
        raise _no_answer(failed)

    def _race(self, ask: Callable[[Etcd3Client], T], failed: dict[str, str]) -> T:
        """While one may still answer, those that failed are asked again: one that is back is found at once."""
        failed.clear()
        over = Event()
        until = time.monotonic() + ANSWER
        asked: dict[Future[T], _Endpoint] = {
            self._racers.submit(self._insist, e, ask, until, failed, over): e for e in self._clients
        }
        left = set(asked)
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for future in done:
                with contextlib.suppress(_Trouble):
                    answer = future.result()
                    over.set()
                    self._prefer(asked[future])
                    return answer
        raise _no_answer(failed)

    def _insist(
        self, endpoint: _Endpoint, ask: Callable[[Etcd3Client], T], until: float, failed: dict[str, str], over: Event
    ) -> T:
        connect = CONNECT / 2
        while True:
            try:
                return endpoint.ask(ask, until - time.monotonic(), connect)
            except _Trouble as trouble:
                failed[str(endpoint)] = str(trouble)
                hopeless = len(failed) == len(self._clients) or time.monotonic() + 2 * AGAIN > until
                if hopeless or over.wait(AGAIN):
                    raise
                connect = CONNECT

    def _prefer(self, endpoint: _Endpoint) -> None:
        self._healthy = True
        if self._clients[0] is not endpoint:
            self._clients = [endpoint, *(e for e in self._clients if e is not endpoint)]

    def _listen(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], object]) -> None:
        """In a thread of its own: a line of the watch's stream, its end, or trouble."""
        request = {"create_request": {"key": self._key("intent")}}
        while not self._closed:
            first = self._clients[0]
            with contextlib.suppress(_Trouble, OSError, requests.RequestException, RuntimeError):
                for _ in first.stream("/watch", request):
                    loop.call_soon_threadsafe(wake)
                    if self._clients[0] is not first:
                        break  # it was in trouble since
            time.sleep(0.5)

    async def _off_loop(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class _Trouble(Exception):
    """An endpoint did not do what it was asked."""


class _Endpoint:
    """A client of one etcd member, logged in where that is asked for."""

    def __init__(self, config: EtcdConfig, index: int, same: _Endpoint | None = None) -> None:
        """``same``: one that has logged in, or will, for this one too."""
        self._config, self._endpoint = config, config.endpoints[index]
        self._lock = threading.Lock()
        self._client = self._new()
        self._streaming = self._new()
        if same is not None:
            self._client.session.headers = same._client.session.headers

    def __str__(self) -> str:
        return str(self._endpoint)

    def _new(self) -> Etcd3Client:
        session = requests.Session()
        session.trust_env = False  # a proxy for the world is none for the control plane
        if self._config.ca:
            session.verify = self._config.ca
        if self._config.cert and self._config.key:
            session.cert = (self._config.cert, self._config.key)
        endpoint = self._endpoint
        return Etcd3Client(endpoint.host, endpoint.port, endpoint.protocol, timeout=ANSWER, session=session)

    def ask(self, ask: Callable[[Etcd3Client], T], patience: float = ANSWER, connect: float = CONNECT) -> T:
        if not self._lock.acquire(timeout=patience):  # a session serves one at a time, and this one hangs
            raise _Trouble(SILENT)
        try:
            self._client.timeout = (min(connect, patience), patience)  # type: ignore[assignment]  # requests takes both
            return self._trying(self._client, lambda: ask(self._client))
        finally:
            self._lock.release()

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[bytes]:
        """The lines of an answer that has no end; _Trouble where etcd says in one of them that it will not go on."""
        client = self._streaming

        def begin() -> requests.Response:
            answer = client.session.post(client.get_url(path), json=body, stream=True, timeout=(CONNECT, LISTEN))
            if answer.status_code != requests.codes["ok"]:
                raise Etcd3Exception(answer.text, answer.reason)
            return answer

        with self._trying(client, begin) as answer:
            for line in answer.iter_lines():
                # A token that has ended does not fail the call: the watch is there, silent and cancelled.
                if b'"canceled":true' in line or b'"error"' in line:
                    client.session.headers.pop("Authorization", None)
                    raise _Trouble(line.decode(errors="replace"))
                yield line

    def _trying(self, client: Etcd3Client, ask: Callable[[], T]) -> T:
        try:
            if self._config.user and "Authorization" not in client.session.headers:
                self._log_in(client)
            try:
                return ask()
            except Etcd3Exception as error:
                if not self._config.user or not any(why in (error.detail_text or "") for why in LOGIN_AGAIN):
                    raise
                self._log_in(client)  # tokens end: five minutes unused, or with the member that gave it
                return ask()
        except ConnectionTimeoutError:
            raise _Trouble(SILENT) from None
        except (Etcd3Exception, requests.RequestException, ValueError, KeyError, OSError) as error:
            raise _Trouble(_reason(error)) from None

    def _log_in(self, client: Etcd3Client) -> None:
        password = self._config.password
        if password is None and self._config.password_file:
            try:
                password = Path(self._config.password_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise _Trouble(f"store.etcd.password_file cannot be read: {error}") from None
        client.session.headers.pop("Authorization", None)
        try:
            answer = client.post(
                client.get_url("/auth/authenticate"), json={"name": self._config.user, "password": password}
            )
        except Etcd3Exception as error:
            if "authentication is not enabled" in (error.detail_text or ""):
                return  # users are configured before they are asked for, and after
            raise
        client.session.headers["Authorization"] = answer["token"]


SILENT = "it does not answer in time"
CUT = "it cut the connection: does it ask for https:// (store.etcd.endpoints), or for store.etcd.cert and key?"
PLAIN = "it does not speak TLS: store.etcd.endpoints has https:// where http:// is served"
REASONS = (
    ("refused", "connection refused"),
    ("timed out", SILENT),
    ("unreachable", "network unreachable"),
    ("No route", "no route to host"),
    ("Name or service not known", "its name cannot be resolved"),
    ("name resolution", "its name cannot be resolved"),
    ("certificate has expired", "its certificate has expired"),
    ("certificate is not yet valid", "its certificate is not valid yet: do the clocks agree?"),
    ("mismatch, certificate is not valid", "its certificate is not for this name: see store.etcd.endpoints"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not signed by store.etcd.ca"),
    ("WRONG_VERSION_NUMBER", PLAIN),
    ("SSLZeroReturnError", PLAIN),
    ("KEY_VALUES_MISMATCH", "store.etcd.key is not the key of store.etcd.cert"),
    ("TLS CA certificate bundle", "store.etcd.ca: no such file"),
    ("TLS certificate file", "store.etcd.cert: no such file"),
    ("TLS key file", "store.etcd.key: no such file"),
    ("NO_CERTIFICATE_OR_CRL_FOUND", "store.etcd.ca holds no certificate"),
    ("alert", "it refuses this agent's certificate: store.etcd.cert and key, signed by a CA that etcd trusts"),
    ("SSLEOFError", "it ended the TLS handshake: does it ask for store.etcd.cert and key, signed by a CA it trusts?"),
    ("reset by peer", CUT),
    ("RemoteDisconnected", CUT),
    ("invalid user ID or password", "it does not know store.etcd.user with this password"),
    ("user name is empty", "it asks who this is: store.etcd.user and password_file"),
    ("permission denied", "store.etcd.user may not read and write below store.etcd.prefix: grant it a role"),
)


def _no_answer(failed: Mapping[str, str]) -> StoreError:
    """Of several endpoints with the same trouble it is said once."""
    by_reason: dict[str, list[str]] = {}
    for url, why in failed.items():
        by_reason.setdefault(why, []).append(url)
    return StoreError("etcd cannot be used: " + "; ".join(f"{', '.join(u)}: {why}" for why, u in by_reason.items()))


def _reason(error: Exception) -> str:
    """What is wrong, and with which key of the configuration; else the words of etcd, of TLS or of the system."""
    text = (error.detail_text if isinstance(error, Etcd3Exception) else None) or str(error)
    text = next((words for mark, words in REASONS if mark in text), text).strip()
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(text)
        text = str(answer.get("message") or answer.get("error") or text)
    return text.removeprefix("etcdserver: ")[:200] or type(error).__name__


def _b64(text: str | bytes) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
