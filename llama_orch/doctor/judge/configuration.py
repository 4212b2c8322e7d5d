"""The configuration file and the token: usable as they stand.

Decides how their faults are told; ``daemon_core`` finds them.
"""

from __future__ import annotations

from contracts.config import Auth, is_loopback, split_bind
from daemon_core.errors import ConfigFileError, StartupError
from llama_orch.doctor.base import Kind, Result, ok, skipped

CONFIG, TOKEN = "config", "token"
INIT = "llama-orch init makes one; or set LLORCH_API_TOKEN, or auth.token_file"

UNUSABLE = Kind(
    id="config.unusable",
    what="the configuration file is missing, or something in it is wrong",
    why="both daemons refuse to start with it (exit status 78)",
    mend="llama-orch init writes one; of what is wrong each line says what is valid",
)
NO_TOKEN = Kind(id="token.none", what="there is no token", why="orchestratord does not start without one", mend=INIT)
BAD_TOKEN = Kind(
    id="token.unusable",
    what="the token file can be read by others, belongs to somebody else, or holds no token",
    why="whoever reads the token can use the GPUs and read every answer",
    mend="chmod 600 ~/.config/llama-orch/api-token; or llama-orch init makes a new one",
)


def judge_config(
    path: str, profile: str, pools: tuple[str, ...], error: StartupError | None, asks: str | None = None
) -> list[Result]:
    """A result for each problem of the file; ``asks`` is the URL of the daemon that a mere client asks."""
    if asks is not None:
        return [skipped(CONFIG, f"there is none, and this machine needs none: it asks {asks}")]
    match error:
        case None:
            return [ok(CONFIG, f"{path}: profile {profile}, pools {', '.join(pools)}")]
        case ConfigFileError():
            return [
                UNUSABLE.found(problem.render().partition("\n")[0], problem.hint or "change that line")
                for problem in error.problems
            ]
        case _:
            return [UNUSABLE.found(error.message, error.hint or f"edit {path}")]


def judge_token(found: str | None, error: StartupError | None, auth: Auth, bind: str) -> list[Result]:
    """``found`` says which token it is and where from, without the token."""
    if error is not None:
        return [BAD_TOKEN.found(error.message, error.hint or INIT)]
    if found is not None:
        return [ok(TOKEN, found)]
    host, _ = split_bind(bind) or ("", 0)
    if auth.optional and is_loopback(host):
        return [ok(TOKEN, "none, and none needed: auth.optional on a loopback address")]
    return [NO_TOKEN.found("there is no token")]
