"""Who may read what should be private, and what belongs to somebody else.

Decides it from owners and mode bits. The token file is the check ``token``'s.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok

CHECK = "permissions"

FOREIGN = Kind(
    id="permissions.foreign",
    what="files of llama-orch belong to another user",
    why="a command was run with sudo once: what it wrote cannot be changed by this user",
    mend="sudo chown -R $USER: the directory",
)
SECRETS_READABLE = Kind(
    id="permissions.secrets-readable",
    what="the environment file, which holds tokens and keys, can be read by others",
    why="whoever reads it has the API keys and the tokens in it",
    mend="chmod 600 ~/.config/llama-orch/environment",
)
CONFIG_WRITABLE = Kind(
    id="permissions.config-writable",
    what="others may write the configuration, or put files into its directory",
    why="it says which programs are started as this user",
    mend="chmod go-w ~/.config/llama-orch ~/.config/llama-orch/config.yaml",
)


class File(Message, frozen=True, kw_only=True):
    """One file or directory."""

    path: str
    owner: int
    mode: int


def judge(
    uid: int, config: Sequence[File], secret: File | None, kept: Sequence[File], *, root_counts: bool = True
) -> list[Result]:
    """``config`` are the configuration file and its directory, ``kept`` what lies in the other directories."""
    found = [
        CONFIG_WRITABLE.found(f"{file.path} can be written by others (mode {file.mode & 0o7777:04o})", _close(file))
        for file in config
        if file.mode & 0o022 and not file.mode & 0o1000
    ]
    if secret is not None and secret.mode & 0o077:
        text = f"{secret.path} can be read by others (mode {secret.mode & 0o7777:04o})"
        found.append(SECRETS_READABLE.found(text, f"chmod 600 {shlex.quote(secret.path)}"))
    foreign = [file for file in (*config, *kept) if file.owner != uid and (root_counts or file.owner != 0)]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        text = f"{foreign[0].path}{more} belong to user {foreign[0].owner}, and this is user {uid}"
        mend = f"sudo chown -R {uid}: {' '.join(shlex.quote(file.path) for file in foreign[:3])}"
        found.append(FOREIGN.found(text, mend + (" ..." if len(foreign) > 3 else "")))
    return found or [ok(CHECK, "everything is this user's own, and secrets are private")]


def _close(file: File) -> str:
    return f"chmod go-w {shlex.quote(file.path)}"
