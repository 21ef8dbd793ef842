"""The shared intent in etcd, through its gRPC gateway (API v3): read, compare-and-swap, watch, and reports.

Below the prefix::

    intent          what operators asked for, for every HAProxy
    agents/NODE     what NODE's agent last reported; it stays until `lbctl forget NODE`
    sick/NODE       the servers that NODE's HAProxy finds not ready: part of the transaction that drains
    alive/NODE      there while NODE's agent renews its lease

The watch neither ends nor reports trouble, so it only wakes: a range read every second is the truth. Every read is
linearizable: one that no quorum confirms fails. Only an agent that is alone also looks at what each member of etcd
holds by itself: what has come of the intent that it follows can be followed, though it be old, before a leader is
elected (etcd's manual, "KV API guarantees", linearizability).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from lbagent.cluster.members import Member, View
from lbagent.cluster.revisions import TRAIL
from lbagent.errors import Conflict, StoreError
from lbagent.model.intent import Intent, Stamp
from lbagent.model.names import CONTROL, LONGEST_LINE, NodeName, RefText, problem
from lbagent.settings.etcd import EtcdConfig
from lbagent.store.codec import Damaged, decode, encode
from lbagent.store.etcd.failover import Failover
from lbagent.store.etcd.lease import Lease

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_KEYS = 5000  # below the prefix: three for each agent and one


class _Row(msgspec.Struct):
    key: bytes
    mod_revision: int
    value: bytes = b""  # an empty one is left out


class _Range(msgspec.Struct):
    kvs: tuple[_Row, ...] = ()
    more: bool = False


class _Response(msgspec.Struct):
    response_range: _Range = msgspec.field(default_factory=_Range)


class _Transaction(msgspec.Struct):
    succeeded: bool = False
    responses: tuple[_Response, ...] = ()


class EtcdStore:
    """One agent's access to the shared store. Calls block in threads of its own; one at a time, as its owner asks."""

    def __init__(self, config: EtcdConfig, node: str) -> None:
        self._prefix, self._node = config.prefix, node
        self._failover = Failover(config)
        self._lease = Lease(self._failover, self._key(f"alive/{node}"))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="etcd")
        self._mods: dict[str, int] = {}  # key → its mod_revision at the last look
        self._unreadable: set[str] = set()

    @property
    def rival(self) -> bool:
        """Another agent of this name is at work."""
        return self._lease.rival

    async def look(self) -> View:
        """Everything below the prefix at one moment; StoreError names etcd."""
        return await self._off_loop(self._look)

    async def glance(self) -> list[Intent]:
        """The intents that members of etcd hold, each by itself: committed, perhaps old. It never fails."""
        return await asyncio.to_thread(self._glance)

    async def swap(self, expected: int, intent: Intent, healthy: bool = False) -> Intent:
        """Store ``intent`` as ``expected + 1`` in place of the one of the last look; Conflict when it has changed.

        ``healthy``: also only if no HAProxy finds other servers sick than at the last look.
        """
        new_stamp = Stamp(expected + 1, uuid.uuid4().hex[:8])
        new = replace(intent, revision=expected + 1, trail=(*intent.trail, new_stamp)[-TRAIL:])
        await self._off_loop(self._swap, new, healthy)
        return new

    async def watch(self) -> AsyncIterator[None]:
        """The intent has changed, or may have. It only wakes; it never ends."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        request = {"create_request": {"key": self._key("intent")}}
        arguments = ("/watch", request, lambda: loop.call_soon_threadsafe(woken.set))
        threading.Thread(target=self._failover.listen, args=arguments, daemon=True, name="etcd-watch").start()
        while True:
            await woken.wait()
            woken.clear()
            yield

    async def report(self, member: Member, sick: tuple[str, ...]) -> None:
        await self._off_loop(self._report, member, sick)

    async def renew(self) -> None:
        """A sign of life, when it is time for one."""
        if self._lease.due:
            await self._off_loop(self._lease.renew)

    async def forget(self, node: str) -> None:
        await self._off_loop(self._forget, node)

    def close(self) -> None:
        self._failover.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -------------------------------------------------------------------------------------------- blocking

    def _look(self) -> View:
        # 0 follows / in ASCII
        below = {"key": self._key(""), "range_end": _b64(f"{self._prefix}0"), "limit": MOST_KEYS}
        found = self._failover.ask("/kv/range", below, _Range, race=True)
        if found.more:
            raise StoreError(f"more than {MOST_KEYS} keys lie below {self._prefix} in etcd: who else writes there?")
        rows = found.kvs
        intent, members, sick, alive, unreadable = None, {}, {}, dict[str, bytes](), set()
        mods: dict[str, int] = {}
        for row in rows:
            key = row.key.decode(errors="replace").removeprefix(f"{self._prefix}/")
            mods[key] = row.mod_revision
            kind, _, node = key.partition("/")
            try:
                if key == "intent":
                    intent = decode(row.value, f"{self._prefix}/intent in etcd")
                elif kind == "agents":
                    members[_node(node)] = msgspec.json.decode(row.value, type=Member)
                    if members[node].node != node:
                        raise msgspec.ValidationError(f"it is a report of {members.pop(node).node}")
                elif kind == "sick":
                    sick[_node(node)] = msgspec.json.decode(row.value, type=tuple[RefText, ...])
                elif kind == "alive":
                    alive[_node(node)] = row.value
            except Damaged as damaged:
                raise Damaged(f"{damaged.message}; the agents put it back once it is deleted (etcdctl del)") from None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                unreadable.add(key)
                if key not in self._unreadable:
                    why = problem(error) if isinstance(error, msgspec.ValidationError) else error
                    log.warning("%s/%s in etcd cannot be read: %s", self._prefix, ascii(key[:300])[1:-1], why)
        self._mods, self._unreadable = mods, unreadable
        self._lease.seen(alive.get(self._node))
        return View(intent=intent, members=members, alive=frozenset(alive), sick=sick)

    def _glance(self) -> list[Intent]:
        held = self._failover.each("/kv/range", {"key": self._key("intent"), "serializable": True}, _Range)
        found = []
        for row in (row for answer in held for row in answer.kvs):
            with contextlib.suppress(Damaged):
                found.append(decode(row.value, ""))
        return found

    def _swap(self, new: Intent, healthy: bool) -> None:
        compare = [self._unchanged("intent")]
        if healthy:
            compare.append(self._none_newer("sick/", max(self._mods.values(), default=0)))
        key = self._key("intent")
        txn = {
            "compare": compare,
            "success": [{"request_put": {"key": key, "value": _b64(encode(new))}}],
            "failure": [{"request_range": {"key": key}}],
        }
        try:
            answer = self._failover.ask("/kv/txn", txn, _Transaction)
        except StoreError as error:
            raise StoreError(
                f"{error.message}. Nothing is in force by this command, unless etcd took it without saying so: "
                "see `lbctl status` once it answers, and repeat"
            ) from error
        if answer.succeeded:
            return
        # An endpoint may have taken it and died before it said so. The next one then finds our own work, and perhaps
        # what another agent has built on it since.
        for row in (row for response in answer.responses for row in response.response_range.kvs):
            with contextlib.suppress(Damaged):
                if new.trail[-1] in decode(row.value, "").trail:
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
        report, key = _b64(msgspec.json.encode(_printable(member))), self._key(f"sick/{member.node}")
        puts = [{"request_put": {"key": self._key(f"agents/{member.node}"), "value": report}}]
        wanted = _b64(msgspec.json.encode(sick))
        same = {"key": key, "target": "VALUE", "result": "EQUAL", "value": wanted}
        other = {"request_put": {"key": key, "value": wanted}}
        txn = {"compare": [same], "success": puts, "failure": [*puts, other]}
        self._failover.ask("/kv/txn", txn, _Transaction)

    def _forget(self, node: str) -> None:
        gone = [{"request_delete_range": {"key": self._key(f"{kind}/{node}")}} for kind in ("agents", "sick", "alive")]
        self._failover.ask("/kv/txn", {"compare": [], "success": gone, "failure": []}, _Transaction)

    def _key(self, name: str) -> str:
        return _b64(f"{self._prefix}/{name}")

    async def _off_loop(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _node(text: str) -> str:
    return msgspec.convert(text, NodeName)


def _printable(member: Member) -> Member:
    """Its sentences may hold what HAProxy or the system said: the others take single lines of some length only."""

    def line(text: str) -> str:
        return CONTROL.sub(" ", text)[:LONGEST_LINE]

    opened = {subject: tuple(line(text) for text in lines) for subject, lines in member.open.items()}
    return replace(member, trouble=line(member.trouble), open=opened)


def _b64(text: str | bytes) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()
