"""Where the daemon is and how this user may talk to it, found without being asked.

Decides the order of the places. A token never comes from the command line, where every user of the machine can read it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from contracts.base import Message
from contracts.config import Auth, Config, split_bind
from daemon_core import config_file
from daemon_core.errors import EXIT_USAGE, StartupError
from daemon_core.paths import default_config_path, expand, home_dir
from daemon_core.token import FILE_VARIABLE, ApiToken, find_token
from llama_orch.client import ApiClient
from llama_orch.environment import CA_VARIABLE
from llama_orch.reach import START_HINT, start_hint, trusting, trusting_own

URL_VARIABLE = "LLORCH_URL"
DEFAULT_URL = "http://127.0.0.1:8080"
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


class Session(Message, frozen=True, kw_only=True):
    """The result of looking around."""

    config_path: Path
    config: Config | None
    """None where there is no configuration file, which another machine's client need not have."""
    token: ApiToken | None
    url: str
    authorities: Path | None = None
    """Whose certificates are believed, beside the system's: LLORCH_CA_FILE."""
    start: str = START_HINT
    """What starts the daemons of this machine."""

    @property
    def url_is_own(self) -> bool:
        """Whether it is the daemon of this very configuration that is asked."""
        return self.config is not None and self.url == own_url(self.config)

    def client(self) -> ApiClient:
        """A client for this daemon. Raises StartupError where what proves the daemon cannot be read."""
        token = None if self.token is None else self.token.value
        return ApiClient(self.url, token, trusted=self._trusted(), start=self.start)

    def _trusted(self) -> ssl.SSLContext | None:
        if self.authorities is None and self.config is not None and self.url_is_own:
            return trust_in_own(self.config, self.config_path.parent)
        return trusting(self.authorities)


def find_session(config_path: Path | None, url: str | None, environ: Mapping[str, str] | None = None) -> Session:
    """Look for configuration, token and URL: the options, then the environment, then the files.

    Raises ConfigFileError or TokenError, where a file is there and cannot be used, or was named and is not there, and
    StartupError for a URL that names no daemon.
    """
    environ = os.environ if environ is None else environ
    path = config_path or default_config_path(environ)
    config = config_file.load(path) if config_path is not None or path.exists() else None
    token = find_token(config.auth if config else Auth(), environ, path.parent)
    authorities = environ.get(CA_VARIABLE)
    given = url or environ.get(URL_VARIABLE)
    return Session(
        config_path=path,
        config=config,
        token=token,
        url=_checked(given) if given else (own_url(config) if config else DEFAULT_URL),
        authorities=expand(authorities, home_dir(environ)) if authorities else None,
        # Who names a daemon and has no configuration is its client, and starts none.
        start=start_hint(configured=config is not None or bool(given), environ=environ),
    )


def _checked(given: str) -> str:
    """The URL that somebody typed. Raises StartupError where it is none, or holds what others would get to see."""
    try:
        parts = urlsplit(given)
        port, host = parts.port, parts.hostname
    except ValueError:
        parts, port, host = urlsplit(""), None, None
    if parts.username is not None or parts.password is not None:  # it stands in the process list, and is no token
        text = "the URL holds a name or a password, and llama-orch asks for a token alone"
        hint = f"leave out what stands before the @; {FILE_VARIABLE} names the file of the token"
        raise StartupError(text, hint, EXIT_USAGE)
    if parts.scheme not in {"http", "https"} or not host or port == 0 or parts.query or parts.fragment:
        text = f"{given!r} is no URL of a daemon"
        raise StartupError(text, "such as https://workstation.lan:8080, or http:// where it has no TLS", EXIT_USAGE)
    whole = given.rstrip("/")
    if parts.path.rstrip("/").endswith("/v1"):  # as programs for other servers want it
        text = f"{given!r} names a part of the API, and llama-orch adds that by itself"
        raise StartupError(text, f"leave /v1 out: {whole.removesuffix('/v1')}", EXIT_USAGE)
    return whole


def own_url(config: Config) -> str:
    """The URL under which this machine reaches the daemon of this configuration."""
    return url_of(config.server.bind, secure=config.server.tls is not None)


def trust_in_own(config: Config, config_dir: Path, environ: Mapping[str, str] | None = None) -> ssl.SSLContext | None:
    """What believes the daemon of this configuration alone; None where it does without TLS. Raises StartupError."""
    if config.server.tls is None:
        return None
    home = home_dir(os.environ if environ is None else environ)
    return trusting_own(config_dir / expand(config.server.tls.cert_file, home))


def url_of(bind: str, *, secure: bool = False) -> str:
    """The URL under which this machine reaches a listener."""
    host, port = split_bind(bind) or ("127.0.0.1", 8080)
    host = _ANY.get(host, host)
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
