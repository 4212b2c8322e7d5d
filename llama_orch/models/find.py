"""Whose models are meant: this machine's, unless the options or the environment name another machine's daemon.

Decides by the URL alone. One that is this configuration's own means this machine, whose files need no daemon.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from daemon_core import config_file
from llama_orch.models.here import HereShelf
from llama_orch.models.remote import RemoteShelf
from llama_orch.models.shelf import Shelf
from llama_orch.session import URL_VARIABLE, find_session, own_url


def find_shelf(config_path: Path | None, url: str | None, environ: Mapping[str, str] | None = None) -> Shelf:
    """The models that the options and the environment mean.

    Raises ConfigFileError, also where there is no configuration for this machine, and TokenError.
    """
    environ = os.environ if environ is None else environ
    session = find_session(config_path, url, environ)
    asked = (url or environ.get(URL_VARIABLE) or "").rstrip("/")
    if asked and (session.config is None or asked != own_url(session.config)):
        return RemoteShelf(session)
    config = session.config or config_file.load(session.config_path)
    return HereShelf(config, session, environ)
