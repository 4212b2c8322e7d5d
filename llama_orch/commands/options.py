"""The options that every command has, and what a command does with them.

Decides their spelling only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.pools import MAX_DEADLINE_MS

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="Configuration file (default: ~/.config/llama-orch/config.yaml)."),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The daemon's URL (default: LLORCH_URL, else from the configuration)."),
]
DeadlineOption = Annotated[
    float,
    typer.Option(metavar="SECONDS", min=0, max=MAX_DEADLINE_MS // 1000, help="How long running tasks may go on."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
