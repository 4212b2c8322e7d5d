"""``llama-orch receipts``: what made an answer, and whether the chain of all answers holds."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from contracts.artifacts import Artifact
from daemon_core.chain import Copy, Verdict, line_of, verify
from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE
from llama_orch import receipt_chain as chain
from llama_orch import receipt_words as words
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.errors import ApiError
from llama_orch.output import Output
from llama_orch.session import Session, find_session

STANDARD = Path("-")

FileOption = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="What was exported, instead of a daemon; - reads it.")
]
ExpectOption = Annotated[
    str | None, typer.Option("--expect", metavar="ID", help="An id that was kept elsewhere must be in the chain.")
]


def listed(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List receipts, newest first."""
    found = asyncio.run(_newest(find_session(config, url), limit))
    out = Output(as_json=as_json)
    out.data({"receipts": found})
    out.table(words.COLUMNS, [_row(each) for each in found], chain.NONE)


def show(
    name: Annotated[str, typer.Argument(metavar="TASK|ID|NUMBER", help="A task, a receipt's id, or its number.")],
    *,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show what was asked, who served it, with what, and what came."""
    found = asyncio.run(_find(find_session(config, url), name))
    receipt = chain.receipt_of(found)
    out = Output(as_json=as_json)
    out.data(found)
    out.line(f"receipt {receipt.number}, {found.id}")
    facts = words.facts(receipt)
    width = max(len(label) for label, _ in facts)
    for label, value in facts:
        first, *more = value.splitlines() or [""]
        out.line(f"  {label:<{width}}  {first}".rstrip())
        for line in more:
            out.line(f"  {'':<{width}}  {line}".rstrip())
    for note in words.notes(receipt):
        out.line(f"  note: {note}")
    if _is_whole(found):
        return 0
    out.note("llama-orch: what stands in it does not have this id: it was changed")
    return EXIT_FAILURE


def export(
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of standard output.")
    ] = None,
    after: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Only those behind this number.")] = 0,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write receipts as lines of JSON, oldest first, as `receipts verify --file` reads them."""
    session = find_session(config, url)
    if output is None or output == STANDARD:
        asyncio.run(_export(session, sys.stdout.buffer, after))
        return
    with _written(output) as file:
        count = asyncio.run(_export(session, file, after))
    out = Output(as_json=as_json)
    out.data({"exported": count, "file": str(output)})
    out.line(f"{count} receipts in {output}" if count else f"{chain.NONE}; {output} is empty")


def check(
    *,
    file: FileOption = None,
    expect: ExpectOption = None,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Look whether every receipt is as it was sealed, and none is missing; exit status 1 where not."""
    out = Output(as_json=as_json)
    wanted = None if expect is None else chain.receipt_id(expect)
    if expect is not None and wanted is None:
        out.note(f"llama-orch: {expect!r} is no id of a receipt: sha256: and 64 hexadecimal digits")
        return EXIT_USAGE
    seen = _look_at(file, wanted) if file is not None else asyncio.run(_verify(find_session(config, url), wanted))
    out.data(seen)
    for line in words.break_lines(seen.breaks):
        out.line(line)
    out.line(chain.NONE if seen.first is None and not seen.breaks and file is None else words.verdict_line(seen))
    if seen.breaks:
        return EXIT_FAILURE
    if seen.first not in {None, 1}:
        out.line("those before were let go, or left out")
    if seen.last_id is not None:
        out.line(f"the newest is {seen.last_id}: keep it elsewhere, and ask for it with --expect")
    return 0


def group() -> typer.Typer:
    """The commands as a group of their own."""
    app = typer.Typer(help="Show, export and verify receipts.", no_args_is_help=True, rich_markup_mode=None)
    for name, command in (("list", listed), ("show", show), ("export", export), ("verify", check)):
        app.command(name)(command)
    return app


def _row(artifact: Artifact) -> tuple[object, ...]:
    """One that cannot be read hides none of the others."""
    try:
        return words.row(artifact.id, chain.receipt_of(artifact))
    except ApiError:
        blank = len(words.COLUMNS) - 3
        return (chain.receipt_number(artifact), "(no receipt)", *([None] * blank), artifact.id)


async def _newest(session: Session, limit: int) -> list[Artifact]:
    async with session.client() as client:
        return await chain.newest(client, limit)


async def _find(session: Session, name: str) -> Artifact:
    async with session.client() as client:
        return await chain.find(client, name)


async def _export(session: Session, file: BinaryIO, after: int) -> int:
    count = 0
    async with session.client() as client, aclosing(chain.pages(client, after)) as read:
        async for page in read:
            file.writelines(line_of(chain.copy_of(each)) + b"\n" for each in page.receipts)
            count += len(page.receipts)
    file.flush()
    return count


async def _verify(session: Session, expected: str | None) -> Verdict:
    async with session.client() as client:
        return await chain.look_through(client, expected)


def _look_at(file: Path, expected: str | None) -> Verdict:
    lines = sys.stdin.buffer if file == STANDARD else chain.open_lines(file)
    return chain.look_through_file(lines, expected)


def _is_whole(artifact: Artifact) -> bool:
    copy: Copy = chain.copy_of(artifact)
    return not verify([copy]).breaks


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file that is there as a whole or not at all, and readable by its owner alone: it has what people asked."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
