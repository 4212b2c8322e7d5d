"""Where the daemon is and how this user may talk to it, found without being asked.

Decides the order of the places. A token never comes from the command line, where every user of the machine can read it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from contracts.base import Message
from contracts.config import Auth, Config, split_bind
from daemon_core import config_file
from daemon_core.paths import default_config_path
from daemon_core.token import ApiToken, find_token
from llama_orch.client import ApiClient

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

    def client(self) -> ApiClient:
        """A client for this daemon."""
        return ApiClient(self.url, None if self.token is None else self.token.value)


def find_session(config_path: Path | None, url: str | None, environ: Mapping[str, str] | None = None) -> Session:
    """Look for configuration, token and URL: the options, then the environment, then the files.

    Raises ConfigFileError or TokenError, where a file is there and cannot be used, or was named and is not there.
    """
    environ = os.environ if environ is None else environ
    path = config_path or default_config_path(environ)
    config = config_file.load(path) if config_path is not None or path.exists() else None
    token = find_token(config.auth if config else Auth(), environ, path.parent)
    return Session(
        config_path=path,
        config=config,
        token=token,
        url=url or environ.get(URL_VARIABLE) or (url_of(config.server.bind) if config else DEFAULT_URL),
    )


def url_of(bind: str) -> str:
    """The URL under which this machine reaches a listener."""
    host, port = split_bind(bind) or ("127.0.0.1", 8080)
    host = _ANY.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
