"""Which web pages may use an API that needs no token on this machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.web_pages import stranger

HERE = "127.0.0.1:8080"
PAGE = "https://chat.lan"
pytestmark = pytest.mark.req("ORCH-3810", "OP-02")


@pytest.mark.parametrize(
    ("origin", "host", "site"),
    [
        (None, HERE, None),
        (None, "localhost:8080", None),
        (None, "LocalHost.:8080", None),
        (None, "[::1]:8080", None),
        (None, None, None),
        (None, HERE, "none"),
        (PAGE, HERE, "cross-site"),
    ],
    ids=["curl", "a name", "spelt otherwise", "IPv6", "HTTP/1.0", "typed by the user", "a page that is named"],
)
def test_who_may(origin: str | None, host: str | None, site: str | None) -> None:
    assert stranger(origin, host, site, {PAGE}) is None


@pytest.mark.parametrize(
    ("origin", "host", "site"),
    [
        ("https://evil.example", HERE, None),
        ("null", HERE, None),
        ("", HERE, None),
        ("http://127.0.0.1:8080", HERE, None),
        (None, HERE, "cross-site"),
        (None, HERE, "same-site"),
        (None, "evil.example:8080", None),
        (PAGE, "evil.example:8080", None),
        (None, "", None),
        (None, "localhost.evil.example", None),
    ],
    ids=[
        *("a page", "a sandboxed page", "empty", "a page of another server here", "an image", "of a sibling"),
        *("rebinding", "rebinding that is named", "no host", "a name that begins alike"),
    ],
)
def test_who_may_not(origin: str | None, host: str | None, site: str | None) -> None:
    assert stranger(origin, host, site, {PAGE})


@given(st.text(), st.text(), st.text())
def test_no_header_breaks_it(origin: str, host: str, site: str) -> None:
    said = stranger(origin, host, site, ())
    assert said is None or len(said) < 1_000
