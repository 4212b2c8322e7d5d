"""A systemd-run for tests: it makes no scope, and otherwise does what the real one does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

WORKS = 'while [ "$1" != -- ]; do shift; done\nshift\nINVOCATION_ID=of-the-scope exec "$@"\n'
NO_BUS = 'echo "Failed to connect to bus:\nNo such file or directory" >&2\nexit 1\n'


def a_service(folder: Path, systemd_run: str | None = WORKS) -> Mapping[str, str]:
    """What this process finds in its environment where it is a service of a user's manager."""
    folder.mkdir(exist_ok=True)
    if systemd_run is not None:
        (folder / "systemd-run").write_text(f"#!/bin/sh\n{systemd_run}")
        (folder / "systemd-run").chmod(0o755)
    for program in ("env", "true"):
        (folder / program).unlink(missing_ok=True)
        (folder / program).symlink_to(f"/usr/bin/{program}")
    return {
        "PATH": str(folder),
        "MANAGERPID": "1",
        "SYSTEMD_EXEC_PID": str(os.getpid()),
        "XDG_RUNTIME_DIR": "/run/user/of-the-daemon",
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere",
    }
