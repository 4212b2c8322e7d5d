"""``llama-orch proof``: all that shows how an answer came about, in one file, and whether such a file is whole."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.output import Output
from llama_orch.proof.archive import ArchiveError, unpack
from llama_orch.proof.making import make as make_proof
from llama_orch.proof.verify import Verdict, verify
from llama_orch.receipt_chain import receipt_id
from llama_orch.session import find_session

MAKE = "make"
MOST_NEIGHBOURS = 50


class ProofGroup(TyperGroup):
    """``proof TASK`` is short for ``proof make TASK``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own copy of click
        """Put the command in where a task was named instead."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = [MAKE, *args]
        return super().parse_args(ctx, args)


def make(
    name: Annotated[str, typer.Argument(metavar="TASK|JOB|RECEIPT", help="A task, its job, or its receipt.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to (default: ~/.local/share/llama-orch/proof/)."),
    ] = None,
    neighbours: Annotated[
        int,
        typer.Option(min=0, max=MOST_NEIGHBOURS, help="Receipts of other tasks after it, with one before it; 0: none."),
    ] = 8,
    keep: Annotated[
        bool, typer.Option("--keep", help="Have the daemon keep the manifest as an artifact, too.")
    ] = False,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Gather all that shows how an answer came about into one .tar.gz."""
    out = Output(as_json=as_json)
    session = find_session(config, url)
    made = asyncio.run(make_proof(session, name, output, url=url, neighbours=neighbours, keep=keep))
    out.data(made)
    out.line(f"{made.file}: {made.verdict.files} files of task {made.verdict.task_id}")
    _tell(out, made.verdict)
    if made.kept is not None:
        out.line(f"the manifest is kept as {made.kept.id}")
    return EXIT_FAILURE if made.verdict.faults else 0


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `llama-orch proof` wrote.")],
    *,
    expect: Annotated[
        str | None, typer.Option(metavar="ID", help="The id of its receipt or its manifest, as it was kept elsewhere.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Look whether a proof is whole, with no daemon; exit status 1 where it is not."""
    out = Output(as_json=as_json)
    wanted = None if expect is None else receipt_id(expect)
    if expect is not None and wanted is None:
        out.note(f"llama-orch: {expect!r} is no id: sha256: and 64 hexadecimal digits")
        return EXIT_USAGE
    try:
        with file.open("rb") as opened:
            files = unpack(opened)
    except ArchiveError as error:
        out.data({"error": {"message": f"{file}: {error}"}})
        out.line(f"{file} is no proof: {error}")
        return EXIT_FAILURE
    seen = verify(files, wanted)
    out.data(seen)
    if not seen.faults:
        out.line(f"the proof of task {seen.task_id} is whole: {seen.files} files")
    _tell(out, seen)
    return EXIT_FAILURE if seen.faults else 0


def group() -> typer.Typer:
    """The commands as a group of their own."""
    app = typer.Typer(
        cls=ProofGroup,
        help="Show how an answer came about: `proof TASK` makes a file, `proof verify FILE` checks it.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command(MAKE)(make)
    app.command("verify")(check)
    return app


def _tell(out: Output, seen: Verdict) -> None:
    for fault in seen.faults:
        out.line(f"wrong: {fault.name}: {fault.message}")
    for each in seen.missing:
        out.line(f"not in it: {each.name}: {each.why}")
    if seen.receipt_id is not None:
        out.line(f"its receipt is {seen.receipt_id}")
        out.line(f"its manifest is {seen.manifest_id}: keep one of the two elsewhere, and ask for it with --expect")
