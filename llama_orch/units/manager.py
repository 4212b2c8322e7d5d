"""The user's own service manager, asked with ``systemctl --user``.

Decides what a failed request means to the operator. Knows nothing of files.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from daemon_core.errors import EXIT_FAILURE, StartupError

LIMIT_S = 30.0
"""For a question; a start or a stop takes as long as the units allow."""
_ODD = re.compile(r"[^\w/.@:+-]")
_LINGER = Path("/var/lib/systemd/linger")
_NO_SESSION = (
    "log in as this user (ssh, a desktop, machinectl shell NAME@): su, sudo and cron give no session; "
    "where one is there or the user lingers: export XDG_RUNTIME_DIR=/run/user/$(id -u)"
)
_HINTS = (("XDG_RUNTIME_DIR", _NO_SESSION), ("bus", _NO_SESSION))


class ServiceManager:
    """One user's service manager."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ) | {"SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0", "LC_ALL": "C.UTF-8"}

    def check(self) -> None:
        """Raises StartupError where it cannot be asked."""
        if shutil.which("systemctl", path=self._environ.get("PATH")) is None:
            raise StartupError("there is no systemctl on this machine", "llama-orch up runs both daemons without it")
        if os.geteuid() == 0 and "SUDO_UID" in self._environ:
            hint = "run it without sudo, as the user whose daemons these are: nothing here needs root"
            raise StartupError("these units belong to a user, and this is root by sudo", hint)
        self.ask("show-environment")

    def ask(self, *arguments: str) -> str:
        """What ``systemctl --user`` says. Raises StartupError where it refuses or hangs."""
        return self._run(arguments, LIMIT_S)

    def act(self, *arguments: str) -> None:
        """Have something started or stopped, and wait for it. Raises StartupError."""
        self._run(arguments, None)

    def tried(self, *arguments: str) -> bool:
        """Whether something worked that may fail."""
        try:
            self._run(arguments, LIMIT_S)
        except StartupError:
            return False
        return True

    def show(self, units: Sequence[str], properties: Sequence[str]) -> str:
        """The properties of units, as ``systemctl show`` prints them: a paragraph for each."""
        return self.ask("show", f"--property={','.join(properties)}", "--", *units)

    def reads(self, folder: Path) -> bool:
        """Whether it looks for units there, as far as that can be told beforehand. Raises StartupError."""
        said = self.ask("show", "--property=UnitPath").strip().removeprefix("UnitPath=")
        return not said or _is_among(folder, said)

    def last_lines(self, unit: str, count: int = 3) -> list[str]:
        """What a unit's own processes said last to the journal, not what systemd says of them; nothing without one."""
        command = [
            "journalctl",
            "--user",
            "--quiet",
            "--no-pager",
            "--output=cat",
            f"--lines={count}",
            f"_SYSTEMD_USER_UNIT={unit}",
        ]
        try:
            done = subprocess.run(
                command,
                env=self._environ,
                capture_output=True,
                text=True,
                check=False,
                timeout=LIMIT_S,
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        return done.stdout.splitlines()

    @property
    def user(self) -> str:
        """Whose it is."""
        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            return str(os.getuid())

    @property
    def lingers(self) -> bool:
        """Whether it starts at boot and stays after a logout."""
        return (_LINGER / self.user).exists()

    def _run(self, arguments: Sequence[str], limit_s: float | None) -> str:
        command = ["systemctl", "--user", "--no-pager", *arguments]
        try:
            done = subprocess.run(
                command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=limit_s,
                errors="replace",
            )
        except OSError as error:
            raise StartupError(f"systemctl: {error.strerror}", None, EXIT_FAILURE) from error
        except subprocess.TimeoutExpired:
            text = f"the user's service manager does not answer: {' '.join(command)}"
            raise StartupError(text, "systemctl --user status", EXIT_FAILURE) from None
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}"
            hint = next((hint for words, hint in _HINTS if words in said), None)
            raise StartupError(f"{' '.join(command[:3])} {arguments[0]}: {said}".replace(" --no-pager", ""), hint)
        return done.stdout


def _is_among(folder: Path, said: str) -> bool:
    """Whether the folder is in the list that systemd printed; odd names it quotes, by rules of its own."""
    wanted = os.path.realpath(folder)
    if any(_ODD.search(path) for path in (str(folder), wanted)):
        return True
    return wanted in {os.path.realpath(path) for path in said.split()}
