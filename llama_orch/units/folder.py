"""The folder of the user's own units. Decides only that a file is replaced whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

from daemon_core.errors import EXIT_FAILURE, StartupError
from daemon_core.paths import user_units
from daemon_core.version import version
from llama_orch.keeping import put, set_aside, where_to_look
from llama_orch.shipped import UNITS, shipped
from llama_orch.units.files import Found, is_unit, rendered, why_not

PROGRAMS = ("orchestratord", "pool-managerd")


class Folder:
    """``~/.config/systemd/user``, or where XDG_CONFIG_HOME puts it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.path = user_units(environ)

    def found(self) -> dict[str, Found]:
        """All units that lie there, by their names. Raises StartupError."""
        try:
            return {entry.name: _read(entry) for entry in sorted(self.path.iterdir()) if is_unit(entry.name)}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _refused(self.path, error) from error

    def write(self, name: str, text: str, *, keep: bool = False) -> Path | None:
        """Put a unit there, for all to read: it holds no secret. Answers where the old one is kept, if it is.

        Raises StartupError.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return put(self.path / name, text, mode=0o644, keep=keep)
        except OSError as error:
            raise _refused(self.path / name, error) from error

    def remove(self, name: str) -> None:
        """Take a unit away. Raises StartupError."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise _refused(self.path / name, error) from error

    def set_aside(self, name: str) -> Path:
        """Keep a unit under a name that systemd passes over. Raises StartupError."""
        try:
            return set_aside(self.path / name)
        except OSError as error:
            raise _refused(self.path / name, error) from error

    def set_aside_before(self, names: Iterable[str]) -> list[Path]:
        """What was kept of units when they were replaced."""
        return sorted(path for name in names for path in self.path.glob(f"{name}.old*"))

    def drop_ins(self, name: str) -> list[Path]:
        """The operator's own changes to a unit."""
        return sorted((self.path / f"{name}.d").glob("*.conf"))


def wanted_units(bindir: Path | None = None) -> dict[str, str]:
    """The units of this version as they are to be installed. Raises StartupError."""
    place = str(bindir or find_bindir())
    why = why_not(place)
    if why is not None:
        raise StartupError(f"{place}: {why}", "install llama-orch below a path without them")
    templates = {path.name: path.read_text(encoding="utf-8") for path in shipped(UNITS).iterdir() if is_unit(path.name)}
    return {name: rendered(name, text, place, version()) for name, text in sorted(templates.items())}


def find_bindir() -> Path:
    """Where the daemons' programs are: with this interpreter, or beside this program. Raises StartupError.

    A link in ~/.local/bin is not followed to and not used: pipx and uv replace it, and the environment behind it stays.
    """
    candidates = [Path(sysconfig.get_path("scripts")), Path(sys.argv[0]).absolute().parent]
    candidates += [Path(found).parent for found in [shutil.which(PROGRAMS[0])] if found]
    for folder in candidates:
        if all(os.access(folder / program, os.X_OK) for program in PROGRAMS):
            return folder
    raise StartupError(
        f"the programs {' and '.join(PROGRAMS)} are not installed: not in {candidates[0]}",
        "install llama-orch as a package: uv tool install, pipx install or pip install; a checkout: make demo",
        EXIT_FAILURE,
    )


def _read(path: Path) -> Found:
    if path.is_symlink():
        return Found(link=str(path.readlink()))
    try:
        return Found(text=path.read_text(encoding="utf-8", errors="replace"))
    except OSError:  # a folder of that name, or nothing for us to read: not one of ours
        return Found()


def _refused(path: Path, error: OSError) -> StartupError:
    return StartupError(f"{path}: {error.strerror or error}", where_to_look(path.parent, error), EXIT_FAILURE)
