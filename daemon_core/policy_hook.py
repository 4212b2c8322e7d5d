"""Asks the operator's own program, ``policy.hook``, whether an address may be reached.

Decides how it is asked: one JSON object on its standard input, ``{"action", "url", "host"}``, the URL without what may
be secret; exit status 0 allows. Whatever else happens denies: another status, no answer in time, a program that cannot
be started. It gets our environment without what is ours alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from daemon_core.child_environment import child_env
from daemon_core.outbound import without_secrets

TIMEOUT_S = 10.0
MAX_SHOWN = 200
"""Characters of what it says that an error shows."""


def objection(
    hook: str, action: str, url: str, host: str, environ: Mapping[str, str], *, timeout_s: float = TIMEOUT_S
) -> str | None:
    """Why the hook does not allow it, in one line; None where it does. Blocks."""
    question = json.dumps({"action": action, "url": without_secrets(url), "host": host}) + "\n"
    try:
        done = subprocess.run(
            [str(Path(hook).expanduser())],
            input=question.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_env(environ),
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {timeout_s:g} s"
    except (OSError, ValueError, RuntimeError) as error:
        return f"it cannot be started: {getattr(error, 'strerror', None) or error}"
    if done.returncode == 0:
        return None
    said = next((line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()), "")
    return f"exit status {done.returncode}" + (f", {said[:MAX_SHOWN]!r}" if said else "")
