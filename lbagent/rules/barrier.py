"""The barrier: ``down`` and ``read-only`` wait until no worker holds a request from before the switch. Pure.

Why it cannot end early. The guard's rules run when a request's headers are complete, which is the moment at which
HAProxy shows it as a stream with a backend. Every worker that lives holds the new map before the streams are
listed. So a request that is not in that list either ends before it (then it holds nothing), or has its headers
complete only after it (then it meets the new map). The list is therefore a superset of the requests that the new
mode would have refused; each is known by its worker's pid and the unique id and start of its stream, which are
never given again, so requests that come later cannot keep it waiting, on a kept-alive connection either.

What it cannot know (README, "What quiesced cannot mean"): work that HAProxy has given up on (``timeout server``),
or that a service has passed on to a queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lbagent.model.addresses import plain
from lbagent.model.intent import Mode
from lbagent.model.observed import Stream

READS = {0, 1, 2}  # OPTIONS, GET, HEAD: HAProxy's enum http_meth_t

Key = tuple[int, str, int]


def of_keys(streams: Iterable[Stream], keys: Iterable[str]) -> dict[Key, Stream]:
    """Of ``streams``, those that a mode with these ``keys`` is about."""
    wanted = [_split(key) for key in keys]
    return {
        (stream.pid, stream.id, stream.method): stream
        for stream in streams
        if any(
            stream.backend == backend
            and (not frontend or stream.frontend == frontend)
            and (not address or not stream.address or plain(stream.address) == plain(address))
            for frontend, address, backend in wanted
        )
    }


def still(before: Mapping[Key, Stream], streams: Iterable[Stream]) -> dict[Key, Stream]:
    """Those of ``before`` that are in ``streams`` yet, as they are there."""
    now = {(stream.pid, stream.id, stream.method): stream for stream in streams}
    return {key: now[key] for key in before if key in now}


def refused(held: Mapping[Key, Stream], mode: Mode) -> dict[Key, Stream]:
    """Of ``held``, those that ``mode`` would refuse. A websocket may write, though it began as a GET."""
    return {
        key: stream
        for key, stream in held.items()
        if mode is Mode.DOWN or stream.method not in READS or stream.upgraded
    }


def _split(key: str) -> tuple[str, str, str]:
    place, _, backend = key.rpartition("/")
    frontend, _, address = place.partition("@")
    return frontend, address, backend
