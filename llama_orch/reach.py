"""Reaching a daemon, also on another machine: whose certificate is believed, and what to do where no answer comes.

Decides the words and the mend of each failure. Nothing is retried and nothing is trusted because it failed: there is no
way to go on with a certificate that does not prove itself.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from yarl import URL

from contracts.config import is_loopback
from daemon_core.errors import EXIT_CONFIG, StartupError
from daemon_core.paths import user_units
from llama_orch.environment import CA_VARIABLE
from llama_orch.errors import UNREACHABLE, ApiError

INIT_HINT = "llama-orch init writes a configuration; then llama-orch up starts both daemons"
UP_HINT = "llama-orch up starts both daemons"
TARGET = "llama-orch.target"
START_HINT = f"{UP_HINT}, or: systemctl --user start {TARGET}"
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
"""What OpenSSL calls an answer that is no TLS."""
_EXPIRED, _NOT_YET, _NAMES = 10, 9, {62, 64}
"""Numbers of OpenSSL: not valid any more, not yet, and valid for other names or addresses."""


def trusting(authorities: Path | None) -> ssl.SSLContext | None:
    """What believes these authorities beside those of the system; None without a file.

    Raises StartupError where the file cannot be used.
    """
    if authorities is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(authorities)
    except OSError as error:  # ssl.SSLError among them
        why = "no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        text = f"cannot use the certificates of {authorities}: {why}"
        hint = f"{CA_VARIABLE} and --ca-file name a PEM file with the certificate of the authority"
        raise StartupError(text, hint, EXIT_CONFIG) from error
    return context


def trusting_own(certificate: Path) -> ssl.SSLContext:
    """What believes this very certificate, whatever name it is for: the daemon of this machine has its key.

    Raises StartupError where the file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except OSError as error:
        text = f"server.tls.cert_file: cannot use {certificate}"
        raise StartupError(text, "it holds the certificate of orchestratord in PEM", EXIT_CONFIG) from error
    return context


def start_hint(*, configured: bool, environ: Mapping[str, str]) -> str:
    """What starts the daemons of this machine, as it is: configured or not, with units or without."""
    if not configured:
        return INIT_HINT
    return START_HINT if os.path.lexists(user_units(environ) / TARGET) else UP_HINT


def nobody_listens(error: ApiError) -> bool:
    """Whether the connection was refused, and not given up, broken off or mistrusted."""
    cause = error.__cause__
    return isinstance(cause, aiohttp.ClientConnectorError) and isinstance(cause.os_error, ConnectionRefusedError)


def unreachable(base_url: str, error: BaseException, start: str = START_HINT) -> ApiError:
    """No answer came: why, and what to do; ``start`` is what starts the daemons of this machine."""
    url = URL(base_url)
    return (
        _untrusted(base_url, url.host or "", error)
        or _wrong_scheme(base_url, url, error)
        or ApiError(
            UNREACHABLE, f"no answer from {base_url}: {cause_of(error)}", hint=_mend(url, error, start), retriable=True
        )
    )


def broken_off(base_url: str, error: BaseException, start: str = START_HINT) -> ApiError:
    """An answer began, and did not end: why, and what to do."""
    text = f"the answer of {base_url} broke off: {cause_of(error)}"
    return ApiError(UNREACHABLE, text, hint=_mend(URL(base_url), error, start), retriable=True)


def cause_of(error: BaseException) -> str:
    """An exception in words; some of aiohttp's have none of their own, and some too many."""
    number = getattr(error, "errno", None)
    if isinstance(error, TimeoutError):
        return "nothing came in time"
    if isinstance(error, (socket.gaierror, aiohttp.ClientConnectorDNSError)):
        return "there is no such host"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was closed before its end"
    if isinstance(error, aiohttp.ClientResponseError):  # what it could not parse, in words that nobody can use
        return "what answers there does not speak HTTP"
    return (os.strerror(number) if number else str(error)) or type(error).__name__


def _untrusted(base_url: str, host: str, error: BaseException) -> ApiError | None:
    if not isinstance(error, aiohttp.ClientConnectorCertificateError):
        return None
    found = error.certificate_error
    number = getattr(found, "verify_code", 0)
    said = getattr(found, "verify_message", "") or str(found)
    if number in {_EXPIRED, _NOT_YET}:
        hint = "put a new certificate on that machine, and see that the clocks of both are right"
    elif number in _NAMES:
        hint = f"use a name that it is for in place of {host}, or have it made anew for {host}"
    else:
        hint = f"name its authority: --ca-file FILE or {CA_VARIABLE}; a self-signed certificate is its own authority"
    return ApiError(UNREACHABLE, f"{base_url} cannot prove itself: {said}", hint=hint)


def _wrong_scheme(base_url: str, url: URL, error: BaseException) -> ApiError | None:
    found = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if url.scheme != "https" or not isinstance(found, ssl.SSLError) or found.reason not in _NO_TLS:
        return None
    hint = f"use {url.with_scheme('http')} if that is meant: the token then goes over the network as it is"
    return ApiError(UNREACHABLE, f"{base_url} does not speak TLS", hint=hint)


def _mend(url: URL, error: BaseException, start: str) -> str:
    host = url.host or ""
    if is_loopback(host):
        return start
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"see whether {host} is spelt right, or use its address"
    if isinstance(error, TimeoutError):
        return f"is {host} up, and does its firewall let port {url.port} in?"
    return f"on {host}: is orchestratord up, and does server.bind let this machine in ({url.port})?"
