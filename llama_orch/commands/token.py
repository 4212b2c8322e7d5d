"""``llama-orch token``: where the token is. Decides that the token itself is shown only on request."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon_core.errors import EXIT_FAILURE, StartupError
from llama_orch.commands.options import ConfigOption, JsonOption
from llama_orch.output import Output
from llama_orch.session import find_session


def token(
    *,
    show: Annotated[bool, typer.Option("--show", help="Print the token itself.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say where the API token comes from; --show prints it."""
    found = find_session(config, None).token
    if found is None:
        hint = "llama-orch init makes one; or set LLORCH_API_TOKEN, or auth.token_file in the configuration"
        raise StartupError("there is no token", hint, EXIT_FAILURE)
    out = Output(as_json=as_json)
    out.line(found.value if show else f"token {found.fingerprint} from {found.source}")
    out.data({"source": found.source, "fingerprint": found.fingerprint} | ({"token": found.value} if show else {}))
