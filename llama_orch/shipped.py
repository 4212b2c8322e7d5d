"""The files that come with the program and are no code: unit files and example configurations.

Decides where they are: a checkout has them at its top, an installed product beside its code. Never changes them.
"""

from __future__ import annotations

from pathlib import Path

from daemon_core.errors import StartupError

UNITS = "systemd"
EXAMPLES = "examples"
_BESIDE = Path(__file__).parent / "share"


def shipped(name: str) -> Path:
    """The folder of this name. Raises StartupError where the installation lacks it."""
    root = Path(__file__).resolve().parents[1]
    # Not by a pyproject.toml: other packages leave theirs in site-packages.
    folder = _BESIDE / name if _BESIDE.is_dir() else root / name
    if not folder.is_dir():
        raise StartupError(
            f"this installation lacks {folder}", "install llama-orch again; a checkout: git checkout -- ."
        )
    return folder
