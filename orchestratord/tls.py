"""The certificate that the HTTP port proves itself with.

Decides which files are good enough: a key that others may read is refused, as is a pair that does not belong together.
Each pair is tried in a handshake of its own before anybody sees it. An expired certificate is served all the same, and
told: refused it would take away the API as well as the warning.
"""

from __future__ import annotations

import logging
import os
import ssl
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from contracts.config import Tls
from daemon_core.errors import EXIT_CONFIG, StartupError
from daemon_core.paths import expand, home_dir

log = logging.getLogger(__name__)

DAY_S = 24 * 3600
SOON_S = 14 * DAY_S
_EXPIRED, _NOT_YET = 10, 9
"""Numbers of OpenSSL for the two ways of a certificate not to be valid now."""
_RENEW = "put a new one in its place, and: systemctl --user reload orchestratord"


class Certificate:
    """The context for new connections; ``renew`` replaces it, and those that are open keep theirs."""

    def __init__(self, files: Tls, config_dir: Path, environ: Mapping[str, str], unix_ms: Callable[[], int]) -> None:
        """Raises StartupError with exit status 78 where the files cannot be used."""
        home = home_dir(environ)
        self._cert = config_dir / expand(files.cert_file, home)
        self._key = config_dir / expand(files.key_file, home)
        self._unix_ms = unix_ms
        self.context = self._read()

    def renew(self) -> None:
        """Read both files again; where they cannot be used, what was read before stays."""
        try:
            self.context = self._read()
        except StartupError as error:
            log.error("the certificate stays as it was: %s", error.render())  # noqa: TRY400 - no traceback
        else:
            log.info("read %s and %s again", self._cert, self._key)

    def _read(self) -> ssl.SSLContext:
        _status_of("cert_file", self._cert)
        _check_private(self._key, _status_of("key_file", self._key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # An empty passphrase: without one OpenSSL would ask at the terminal for that of a locked key.
            context.load_cert_chain(self._cert, self._key, password="")
        except OSError as error:  # ssl.SSLError among them
            text = f"server.tls: {self._cert} and {self._key} cannot be used: {_why(error)}"
            hint = "both are PEM; the key belongs to the certificate, and has no passphrase"
            raise StartupError(text, hint, EXIT_CONFIG) from error
        self._tell_validity(context)
        return context

    def _tell_validity(self, context: ssl.SSLContext) -> None:
        try:
            until = _valid_until(context, self._cert)
        except ssl.SSLCertVerificationError as error:
            word = {_EXPIRED: "has expired", _NOT_YET: "is not valid yet"}.get(error.verify_code, error.verify_message)
            log.error("the certificate %s %s, so clients will refuse it; %s", self._cert, word, _RENEW)  # noqa: TRY400
            return
        except ssl.SSLError as error:
            log.warning("cannot see how long the certificate %s is valid: %s", self._cert, _why(error))
            return
        left_s = until - self._unix_ms() / 1000
        if left_s < SOON_S:
            log.warning("the certificate %s expires in %d days; %s", self._cert, left_s // DAY_S, _RENEW)


def _status_of(what: str, path: Path) -> os.stat_result:
    """What is known of one of the files, where it is one. Raises StartupError."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        status = None
    except OSError as error:
        text = f"server.tls.{what}: {path} cannot be read: {error.strerror}"
        hint = "copy both files to a folder that this user may enter; /etc/letsencrypt/live is root's alone"
        raise StartupError(text, hint, EXIT_CONFIG) from error
    if status is None or not stat.S_ISREG(status.st_mode):
        text = f"server.tls.{what}: there is no file {path}"
        raise StartupError(text, "name a PEM file, or leave server.tls out", EXIT_CONFIG)
    return status


def _check_private(key: Path, status: os.stat_result) -> None:
    if status.st_mode & 0o077:
        text = f"server.tls.key_file: {key} can be used by others (mode {status.st_mode & 0o777:04o})"
        raise StartupError(text, f"chmod 600 {key}", EXIT_CONFIG)
    if status.st_uid not in {0, os.geteuid()}:
        text = f"server.tls.key_file: {key} belongs to another user ({status.st_uid})"
        raise StartupError(text, f"chown {os.geteuid()} {key}", EXIT_CONFIG)


def _valid_until(server: ssl.SSLContext, cert: Path) -> float:
    """When the certificate ends, in seconds since 1970: a client that trusts it alone shakes hands with the server.

    Raises ssl.SSLError where they do not come together, as with a certificate that is not valid now.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = ends[0].getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "they are no PEM").replace("_", " ").lower()
    return error.strerror or str(error)
