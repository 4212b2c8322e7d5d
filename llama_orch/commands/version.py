"""``llama-orch version``: what is installed here. Decides nothing."""

from __future__ import annotations

import platform

from daemon_core.version import version as installed
from llama_orch.commands.options import JsonOption
from llama_orch.output import Output


def version(*, as_json: JsonOption = False) -> None:
    """Show the version of this program."""
    out = Output(as_json=as_json)
    out.line(f"llama-orch {installed()} (Python {platform.python_version()})")
    out.data({"version": installed(), "python": platform.python_version()})
