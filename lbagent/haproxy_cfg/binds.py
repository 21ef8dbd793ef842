"""On which addresses a frontend listens, as its ``bind`` lines say. Pure.

A wildcard listens on every address of its family, whether this host has it now or not. ``::`` takes IPv4 as well: Linux
does so by itself, and ``v4v6`` asks for it; ``v6only`` forbids it. An IPv4 address written as IPv6 (``::ffff:a.b.c.d``)
is the IPv4 address. Source: HAProxy's configuration manual, sections 5.1 and 11.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

import msgspec

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NO_ADDRESS = ("unix@", "abns@", "abnsz@", "sockpair@", "uxst@", "uxdg@")
"""Places that no IP address leads to."""

FAMILIES = {"ipv4": 4, "ipv6": 6, "quic4": 4, "quic6": 6, "tcp4": 4, "tcp6": 6, "udp4": 4, "udp6": 6, "mptcp4": 4}
FAMILIES |= {"mptcp6": 6}


class Bind(msgspec.Struct, frozen=True):
    """One place to listen on."""

    written: str
    address: str = ""  # normalised; empty for a wildcard, or where it cannot be told
    families: frozenset[int] = frozenset()  # of a wildcard
    known: bool = True  # False: a name, a variable or an inherited descriptor
    tls: bool = False


def read(words: Sequence[str]) -> tuple[Bind, ...]:
    """The places of one ``bind`` line, from the words behind ``bind``; several are divided by commas."""
    return tuple(_read(place.strip(), words[1:]) for place in words[0].split(",") if place.strip()) if words else ()


def _read(place: str, options: Sequence[str]) -> Bind:
    tls = "ssl" in options
    if place.startswith(("/", *NO_ADDRESS)):
        return Bind(place, tls=tls)
    kind, at, rest = place.rpartition("@")
    family = FAMILIES.get(kind.rpartition("+")[2]) if at else None
    if (at and family is None) or "$" in place:
        return Bind(place, known=False, tls=tls)
    host = re.sub(r":[0-9]*(-[0-9]*)?$", "", rest).strip("[]")
    if host in ("", "*"):
        return Bind(place, families=frozenset({family or 4}), tls=tls)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return Bind(place, known=False, tls=tls)
    if not address.is_unspecified:
        return Bind(place, address=str(plain(address)), tls=tls)
    if address.version == 4:
        return Bind(place, families=frozenset({4}), tls=tls)
    return Bind(place, families=frozenset({6}) if "v6only" in options else frozenset({4, 6}), tls=tls)


def plain(address: Address) -> Address:
    """The IPv4 address of one that is written as IPv6."""
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def listens_on(binds: Iterable[Bind], address: str) -> bool | None:
    """Whether one of ``binds`` takes connections to ``address``; None when that cannot be told."""
    wanted = plain(ipaddress.ip_address(address))
    unknown = False
    for bind in binds:
        if bind.address == str(wanted) or wanted.version in bind.families:
            return True
        unknown = unknown or not bind.known
    return None if unknown else False
