"""``llama-orch version``: what is installed here. Decides nothing."""

from __future__ import annotations

import platform

from daemon_core.version import version as installed
from llama_orch.commands.options import JsonOption
from llama_orch.output import Output
from llama_orch.shipped import EXAMPLES, UNITS, shipped


def version(*, as_json: JsonOption = False) -> None:
    """Show the version of this program."""
    out = Output(as_json=as_json)
    out.line(f"llama-orch {installed()} (Python {platform.python_version()})")
    places = {"units": str(shipped(UNITS)), "examples": str(shipped(EXAMPLES))}
    out.data({"version": installed(), "python": platform.python_version()} | places)
