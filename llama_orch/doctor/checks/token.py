"""There is a token, and only this user can read it."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.config import is_loopback, split_bind
from daemon_core.errors import TokenError
from daemon_core.token import find_token
from llama_orch.doctor.base import Machine, Result, failed, ok, skipped

CHECK = "token"
MEND = "llama-orch init makes one; or set LLORCH_API_TOKEN, or auth.token_file"


async def check(machine: Machine) -> Sequence[Result]:
    """Where the token comes from, or why there is none that can be used."""
    if machine.config is None:
        return [skipped(CHECK)]
    try:
        token = find_token(machine.config.auth, machine.environ, machine.config_path.parent)
    except TokenError as error:
        why = "whoever reads the token can use the GPUs and read every answer"
        return [failed(CHECK, error.message, why, error.hint or MEND)]
    if token is not None:
        return [ok(CHECK, f"{token.fingerprint} from {token.source}")]
    host, _ = split_bind(machine.config.server.bind) or ("", 0)
    if machine.config.auth.optional and is_loopback(host):
        return [ok(CHECK, "none, and none needed: auth.optional on a loopback address")]
    return [failed(CHECK, "there is no token", "orchestratord does not start without one", MEND)]
