"""``llama-orch replay``: ask a recorded request again, and say whether the same comes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.output import Output
from llama_orch.replay.asking import replay as ask_again
from llama_orch.replay.compare import Grade
from llama_orch.replay.finding import find_receipt, receipt_in
from llama_orch.replay.report import Report, lines
from llama_orch.session import Session, find_session


def replay(
    name: Annotated[
        str | None,
        typer.Argument(metavar="TASK|RECEIPT", help="A task or its job, a receipt's id or its number."),
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="The receipt is in this file, from another machine.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Ask this pool instead of the recorded one.")] = None,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Ask a recorded request again with its seed, and compare; exit status 0 where all bytes are the same."""
    out = Output(as_json=as_json)
    if name is None and file is None:
        out.note("llama-orch: name a task or a receipt, or a file that has one with --file")
        return EXIT_USAGE
    report = asyncio.run(_replay(find_session(config, url), name, file, pool))
    out.data(report)
    for line in lines(report):
        out.line(line)
    return 0 if report.grade is Grade.BIT_EXACT else EXIT_FAILURE


async def _replay(session: Session, name: str | None, file: Path | None, pool: str | None) -> Report:
    async with session.client() as client:
        found = receipt_in(file, name) if file is not None else await find_receipt(client, name or "")
        return await ask_again(client, found, pool, local=file is None)
