"""Who runs this, and whether the user's own service manager can be reached from here.

Decides what su, sudo, cron and ssh without PAM break.
"""

from __future__ import annotations

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok

CHECK = "session"

ROOT = Kind(
    id="session.root",
    what="this runs as root",
    why="llama-orch needs no root: engines and what they are fed would have every right on this machine",
    mend="run it, and its units, as an ordinary user",
    note=True,
)
FOREIGN_HOME = Kind(
    id="session.foreign-home",
    what="HOME is another user's directory",
    why="what is written there belongs to the wrong user, who cannot use it any more",
    mend="log in as the user: sudo machinectl shell USER@, or su - USER; not sudo -E",
)
NO_HOME = Kind(
    id="session.no-home",
    what="HOME is not set, or is not there",
    why="configuration, token, models and tasks live in it; the daemons and this shell must mean the same one",
    mend="log in as the user: sudo machinectl shell USER@; in a container set HOME to a directory that stays",
)
FOREIGN_RUNTIME = Kind(
    id="session.foreign-runtime",
    what="XDG_RUNTIME_DIR is another user's directory, or is not there",
    why="the daemons' socket lies there, and systemctl --user speaks through it",
    mend="log in as the user: sudo machinectl shell USER@, or ssh USER@localhost; not su",
)
NO_RUNTIME = Kind(
    id="session.no-runtime",
    what="XDG_RUNTIME_DIR is not set",
    why="systemctl --user does not work here, and daemons that are started here would meet elsewhere than the units",
    mend="export XDG_RUNTIME_DIR=/run/user/$(id -u), or log in by ssh, on the console or by machinectl",
    note=True,
)
NO_MANAGER = Kind(
    id="session.no-manager",
    what="the user's service manager does not answer",
    why="the units of llama-orch cannot be started or looked at from here; llama-orch up needs none",
    mend="systemctl --user status says why; loginctl enable-linger has it run without a login",
    note=True,
)


class Facts(Message, frozen=True, kw_only=True):
    """What was seen."""

    uid: int
    user: str
    home: str = ""
    home_owner: int | None = None
    """None where there is no such directory."""
    runtime: str = ""
    runtime_owner: int | None = None
    manager: str | None = None
    """What systemctl --user is-system-running says; None where it does not answer."""
    systemd: bool = True
    """Whether this machine runs systemd at all."""


def judge(facts: Facts) -> list[Result]:
    """This login."""
    found = []
    if facts.uid == 0:
        found.append(ROOT.found(ROOT.what))
    elif facts.home_owner is None:
        found.append(NO_HOME.found(f"HOME={facts.home} is not there" if facts.home else "HOME is not set"))
    elif facts.home_owner not in {facts.uid, 0}:
        text = f"{facts.home} belongs to user {facts.home_owner}, and this is {facts.user} ({facts.uid})"
        found.append(FOREIGN_HOME.found(text))
    if not facts.runtime:
        if facts.uid:
            found.append(NO_RUNTIME.found(NO_RUNTIME.what))
    elif facts.runtime_owner != facts.uid:
        whose = "is not there" if facts.runtime_owner is None else f"belongs to user {facts.runtime_owner}"
        found.append(FOREIGN_RUNTIME.found(f"XDG_RUNTIME_DIR={facts.runtime} {whose}"))
    elif facts.systemd and facts.manager is None:
        found.append(NO_MANAGER.found(NO_MANAGER.what))
    manager = f", user manager {facts.manager}" if facts.manager else ""
    return found or [ok(CHECK, f"{facts.user}{manager}")]
