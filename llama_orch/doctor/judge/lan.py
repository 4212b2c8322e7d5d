"""What an address that other machines reach means: everything that is sent there can be read on the way without TLS.

Decides what is told of the address and of its certificate. That it needs a token, the check ``token`` says; which files
orchestratord takes, it says itself.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from contracts.base import Message
from contracts.config import is_loopback, split_bind
from llama_orch.doctor.base import Kind, Result, ok

CHECK = "lan"
DAY_S = 86_400
SOON_DAYS = 14

PLAIN = Kind(
    id="lan.plain",
    what="orchestratord serves other machines without TLS",
    why="the token, every prompt and every answer can be read by whoever sees the network's packets",
    mend="set server.tls, or put a reverse proxy with TLS in front (docs/reverse-proxy.md)",
    note=True,
)
UNUSABLE = Kind(
    id="lan.certificate-unusable",
    what="the files of server.tls are missing, do not belong together, or the key is open to others",
    why="orchestratord does not start with them (exit status 78)",
    mend="both are PEM; the key belongs to the certificate, has no passphrase, and mode 0600",
)
EXPIRED = Kind(
    id="lan.certificate-expired",
    what="the certificate of server.tls has expired",
    why="every client refuses it",
    mend="put a new one in its place, then: systemctl --user reload orchestratord",
)
EXPIRES = Kind(
    id="lan.certificate-expires",
    what="the certificate of server.tls expires soon",
    why="from then on every client refuses it",
    mend="put a new one in its place, then: systemctl --user reload orchestratord",
    note=True,
)


class Certificate(Message, frozen=True, kw_only=True):
    """What was seen of server.tls."""

    path: str
    problem: str | None = None
    """Why the files cannot be used."""
    until_s: float | None = None
    """Unix time; None where it could not be read."""


def until(printed: str) -> float | None:
    """When a certificate ends, from ``openssl x509 -enddate``: ``notAfter=Jun  1 12:00:00 2027 GMT``."""
    found = re.search(r"notAfter=(\w+)\s+(\d+) (\d\d:\d\d:\d\d) (\d{4}) GMT", printed)
    if found is None:
        return None
    return datetime.strptime(" ".join(found.groups()), "%b %d %H:%M:%S %Y").replace(tzinfo=UTC).timestamp()


def judge(bind: str, certificate: Certificate | None, now_s: float) -> list[Result]:
    """The address of the HTTP interface, and the certificate that it has, if any."""
    if certificate is not None:
        return _certificate(bind, certificate, now_s)
    host, _ = split_bind(bind) or ("", 0)
    if is_loopback(host):
        return [ok(CHECK, f"{bind}: this machine alone")]
    return [PLAIN.found(f"{bind} serves other machines without TLS")]


def _certificate(bind: str, certificate: Certificate, now_s: float) -> list[Result]:
    if certificate.problem is not None:
        return [UNUSABLE.found(certificate.problem)]
    if certificate.until_s is None:
        return [ok(CHECK, f"{bind}: with TLS")]
    days = (certificate.until_s - now_s) / DAY_S
    if days < 0:
        return [EXPIRED.found(f"{certificate.path} expired {-days:.0f} days ago")]
    if days < SOON_DAYS:
        return [EXPIRES.found(f"{certificate.path} expires in {days:.0f} days")]
    return [ok(CHECK, f"{bind}: with TLS, for {days:.0f} more days")]
