"""Where an engine is asked over HTTP, and the bytes of what it is asked.

Decides what an address of an engine is, and every header of a request: nothing of a client is among them.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import quote, unquote, urlsplit

import msgspec

PORTS = {"http": 80, "https": 443}
_SAFE = "/%:@!$&'()*+,;=~-._?"
_END = "\r\n"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL comes to."""

    host: str
    port: int
    tls: bool
    numeric: bool
    """The host is a number of IPv4 or IPv6: nobody needs to be asked for it."""
    authority: str
    """The ``Host`` header."""
    target: str
    """Path and query."""
    credentials: str | None = None
    """The ``Authorization`` header that a name and a password in the URL stand for."""


@lru_cache(maxsize=256)
def address_of(url: str) -> Address:
    """Where a URL leads. Raises ValueError for one that is no address of HTTP."""
    parts = urlsplit(url)
    port = PORTS.get(parts.scheme)
    if port is None or not parts.hostname:
        raise ValueError("no address of HTTP")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    shown = f"[{host}]" if ":" in host else host
    if parts.port not in {None, port}:
        port = parts.port or port
        shown = f"{shown}:{port}"
    target = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    return Address(
        host=host,
        port=port,
        tls=parts.scheme == "https",
        numeric=_numeric(host),
        authority=shown,
        target=target,
        credentials=None if parts.username is None else _basic(parts.username, parts.password or ""),
    )


def request_bytes(
    address: Address,
    body: bytes | None,
    *,
    agent: str,
    api_key: str | None,
    request_id: str | None = None,
    keep: bool = False,
) -> bytes:
    """A request as it goes over the wire: a POST of JSON, or without a body a GET.

    With ``keep`` the engine is asked to leave the connection open; without, it serves for nothing else.

    Raises ValueError for a key or an id that no header can carry, and where the URL has credentials beside the key.
    """
    said = address.credentials if api_key is None else f"Bearer {api_key}"
    authorization = "" if said is None else f"Authorization: {said}\r\n"
    if api_key is not None and (address.credentials is not None or _CONTROL.search(api_key)):
        raise ValueError("a key that cannot be sent")
    if request_id is not None and _CONTROL.search(request_id):
        raise ValueError("an id that cannot be sent")
    known_as = "" if request_id is None else f"X-Request-Id: {request_id}\r\n"
    what = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head = (
        f"{'GET' if body is None else 'POST'} {address.target} HTTP/1.1\r\n"
        f"Host: {address.authority}\r\n"
        f"Accept: */*\r\nAccept-Encoding: identity\r\nUser-Agent: {agent}\r\n"  # compressing would hold tokens back
        f"{what}{authorization}{known_as}{'' if keep else 'Connection: close' + _END}{_END}"
    )
    return head.encode() + (body or b"")


def _basic(name: str, password: str) -> str:
    return "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode("latin-1")).decode()


def _numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host
