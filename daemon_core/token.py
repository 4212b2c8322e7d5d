"""The one token of this installation: where it comes from, and that nobody else can read it.

Decides the order of the places and refuses a file that others may read. Never logs a token: its origin and fingerprint
are for that.
"""

from __future__ import annotations

import codecs
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from contracts import config
from contracts.base import Message
from daemon_core.errors import TokenError
from daemon_core.paths import expand, home_dir
from daemon_core.redaction import fingerprint

VARIABLE = "LLORCH_API_TOKEN"
FILE_VARIABLE = "LLORCH_API_TOKEN_FILE"
FILE_NAME = "api-token"
_MAX_BYTES = 4096


class ApiToken(Message, frozen=True, kw_only=True):
    """A token and where it was found."""

    value: str
    source: str

    @property
    def fingerprint(self) -> str:
        """What a log may say of it."""
        return fingerprint(self.value)

    def __repr__(self) -> str:
        return f"ApiToken(source={self.source!r}, fingerprint={self.fingerprint!r})"


def find_token(auth: config.Auth, environ: Mapping[str, str], config_dir: Path) -> ApiToken | None:
    """The token, or None where there is none.

    The first of these counts: LLORCH_API_TOKEN, the file that LLORCH_API_TOKEN_FILE names,
    ``$CREDENTIALS_DIRECTORY/api-token``, ``auth.token_file`` (``~`` is expanded, a relative path counts from
    ``config_dir``), ``config_dir/api-token``.

    Raises TokenError for a file that others may read, that is missing though configured, or that holds no token.
    """
    if environ.get(VARIABLE):
        return _checked(environ[VARIABLE], f"the environment variable {VARIABLE}")
    if environ.get(FILE_VARIABLE):
        return _from_file(expand(environ[FILE_VARIABLE], home_dir(environ)))
    if environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(environ["CREDENTIALS_DIRECTORY"]) / FILE_NAME
        # An empty one stands for a file that is not there: LoadCredential= alone would fail without it.
        if credential.is_file() and _read(credential).strip():
            # systemd made it readable for this unit alone, by means that its mode bits do not show.
            return _checked(_read(credential), f"the systemd credential {FILE_NAME}")
    if auth.token_file is not None:
        path = config_dir / expand(auth.token_file, home_dir(environ))
        if not path.exists():
            hint = f"create it (llama-orch init does), or set {VARIABLE}"
            raise TokenError(f"auth.token_file: {path} does not exist", hint)
        return _from_file(path)
    default = config_dir / FILE_NAME
    return _from_file(default) if default.exists() else None


def create_token_file(path: Path) -> ApiToken:
    """Draw a new token and write it to a new file that only this user can read.

    Raises FileExistsError rather than replace a token that clients may be using.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    value = secrets.token_urlsafe(32)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(value + "\n")
    except OSError:  # a full disk: an empty token would stop the daemon later, and say less
        path.unlink(missing_ok=True)
        raise
    return ApiToken(value=value, source=str(path))


def _from_file(path: Path) -> ApiToken:
    try:
        status = path.stat()
    except OSError as error:
        raise TokenError(f"cannot read the token file {path}: {error.strerror}", f"ls -l {path}") from error
    if stat.S_ISDIR(status.st_mode):
        raise TokenError(f"the token file {path} is a directory", "name the file that holds the token")
    if status.st_mode & 0o077:
        mode = f"{status.st_mode & 0o777:04o}"
        raise TokenError(f"the token file {path} can be used by others (mode {mode})", f"chmod 600 {path}")
    if status.st_uid not in {0, os.geteuid()}:
        hint = f"chown {os.geteuid()} {path}"
        raise TokenError(f"the token file {path} belongs to another user ({status.st_uid})", hint)
    return _checked(_read(path), str(path))


def _read(path: Path) -> str:
    """What stands there, without the byte order mark that some editors put before it."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1).removeprefix(codecs.BOM_UTF8).decode("ascii")
    except OSError as error:
        raise TokenError(f"cannot read the token file {path}: {error.strerror}", f"ls -l {path}") from error
    except UnicodeDecodeError:
        raise TokenError(f"{path} holds no token", "one line of printable ASCII without blanks") from None


def _checked(text: str, source: str) -> ApiToken:
    """The token without the line break that editors add; it must fit into one HTTP header."""
    value = text.strip()
    if not value:
        raise TokenError(f"{source} holds an empty token", "remove it, and llama-orch init makes a new one")
    if len(value) > _MAX_BYTES or not value.isascii() or not value.isprintable() or " " in value:
        raise TokenError(f"{source} holds no token", "one line of printable ASCII without blanks")
    return ApiToken(value=value, source=source)
