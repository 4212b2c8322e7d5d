"""Decides whether an address may be reached from this machine, by ``policy.outbound``.

A pattern is a glob over host names (``*.example.org``) or a scheme with its colon (``hf:``); a denying pattern beats an
allowing one, and without any the default holds. Loopback addresses are this machine: nothing asks for them here. Never
connects to anything.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from contracts.base import Message
from contracts.config import Outbound, Verdict


class Ruling(Message, frozen=True, kw_only=True):
    """Whether an address may be reached, and the rule that says so."""

    allowed: bool
    host: str
    rule: str


def ruling_on(url: str, outbound: Outbound) -> Ruling:
    """The ruling on a URL; one that names no host is judged by its scheme alone."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
    except ValueError:
        return Ruling(allowed=False, host="", rule="it is no valid address")
    scheme = f"{parts.scheme}:"
    for rules, allowed, name in ((outbound.deny, False, "deny"), (outbound.allow, True, "allow")):
        for pattern in rules:
            if _matches(pattern.lower(), scheme, host):
                return Ruling(allowed=allowed, host=host, rule=f"policy.outbound.{name}: {pattern}")
    allowed = outbound.default is Verdict.ALLOW
    return Ruling(allowed=allowed, host=host, rule=f"policy.outbound.default: {outbound.default}")


def _matches(pattern: str, scheme: str, host: str) -> bool:
    return pattern == scheme if pattern.endswith(":") else bool(host) and fnmatchcase(host, pattern)
