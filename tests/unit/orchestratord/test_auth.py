"""Who may talk to the API."""

import hmac

import pytest

from contracts.errors import ErrorCode
from daemon_core.redaction import fingerprint
from orchestratord import auth
from orchestratord.admission import Refusal
from orchestratord.auth import HINT, Authenticator

TOKEN = "a-token-that-is-long-enough"
GOOD = f"Bearer {TOKEN}"
MISSING = Refusal(code=ErrorCode.MISSING_TOKEN, message="a token is needed", hint=HINT)
BAD = Refusal(code=ErrorCode.BAD_TOKEN, message="the token is wrong", hint=HINT)
ME = f"token:{fingerprint(TOKEN)}"


def check(
    header: str | None = None,
    *,
    peer: str | None = "127.0.0.1",
    forwarded_for: str | None = None,
    token: str | None = TOKEN,
    optional: bool = False,
    trust_proxy: bool = False,
) -> str | Refusal:
    return Authenticator(token, optional=optional, trust_proxy=trust_proxy).check(header, peer, forwarded_for)


@pytest.mark.req("ORCH-3810", "ORCH-3811")
def test_the_right_token_gives_an_identity_that_does_not_tell_it() -> None:
    assert check(GOOD, peer="192.0.2.7") == ME
    assert check(f"bearer   {TOKEN} ") == ME
    assert TOKEN not in ME
    assert len(ME) == len("token:") + 6


@pytest.mark.req("ORCH-3810")
@pytest.mark.parametrize(
    "header",
    [
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        "",
    ],
)
def test_a_wrong_token_is_told_from_a_missing_one(header: str) -> None:
    assert check(header) == BAD
    assert check(None) == MISSING


@pytest.mark.req("ORCH-3810")
def test_the_comparison_takes_the_same_time_for_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(auth, "hmac", type("Spied", (), {"compare_digest": staticmethod(spy)}))
    check("Bearer x")
    check(GOOD)
    check("Bearer " + "y" * 5000)
    assert {(len(left), len(right)) for left, right in compared} == {(32, 32)}
    assert len(compared) == 3


@pytest.mark.req("ORCH-3810", "ORCH-3811")
@pytest.mark.parametrize(
    ("optional", "peer", "allowed"),
    [
        (True, "127.0.0.1", True),
        (True, "127.8.8.8", True),
        (True, "::1", True),
        (True, "192.0.2.7", False),
        (True, "::ffff:192.0.2.7", False),
        (True, None, False),
        (True, "localhost.example", False),
        (False, "127.0.0.1", False),
        (False, "::1", False),
    ],
)
def test_loopback_is_exempt_only_where_auth_is_optional(optional: bool, peer: str | None, allowed: bool) -> None:
    assert check(optional=optional, peer=peer) == ("localhost" if allowed else MISSING)
    assert check(optional=optional, peer=peer, token=None) == ("localhost" if allowed else MISSING)


@pytest.mark.req("ORCH-3810")
@pytest.mark.parametrize(
    ("trust_proxy", "peer", "forwarded_for", "allowed"),
    [
        (False, "127.0.0.1", "192.0.2.7", False),
        (False, "127.0.0.1", "127.0.0.1", False),
        (True, "127.0.0.1", "127.0.0.1", True),
        (True, "127.0.0.1", "192.0.2.7", False),
        (True, "127.0.0.1", "127.0.0.1, 192.0.2.7", False),
        (True, "127.0.0.1", "192.0.2.7, 127.0.0.1", True),
        (True, "127.0.0.1", "", False),
        (True, "127.0.0.1", "unknown", False),
        (True, "192.0.2.7", "127.0.0.1", False),
        (True, None, "127.0.0.1", False),
    ],
    ids=[
        "untrusted",
        "untrusted-loopback",
        "trusted-loopback",
        "trusted-remote",
        "forged-by-the-client",
        "nearest-counts",
        "empty",
        "no-address",
        "a-peer-that-is-no-proxy-of-ours",
        "no-peer",
    ],
)
def test_a_proxys_header_counts_only_where_it_is_trusted(
    trust_proxy: bool, peer: str | None, forwarded_for: str, allowed: bool
) -> None:
    found = check(optional=True, peer=peer, forwarded_for=forwarded_for, trust_proxy=trust_proxy)
    assert found == ("localhost" if allowed else MISSING)


@pytest.mark.req("ORCH-3810")
def test_a_wrong_token_is_told_even_where_none_is_needed() -> None:
    assert check("Bearer wrong", optional=True) == BAD
    assert check("Bearer any", optional=True, token=None) == BAD
    assert check(GOOD, optional=True) == ME


def test_a_header_that_is_no_text_is_a_wrong_token() -> None:
    assert check("Bearer \udcff\udcfe") == BAD
