"""Which web pages may use the API from a browser.

Decides from what browsers tell of a page: its origin, the host it asked for, and whether it is of another site. A page
that is not named may not do anything where no token is needed: a browser on this machine would otherwise lend it the
exemption of loopback. Never looks at a token.
"""

from __future__ import annotations

from collections.abc import Container

from contracts.config import is_loopback

_OWN = {"none", "same-origin"}
"""What Sec-Fetch-Site says where no other page is behind a request."""


def stranger(origin: str | None, host: str | None, fetch_site: str | None, allowed: Container[str]) -> str | None:
    """Why a request without a token may come from a page that has no business here; None where it cannot."""
    if host is not None and not is_loopback(host_of(host)):
        # A name that somebody else points to this machine makes their page one of the same origin.
        return f"the host {host[:100]!r} is no name of this machine's own"
    if origin is not None:
        return None if origin in allowed else f"web pages of {origin[:100]!r} are not in server.cors_origins"
    if fetch_site is not None and fetch_site not in _OWN:
        return "a web page of another site asks"
    return None


def host_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().removesuffix(".")
