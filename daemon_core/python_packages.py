"""What adds a Python package to the environment that this program runs in.

Decides the words of the mend. Never runs it, and never names llama-orch itself: where that came from, an index need not
know.
"""

from __future__ import annotations

import shlex
import sys


def install_hint(package: str) -> str:
    """The command for an environment with pip, and for one without, as uv makes them."""
    python, wanted = shlex.quote(sys.executable), shlex.quote(package)
    return f"{python} -m pip install {wanted}; where that has no pip: uv pip install --python {python} {wanted}"
