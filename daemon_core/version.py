"""The version of this product. Decides nothing: the packaging metadata does."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

DISTRIBUTION = "llama-orch"


def version() -> str:
    """The installed version; a checkout that was never installed has none of its own."""
    try:
        return installed_version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0+checkout"
