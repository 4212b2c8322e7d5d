"""Where orchestratord may listen."""

import pytest

from contracts.config import Auth, Config, Server
from daemon_core.errors import EXIT_CONFIG, StartupError
from daemon_core.token import ApiToken
from orchestratord.app import check_exposure
from tests.unit.orchestratord.world import pool

TOKEN = ApiToken(value="a-token-that-is-long-enough", source="a test")


def settings(bind: str, *, optional: bool) -> Config:
    return Config(pools=(pool(),), server=Server(bind=bind), auth=Auth(optional=optional))


@pytest.mark.req("ORCH-3810")
@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "example.org"])  # noqa: S104 - it is refused
def test_what_others_can_reach_needs_a_token(host: str, optional: bool) -> None:
    with pytest.raises(StartupError) as caught:
        check_exposure(settings(f"{host}:8080", optional=optional), host, None)
    assert caught.value.exit_code == EXIT_CONFIG
    assert "can be reached from outside, and there is no token" in str(caught.value)
    assert caught.value.hint is not None
    assert "LLORCH_API_TOKEN" in caught.value.hint
    check_exposure(settings(f"{host}:8080", optional=optional), host, TOKEN)


@pytest.mark.req("ORCH-3810")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_a_token_unless_auth_is_optional(host: str) -> None:
    check_exposure(settings(f"{host}:8080", optional=True), host, None)
    check_exposure(settings(f"{host}:8080", optional=False), host, TOKEN)
    with pytest.raises(StartupError) as caught:
        check_exposure(settings(f"{host}:8080", optional=False), host, None)
    assert caught.value.exit_code == EXIT_CONFIG
    assert "nobody could use the API" in str(caught.value)
