"""An agent's sign of life in etcd: a key that is there while its lease is renewed. Calls block."""

from __future__ import annotations

import time
import uuid
from base64 import b64encode

import msgspec

from lbagent.store.etcd.failover import Failover

TTL = 5  # seconds without a sign of life until an agent counts as away
RENEW = 1.5  # seconds between two signs of life
RIVALRY = 15.0  # seconds for which another agent of this name is remembered


class _Left(msgspec.Struct):
    ttl: int = msgspec.field(default=0, name="TTL")


class _Kept(msgspec.Struct):
    result: _Left = msgspec.field(default_factory=_Left)


class _Granted(msgspec.Struct):
    id: int = msgspec.field(name="ID")


class _Put(msgspec.Struct):
    pass


class Lease:
    """``key`` is the sign's, base64. Whoever looks at the store says by :meth:`seen` what stands there."""

    def __init__(self, failover: Failover, key: str) -> None:
        self._failover, self._key = failover, key
        self._lease: int | None = None
        self._there = False  # the sign, at the last look
        self._renewed = 0.0  # by the monotonic clock
        self._instance = uuid.uuid4().hex[:8].encode()
        self._rivals: list[float] = []  # when somebody else was seen to be this node, by the monotonic clock

    @property
    def rival(self) -> bool:
        """Another agent of this name is at work. Seen once, it may have been this one before a restart."""
        return sum(time.monotonic() - seen < RIVALRY for seen in self._rivals) > 1

    @property
    def due(self) -> bool:
        return time.monotonic() - self._renewed >= RENEW

    def seen(self, value: bytes | None) -> None:
        """What the sign said at a look; None where there was none."""
        self._there = value is not None
        if value is None:
            self._renewed = -RENEW
        elif self._lease is not None and value != self._instance:
            self._rivals = [*self._rivals[-1:], time.monotonic()]
            self._lease = None

    def renew(self) -> None:
        """StoreError when etcd cannot be used."""
        began = time.monotonic()
        if self._lease is not None:
            kept = self._failover.ask("/lease/keepalive", {"ID": self._lease}, _Kept)
            if kept.result.ttl <= 0:
                self._lease = None
        if self._lease is None or not self._there:
            self._lease = self._failover.ask("/lease/grant", {"TTL": TTL, "ID": 0}, _Granted).id
            sign = {"key": self._key, "value": b64encode(self._instance).decode(), "lease": self._lease}
            self._failover.ask("/kv/txn", {"compare": [], "success": [{"request_put": sign}], "failure": []}, _Put)
        self._renewed = began
