"""What an address that other machines reach means: everything that is sent there can be read on the way without TLS.

Decides what is told of the address and of its certificate. That it needs a token, the check ``token`` says; what is
wrong with a certificate, ``daemon_core.certificate`` decides, for orchestratord as well.
"""

from __future__ import annotations

from typing import assert_never

from contracts.base import Message
from contracts.config import is_loopback, split_bind
from daemon_core.certificate import RENEW, Standing, Validity
from daemon_core.errors import StartupError
from llama_orch.doctor.base import Kind, Result, ok, skipped

CHECK = "lan"

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
    mend=RENEW,
)
REFUSED = Kind(
    id="lan.certificate-refused",
    what="the certificate of server.tls is not valid yet, or weaker than clients take",
    why="every client refuses it",
    mend=RENEW,
)
EXPIRES = Kind(
    id="lan.certificate-expires",
    what="the certificate of server.tls expires soon",
    why="from then on every client refuses it",
    mend=RENEW,
    note=True,
)


class Certificate(Message, frozen=True, kw_only=True):
    """A certificate that orchestratord takes, and how long clients do."""

    path: str
    validity: Validity


def judge(bind: str, certificate: Certificate | StartupError | None) -> list[Result]:
    """The address of the HTTP interface, and its certificate, if any, or why orchestratord does not take it."""
    match certificate:
        case StartupError():
            return [UNUSABLE.found(certificate.message, certificate.hint)]
        case Certificate():
            return [_certificate(bind, certificate.path, certificate.validity)]
        case None:
            pass
        case _:
            assert_never(certificate)
    host, _ = split_bind(bind) or ("", 0)
    if is_loopback(host):
        return [ok(CHECK, f"{bind}: this machine alone")]
    return [PLAIN.found(f"{bind} serves other machines without TLS")]


def _certificate(bind: str, path: str, validity: Validity) -> Result:
    text = f"{path} {validity.words}"
    match validity.standing:
        case Standing.GOOD:
            return ok(CHECK, f"{bind}: with TLS, for {validity.days} more days")
        case Standing.SOON:
            return EXPIRES.found(text)
        case Standing.EXPIRED:
            return EXPIRED.found(text)
        case Standing.REFUSED:
            return REFUSED.found(text)
        case Standing.UNKNOWN:
            return skipped(CHECK, f"{bind}: with TLS; {text}")
        case _:
            assert_never(validity.standing)
