"""Who may talk to the API.

Decides from the Authorization header and the peer's address, timing-safe. Never logs a token: its six-digit fingerprint
is what logs carry.
"""

from __future__ import annotations

import hashlib
import hmac

from contracts.config import is_loopback
from contracts.errors import ErrorCode
from daemon_core.redaction import fingerprint
from orchestratord.admission import Refusal

LOCALHOST = "localhost"
"""The identity of a peer that needs no token."""
HINT = "send 'Authorization: Bearer <token>'; llama-orch token says where the token is"


class Authenticator:
    """The one token, and the one exemption from it."""

    def __init__(self, token: str | None, *, optional: bool, trust_proxy: bool) -> None:
        self._digest = None if token is None else _digest(token)
        self._identity = None if token is None else f"token:{fingerprint(token)}"
        self._optional = optional
        self.trust_proxy = trust_proxy
        """Whether a proxy on this machine is believed."""

    def check(self, authorization: str | None, peer: str | None, forwarded_for: str | None) -> str | Refusal:
        """The caller's identity, or why it has none.

        ``peer`` is the address of the other end of the connection; ``forwarded_for`` all that proxies added, the
        nearest one last. With a token at hand it counts even where none is needed, so that a wrong one is always told.
        """
        if authorization is not None:
            scheme, _, given = authorization.partition(" ")
            known = scheme.lower() == "bearer" and self._digest is not None
            if known and hmac.compare_digest(_digest(given.strip()), self._digest or b""):
                return self._identity or LOCALHOST
            return Refusal(code=ErrorCode.BAD_TOKEN, message="the token is wrong", hint=HINT)
        if self._optional and self._is_local(peer, forwarded_for):
            return LOCALHOST
        return Refusal(code=ErrorCode.MISSING_TOKEN, message="a token is needed", hint=HINT)

    def _is_local(self, peer: str | None, forwarded_for: str | None) -> bool:
        """Behind a proxy every peer is loopback: its header decides where it may be trusted, and forbids elsewhere.

        A peer that is not loopback is no proxy of this machine, and its header is only what it says of itself.
        """
        if peer is None or not is_loopback(peer):
            return False
        if forwarded_for is None:
            return True
        origin = forwarded_for.rpartition(",")[2].strip()
        return self.trust_proxy and is_loopback(origin)


def mark_of(authorization: str) -> bytes:
    """What tells one wrong header from another, and nothing of it."""
    return _digest(authorization)[:8]


def _digest(token: str) -> bytes:
    """Equal length whatever the token, so that a comparison tells nothing about it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
