"""There is a token, and only this user can read it."""

from __future__ import annotations

from collections.abc import Sequence

from daemon_core.errors import TokenError
from daemon_core.token import find_token
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import configuration
from llama_orch.doctor.machine import Look


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    if machine.config is None:
        return [skipped(configuration.TOKEN)]
    auth, bind = machine.config.auth, machine.config.server.bind
    try:
        token = find_token(auth, machine.environ, machine.config_path.parent)
    except TokenError as error:
        return configuration.judge_token(None, error, auth, bind)
    return configuration.judge_token(f"{token.fingerprint} from {token.source}" if token else None, None, auth, bind)


CHECK = Check(name="token", about="there is a token, and only this user can read it", judge=configuration, run=_run)
