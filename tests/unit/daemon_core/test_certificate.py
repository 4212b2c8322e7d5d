"""How long a certificate is good, and that the daemon and the doctor are told the same of one pair of files."""

import os
from pathlib import Path

import pytest

from contracts.config import Tls
from daemon_core.certificate import DAY_S, SOON_DAYS, Standing, refused, shaken, untried
from daemon_core.certificate_files import CertificateFiles
from daemon_core.errors import EXIT_CONFIG, StartupError
from tests.support.certificates import authority_and_server

pytestmark = pytest.mark.req("OP-02")

NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    ("left_s", "standing", "words"),
    [
        (SOON_DAYS * DAY_S, Standing.GOOD, "expires in 14 days"),
        (SOON_DAYS * DAY_S - 1, Standing.SOON, "expires in 13 days"),
        (1, Standing.SOON, "expires in 0 days"),
    ],
)
def test_a_certificate_that_is_good_ends_some_day(left_s: float, standing: Standing, words: str) -> None:
    validity = shaken(NOW_S + left_s, NOW_S)
    assert (validity.standing, validity.words) == (standing, words)


def test_why_no_client_takes_it_is_told_by_openssls_number() -> None:
    assert refused(10, "certificate has expired").standing is Standing.EXPIRED
    early = refused(9, "certificate is not yet valid")
    assert (early.standing, early.words) == (Standing.REFUSED, "is not valid yet")
    weak = refused(66, "EE certificate key too weak")
    assert (weak.standing, weak.words) == (Standing.REFUSED, "is refused: EE certificate key too weak")
    assert untried("no shared cipher").standing is Standing.UNKNOWN


@pytest.mark.parametrize(
    ("days", "standing"),
    [(100, Standing.GOOD), (5, Standing.SOON), (-1, Standing.EXPIRED)],
    ids=["good", "soon", "old"],
)
def test_a_handshake_in_memory_says_how_long_real_files_are_good(tmp_path: Path, days: int, standing: Standing) -> None:
    authority_and_server(tmp_path, "127.0.0.1", days=days)
    files = CertificateFiles.of(Tls(cert_file="cert.pem", key_file="key.pem"), tmp_path, os.environ)
    now_s = (tmp_path / "cert.pem").stat().st_mtime
    assert files.validity(files.read(), now_s).standing is standing


def test_files_that_cannot_be_used_are_an_error_with_its_mend(tmp_path: Path) -> None:
    authority_and_server(tmp_path, "127.0.0.1")
    files = CertificateFiles(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    files.key.chmod(0o644)
    with pytest.raises(StartupError) as caught:
        files.read()
    assert (caught.value.exit_code, caught.value.hint) == (EXIT_CONFIG, f"chmod 600 {files.key}")
