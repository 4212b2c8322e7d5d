"""Who the other end of a connection is, for counting.

Decides whose address counts behind a proxy, and which addresses are one client: an IPv6 host has a whole /64 to choose
from. Never decides what it may do.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from contracts.config import is_loopback

NOBODY = ""
"""A peer without an address."""


def origin_of(peer: str | None, forwarded_for: str | None, *, trust_proxy: bool) -> str:
    """The client's address.

    ``peer`` is the address of the other end of the connection; ``forwarded_for`` all that proxies added, the nearest
    one last. Only a proxy on this machine is believed, and only where the configuration trusts it.
    """
    if peer is None:
        return NOBODY
    if not trust_proxy or forwarded_for is None or not is_loopback(peer):
        return peer
    told = forwarded_for.rpartition(",")[2].strip()
    return told if _parsed(told) is not None else peer


@lru_cache(maxsize=4096)
def client_of(address: str) -> str:
    """The one name of all addresses that are one client."""
    parsed = _parsed(address)
    if parsed is None:
        return address
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback:
        return str(parsed)
    return str(IPv6Network((int(parsed), 64), strict=False))


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    # The same host, whichever of this machine's interfaces it came in by.
    return IPv6Address(int(parsed)) if isinstance(parsed, IPv6Address) else parsed
