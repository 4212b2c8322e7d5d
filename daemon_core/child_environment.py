"""What a program that a daemon starts gets to see of the daemon's environment.

Decides which variables are the daemon's alone: secrets, the flags that llama-server reads, and what its service manager
told it. Never reads the environment: it is an argument. A program that needs one of them gets it in a layer of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PRIVATE = re.compile(
    r".*(TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS)(_.*)?$"
    r"|LLAMA_ARG_.*"  # llama-server reads flags from these, beside the argument vector that we chose
    r"|CREDENTIALS_DIRECTORY$|NOTIFY_SOCKET$|WATCHDOG_.*|LISTEN_.*|INVOCATION_ID$|JOURNAL_STREAM$|SYSTEMD_.*"
)


def child_env(environ: Mapping[str, str], *layers: Mapping[str, str]) -> dict[str, str]:
    """The daemon's environment without what is the daemon's alone, under the layers given; the last one wins."""
    env = {name: value for name, value in environ.items() if not _PRIVATE.match(name)}
    for layer in layers:
        env.update(layer)
    return env
