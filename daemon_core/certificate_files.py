"""The two files that an HTTPS port proves itself with: what they are good for, and the context that is made of them.

Decides which files are good enough: a key that others may read is refused, as is a pair that does not belong together.
Says how long they are good, by a handshake between two ends in memory. Never opens a port, never logs.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.config import Tls
from daemon_core.certificate import Validity, refused, shaken, untried
from daemon_core.errors import EXIT_CONFIG, StartupError
from daemon_core.paths import expand, home_dir


@dataclass(frozen=True, kw_only=True)
class CertificateFiles:
    """Where a certificate and its key are."""

    cert: Path
    key: Path

    @classmethod
    def of(cls, tls: Tls, config_dir: Path, environ: Mapping[str, str]) -> CertificateFiles:
        """As the configuration in this folder names them."""
        home = home_dir(environ)
        return cls(cert=config_dir / expand(tls.cert_file, home), key=config_dir / expand(tls.key_file, home))

    def read(self) -> ssl.SSLContext:
        """What a server proves itself with. Raises StartupError with exit status 78 where they cannot be used."""
        _status_of("cert_file", self.cert)
        _check_private(self.key, _status_of("key_file", self.key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # An empty passphrase: without one OpenSSL would ask at the terminal for that of a locked key.
            context.load_cert_chain(self.cert, self.key, password="")
        except OSError as error:  # ssl.SSLError among them
            text = f"server.tls: {self.cert} and {self.key} cannot be used: {_why(error)}"
            hint = "both are PEM; the key belongs to the certificate, and has no passphrase"
            raise StartupError(text, hint, EXIT_CONFIG) from error
        return context

    def validity(self, context: ssl.SSLContext, now_s: float) -> Validity:
        """How long what was read is good, at this time in seconds since 1970. OpenSSL goes by the machine's clock."""
        try:
            return shaken(_valid_until(context, self.cert), now_s)
        except ssl.SSLCertVerificationError as error:
            return refused(error.verify_code, error.verify_message)
        except ssl.SSLError as error:
            return untried(_why(error))


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
