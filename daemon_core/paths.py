"""Where things are on this machine's disk: the XDG defaults and what the configuration puts in their place.

Decides names of directories and files. Creates one only in ``make_private_dir``, and never reads any.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from contracts import config
from contracts.base import Message
from daemon_core.errors import PathsError

APP = "llama-orch"


class Paths(Message, frozen=True, kw_only=True):
    """The four roots, and below them every place that more than one module must agree on."""

    cache: Path
    data: Path
    state: Path
    runtime: Path

    @classmethod
    def resolve(cls, overrides: config.Paths, environ: Mapping[str, str]) -> Paths:
        """The roots that hold for this user.

        Without XDG_RUNTIME_DIR (a shell from su or cron, a container) the runtime directory is ``run`` below the state
        directory: private as well, the same for every program of this user, and on a disk that exists. What is left in
        it after a crash is harmless, since pids are checked with their start time and a dead socket is replaced.

        Raises PathsError where an override is not absolute.
        """
        home = home_dir(environ)
        state = _override("state", overrides.state, home) or _xdg(environ, "XDG_STATE_HOME", home / ".local/state")
        runtime_root = environ.get("XDG_RUNTIME_DIR", "")
        runtime = Path(runtime_root) / APP if runtime_root.startswith("/") else state / "run"
        return cls(
            cache=_override("cache", overrides.cache, home) or _xdg(environ, "XDG_CACHE_HOME", home / ".cache"),
            data=_override("data", overrides.data, home) or _xdg(environ, "XDG_DATA_HOME", home / ".local/share"),
            state=state,
            runtime=_override("runtime", overrides.runtime, home) or runtime,
        )

    @property
    def models(self) -> Path:
        """Downloaded models."""
        return self.cache / "models"

    @property
    def catalog(self) -> Path:
        """``models.json`` and ``engines.json``."""
        return self.data / "catalog"

    @property
    def tasks_db(self) -> Path:
        """The record of tasks."""
        return self.data / "tasks.sqlite3"

    @property
    def artifacts(self) -> Path:
        """Content-addressed artifacts, a file each."""
        return self.data / "artifacts"

    @property
    def provenance(self) -> Path:
        """Where models and engines came from, as JSON lines."""
        return self.data / "provenance"

    @property
    def proof(self) -> Path:
        """Proofs of tasks, a file each."""
        return self.data / "proof"

    @property
    def logs(self) -> Path:
        """The engines' output, a file per pool."""
        return self.state / "logs"

    @property
    def handles(self) -> Path:
        """What a restarted pool manager needs to find its engines again."""
        return self.state / "handles"

    @property
    def prepared(self) -> Path:
        """The engine of each pool as it was prepared last, a file each."""
        return self.state / "prepared"

    @property
    def engines(self) -> Path:
        """The hand-off files of running engines."""
        return self.runtime / "engines"

    @property
    def socket(self) -> Path:
        """pool-managerd's Unix socket."""
        return self.runtime / "pool-managerd.sock"


def home_dir(environ: Mapping[str, str]) -> Path:
    """The user's home directory, from the environment or the user database."""
    home = environ.get("HOME", "")
    return Path(home if home.startswith("/") else pwd.getpwuid(os.getuid()).pw_dir)


def config_dir(environ: Mapping[str, str]) -> Path:
    """Where the configuration file and the token file are unless somebody says otherwise."""
    return _xdg(environ, "XDG_CONFIG_HOME", home_dir(environ) / ".config")


def default_config_path(environ: Mapping[str, str]) -> Path:
    """The configuration file of this user."""
    return config_dir(environ) / "config.yaml"


def user_units(environ: Mapping[str, str]) -> Path:
    """Where systemd looks for this user's own units."""
    return config_dir(environ).parent / "systemd" / "user"


def expand(text: str, home: Path) -> Path:
    """A path as people type it: ``~`` is the home directory."""
    return home / text[2:] if text.startswith("~/") else home if text == "~" else Path(text)


def make_private_dir(path: Path) -> Path:
    """Create a directory that only this user can enter, with its parents, and close one that stands open.

    Raises PathsError where that cannot be done.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        hint = f"make it possible for this user to create and own {path}, or set paths: in the configuration"
        raise PathsError(f"cannot use the directory {path}: {error.strerror}", hint) from error
    return path


def _xdg(environ: Mapping[str, str], variable: str, default: Path) -> Path:
    """The XDG base directory's part for us; a relative value is to be ignored, says the XDG specification."""
    value = environ.get(variable, "")
    return (Path(value) if value.startswith("/") else default) / APP


def _override(name: str, value: str | None, home: Path) -> Path | None:
    if value is None:
        return None
    path = expand(value, home)
    if not path.is_absolute():
        raise PathsError(f"paths.{name}: {value!r} is not absolute", "start it with / or ~/")
    return path
