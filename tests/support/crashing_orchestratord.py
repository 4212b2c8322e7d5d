"""The real orchestratord, killed by itself with SIGKILL before or after the nth write of a name in its task store.

``python -m tests.support.crashing_orchestratord --crash-at "before end" --nth 3 --config FILE``. Nothing else is
different.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from functools import partial
from pathlib import Path

from daemon_core.entry import run_daemon
from orchestratord.app import NAME, serve
from orchestratord.database import Database


def main() -> int:
    """Serve until it comes to that."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--crash-at", required=True)
    parser.add_argument("--nth", type=int, default=1)
    asked, rest = parser.parse_known_args()
    left = asked.nth

    def point(name: str) -> None:
        nonlocal left
        left -= name == asked.crash_at
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def opened(path: Path | None) -> Database:
        return Database.opened(path, point)

    return run_daemon(NAME, rest, partial(serve, opened=opened))


if __name__ == "__main__":
    sys.exit(main())
