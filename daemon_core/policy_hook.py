"""Asks the operator's own program, ``policy.hook``, whether an address may be reached.

Decides how it is asked: one JSON object on its standard input, ``{"action", "url", "host"}``, the URL without what may
be secret; exit status 0 allows. Whatever else happens denies: another status, no answer in time, a program that cannot
be started. It gets our environment without what is ours alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from daemon_core.child_environment import child_env
from daemon_core.outbound import without_secrets

TIMEOUT_S = 10.0
MAX_SHOWN = 200
"""Characters of what it says that an error shows."""
MAX_KEPT = 64 << 10
"""Bytes of its output that are looked at."""


def objection(
    hook: str, action: str, url: str, host: str, environ: Mapping[str, str], *, timeout_s: float = TIMEOUT_S
) -> str | None:
    """Why the hook does not allow it, in one line; None where it does. Blocks."""
    question = json.dumps({"action": action, "url": without_secrets(url), "host": host}) + "\n"
    try:
        with subprocess.Popen(
            [str(Path(hook).expanduser())],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_env(environ),
        ) as process:
            try:
                status, output = _answer(process, question.encode(), timeout_s)
            except BaseException:
                process.kill()
                raise
    except subprocess.TimeoutExpired:
        return f"it did not answer within {timeout_s:g} s"
    except (OSError, ValueError, RuntimeError) as error:
        return f"it cannot be started: {getattr(error, 'strerror', None) or error}"
    if status == 0:
        return None
    said = next((line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()), "")
    return f"exit status {status}" + (f", {said[:MAX_SHOWN]!r}" if said else "")


def _answer(process: subprocess.Popen[bytes], question: bytes, timeout_s: float) -> tuple[int, bytes]:
    """The exit status, and how its output begins: it may say as much as it likes, and only that is kept.

    Raises subprocess.TimeoutExpired.
    """
    until = time.monotonic() + timeout_s
    asking, telling = process.stdin, process.stdout
    if asking is None or telling is None:
        raise ValueError("it has no pipes")
    with contextlib.suppress(BrokenPipeError), asking:  # it need not read the question
        asking.write(question)
    poll = select.poll()
    poll.register(telling, select.POLLIN)
    begin = bytearray()
    while True:
        left_s = until - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise subprocess.TimeoutExpired(process.args, timeout_s)
        chunk = os.read(telling.fileno(), MAX_KEPT)
        if not chunk:
            return process.wait(max(0.0, until - time.monotonic())), bytes(begin)
        begin += chunk[: MAX_KEPT - len(begin)]
