"""The ways in which HAProxy may write one IP address."""

from __future__ import annotations

import ipaddress


def plain(address: str) -> str:
    """One spelling of each address: an IPv4 address that is written as IPv6 becomes IPv4. No address stays as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def spellings(address: str) -> tuple[str, ...]:
    """Every way in which HAProxy may write ``address``: an IPv4 client of an IPv6 bind has the mapped form."""
    one = plain(address)
    if "." not in one:
        return (one,)
    return one, f"::ffff:{one}", str(ipaddress.IPv6Address(f"::ffff:{one}"))
