"""Which findings keep the daemons from starting, and what helps a service."""

import pytest

from daemon_core.token import VARIABLE
from llama_orch.doctor.base import Kind, ok, skipped
from llama_orch.doctor.before_start import refusing
from llama_orch.doctor.judge import configuration, lan, linger, paths, ports

pytestmark = pytest.mark.req("OP-01")

IN_THE_WAY = (configuration.UNUSABLE, configuration.BAD_TOKEN, paths.LONG_SOCKET, lan.UNUSABLE, ports.TAKEN)
SERVED_ALL_THE_SAME = (lan.EXPIRED, lan.PLAIN, linger.OFF)


@pytest.mark.parametrize("kind", IN_THE_WAY, ids=lambda kind: kind.id)
def test_what_a_daemon_ends_with_is_in_the_way_as_it_was_found(kind: Kind) -> None:
    result = kind.found("here", "do this")
    assert refusing([ok("token", "fine"), result, skipped("lan")]) == (result,)


@pytest.mark.parametrize("kind", SERVED_ALL_THE_SAME, ids=lambda kind: kind.id)
def test_what_a_daemon_only_tells_is_not(kind: Kind) -> None:
    assert refusing([kind.found("here")]) == ()


def test_a_token_for_the_shell_does_not_help_a_service() -> None:
    (result,) = refusing([configuration.NO_TOKEN.found("there is no token")])
    assert f"write {VARIABLE}=... into ~/.config/llama-orch/environment" in str(result.mend)
