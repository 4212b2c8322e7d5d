"""The certificate that the HTTP port proves itself with.

Decides that files which cannot be used change nothing while another pair is served, and that an expired certificate is
served all the same, and told: refused it would take away the API as well as the warning. What is wrong with files,
``daemon_core.certificate_files`` decides; the doctor asks it too.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import assert_never

from contracts.config import Tls
from daemon_core.certificate import RENEW, Standing
from daemon_core.certificate_files import CertificateFiles
from daemon_core.errors import StartupError

log = logging.getLogger(__name__)


class Certificate:
    """The context for new connections; ``renew`` replaces it, and those that are open keep theirs."""

    def __init__(self, files: Tls, config_dir: Path, environ: Mapping[str, str], unix_ms: Callable[[], int]) -> None:
        """Raises StartupError with exit status 78 where the files cannot be used."""
        self._files = CertificateFiles.of(files, config_dir, environ)
        self._unix_ms = unix_ms
        self.context = self._read()

    def renew(self) -> None:
        """Read both files again; where they cannot be used, what was read before stays."""
        try:
            self.context = self._read()
        except StartupError as error:
            log.error("the certificate stays as it was: %s", error.render())  # noqa: TRY400 - no traceback
        else:
            log.info("read %s and %s again", self._files.cert, self._files.key)

    def _read(self) -> ssl.SSLContext:
        context = self._files.read()
        validity = self._files.validity(context, self._unix_ms() / 1000)
        cert, words = self._files.cert, validity.words
        match validity.standing:
            case Standing.GOOD:
                pass
            case Standing.SOON:
                log.warning("the certificate %s %s; %s", cert, words, RENEW)
            case Standing.EXPIRED | Standing.REFUSED:
                log.error("the certificate %s %s, so clients will refuse it; %s", cert, words, RENEW)
            case Standing.UNKNOWN:
                log.warning("the certificate %s %s", cert, words)
            case _:
                assert_never(validity.standing)
        return context
