"""Who we are to a registry: what the login files of podman and docker hold, and what a registry asks for.

Decides which entry of those files belongs to a repository, and how a registry's challenge reads. Never reads a file and
never runs a credential helper: a program named in a file that other programs write is not ours to start.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec

HUB = "docker.io"
HUB_SERVER = "registry-1.docker.io"
"""Where the registry that people call docker.io answers."""
MAX_FILE_BYTES = 1 << 20
MAX_CHALLENGE = 4096
"""Characters of a challenge that are looked at."""

_HUB_NAMES = frozenset({HUB, HUB_SERVER, "index.docker.io"})
_SCHEME = re.compile(r"^https?://")
_PARAMETER = re.compile(r'(?P<key>[A-Za-z]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,]+))')
_CHALLENGE = re.compile(r"\s*(?P<scheme>[A-Za-z]+)(?:\s+(?P<rest>.*))?", re.DOTALL)


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A user name with its password, or why there is none although somebody logged in. Shows no secret."""

    user: str = ""
    password: str = ""
    problem: str | None = None
    """What keeps a login that is there from being used, for people."""

    def __repr__(self) -> str:
        return f"Login(user={self.user!r}, problem={self.problem!r})"


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry wants to see: ``scheme`` is ``basic`` or ``bearer``; ``realm`` is where tokens are had."""

    scheme: str
    realm: str = ""


class _Entry(msgspec.Struct, frozen=True):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None


class _File(msgspec.Struct, frozen=True, rename={"helpers": "credHelpers", "store": "credsStore"}):
    auths: dict[str, Any] | None = None
    helpers: dict[str, str] | None = None
    store: str | None = None


def server_of(registry: str) -> str:
    """The host that answers for a registry."""
    return HUB_SERVER if registry == HUB else registry


def login_files(environ: Mapping[str, str]) -> tuple[PurePosixPath, ...]:
    """Where podman and docker keep logins, in the order in which podman looks."""
    home = environ.get("HOME", "")
    config = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    docker = environ.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    found = [environ.get("REGISTRY_AUTH_FILE", "")]
    found += [f"{runtime}/containers/auth.json"] if runtime else []
    found += [f"{config}/containers/auth.json"] if config else []
    found += [f"{docker}/config.json"] if docker else []
    return tuple(PurePosixPath(path) for path in found if path.startswith("/"))


def login_for(files: Iterable[tuple[str, bytes]], registry: str, repository: str) -> Login | None:
    """The login for a repository in these files, given as (name, content): of the first file that knows it.

    The entry of the narrowest namespace counts. None where nobody logged in.
    """
    problem: Login | None = None
    for name, content in files:
        try:
            file = msgspec.json.decode(content, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            problem = problem or Login(problem=f"{name} cannot be read as a login file")
            continue
        found = _in_file(name, file, registry, repository)
        if found is not None and found.problem is None:
            return found
        problem = problem or found
    return problem


def _in_file(name: str, file: _File, registry: str, repository: str) -> Login | None:
    entries = {_normal(key): value for key, value in (file.auths or {}).items()}
    for key in _keys(registry, repository):
        if key not in entries:
            continue
        login = _login(name, entries[key])
        if login is not None:
            return login
    helpers = {_normal(key): helper for key, helper in (file.helpers or {}).items()}
    helper = next((helpers[key] for key in _keys(registry, repository) if key in helpers), file.store)
    if helper:
        return Login(problem=f"{name} keeps logins in the credential helper {helper!r}, which is not asked")
    return None


def _login(name: str, value: object) -> Login | None:
    try:
        entry = msgspec.convert(value, _Entry)
    except msgspec.ValidationError:
        return Login(problem=f"{name} has an entry for the registry that cannot be read")
    if entry.username and entry.password:
        return Login(user=entry.username, password=entry.password)
    if entry.auth:
        try:
            user, colon, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            colon = user = password = ""
        if not colon or not user or not _sendable(user + password):
            return Login(problem=f"{name} has an entry for the registry that cannot be read")
        if password:
            return Login(user=user, password=password.rstrip("\0"))
    if entry.identitytoken:
        return Login(problem=f"{name} has an identity token for the registry, which is not supported")
    return None  # a name alone: the password is in a helper


def _sendable(text: str) -> bool:
    return not re.search(r"[\r\n]", text)


def _keys(registry: str, repository: str) -> Iterable[str]:
    """The registry with the repository, with each of its namespaces, and alone, as login files name them."""
    names = [HUB, "index.docker.io"] if registry in _HUB_NAMES else [registry]
    segments = repository.split("/")
    for count in range(len(segments), -1, -1):
        for name in names:
            yield "/".join([name, *segments[:count]])


def _normal(key: str) -> str:
    bare = _SCHEME.sub("", key).rstrip("/")
    host, slash, rest = bare.partition("/")
    # What docker writes are addresses of an API, not namespaces.
    return host if rest in {"v1", "v2"} else f"{host}{slash}{rest}"


def challenge_of(header: str | None) -> Challenge | None:
    """What ``WWW-Authenticate`` asks for; None where it is nothing that is known here."""
    match = _CHALLENGE.fullmatch((header or "")[:MAX_CHALLENGE])
    if match is None:
        return None
    scheme = match["scheme"].lower()
    given = {
        found["key"].lower(): found["quoted"] if found["quoted"] is not None else found["bare"]
        for found in _PARAMETER.finditer(match["rest"] or "")
    }
    if scheme == "basic":
        return Challenge(scheme=scheme)
    if scheme == "bearer" and given.get("realm"):
        return Challenge(scheme=scheme, realm=given["realm"])
    return None
