"""The chain of receipts as a daemon or a file hands it out.

Decides how a receipt is found by what an operator knows of it. Reads a page at a time: a chain may be long.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path

import msgspec

from contracts.artifacts import ID_PREFIX, Artifact
from contracts.errors import ErrorCode
from contracts.receipts import Receipt, ReceiptPage
from daemon_core.chain import Chain, Copy, Verdict, read_line, verify
from llama_orch.client import ApiClient
from llama_orch.errors import ApiError

PAGE = 500
LARGEST = 2**63 - 1
"""No number is behind it."""
NONE = "there are no receipts yet: a task leaves one when it ends"
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def receipt_id(text: str) -> str | None:
    """An id with its prefix, from what somebody typed; None for what is none."""
    found = _DIGEST.fullmatch(text.strip())
    return None if found is None else ID_PREFIX + found[1]


def receipt_of(artifact: Artifact) -> Receipt:
    """What stands in a receipt. Raises ApiError for an artifact that is none."""
    try:
        return msgspec.json.decode(artifact.content, type=Receipt)
    except msgspec.DecodeError as error:
        text = f"{artifact.id} is no receipt of this version: {error}"
        raise ApiError(ErrorCode.NOT_FOUND, text, hint="GET /v1/artifacts/{id} shows what it is") from error


async def pages(client: ApiClient, after: int = 0) -> AsyncGenerator[ReceiptPage]:
    """The chain from behind this number on, to its end, or to a receipt that stands elsewhere than it says."""
    while True:
        page = await client.receipts(after, PAGE)
        yield page
        reached = receipt_number(page.receipts[-1]) if page.receipts else 0
        if not after < reached < LARGEST:
            return
        after = reached


async def newest(client: ApiClient, limit: int) -> list[Artifact]:
    """The newest receipts, newest first."""
    last = (await client.receipts(0, 1)).last
    found: list[Artifact] = []
    async with aclosing(pages(client, max(0, last - limit))) as read:
        async for page in read:
            found += page.receipts
    return found[::-1][:limit]


async def find(client: ApiClient, name: str) -> Artifact:
    """The receipt of an id, of a task or of a place in the chain. Raises ApiError."""
    known = receipt_id(name)
    if known is not None:
        return await client.artifact(known)
    try:
        status = await client.task(name)
    except ApiError as error:
        if error.code != ErrorCode.NOT_FOUND:
            raise
        found = await _at(client, int(name)) if _is_number(name) else await _of_task(client, name)
        if found is None:
            raise
        return found
    if status.artifact_id is not None:
        return await client.artifact(status.artifact_id)
    if status.state in {"queued", "running"}:
        raise ApiError(ErrorCode.NOT_FOUND, f"task {name!r} is {status.state}: its receipt comes with its end")
    hint = "artifacts.records of the configuration says whether tasks leave receipts"
    raise ApiError(ErrorCode.NOT_FOUND, f"task {name!r} left no receipt", hint=hint)


async def look_through(client: ApiClient, expected: str | None) -> Verdict:
    """Whether the whole chain of a daemon holds."""
    chain: Chain | None = None
    page = ReceiptPage(receipts=(), first=None, last=0)
    async with aclosing(pages(client)) as read:
        async for page in read:
            chain = chain or Chain(page.first, expected)
            for artifact in page.receipts:
                chain.take(copy_of(artifact))
    return (chain or Chain(expected=expected)).verdict(page.last)


def look_through_file(lines: Iterable[bytes], expected: str | None) -> Verdict:
    """Whether what was exported holds."""
    return verify((read_line(line.removesuffix(b"\n")) for line in lines), expected=expected)


def copy_of(artifact: Artifact) -> Copy:
    """A receipt as it is handed on."""
    return Copy(id=artifact.id, receipt=artifact.content)


def receipt_number(artifact: Artifact) -> int:
    """Its place in the chain, as it says itself; 0 where it says none."""
    try:
        return msgspec.json.decode(artifact.content, type=_Numbered).number
    except msgspec.DecodeError:
        return 0


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= len(str(LARGEST)) and 0 < int(name) <= LARGEST


async def _at(client: ApiClient, number: int) -> Artifact:
    """The one in this place. Raises ApiError where the chain has none there."""
    page = await client.receipts(number - 1, 1)
    for each in page.receipts:
        if receipt_number(each) == number:
            return each
    has = NONE if page.first is None else f"the chain has {page.first.number} to {page.last}"
    raise ApiError(ErrorCode.NOT_FOUND, f"there is no receipt {number}", hint=has)


async def _of_task(client: ApiClient, name: str) -> Artifact | None:
    """One that the chain has although its task is forgotten."""
    async with aclosing(pages(client)) as read:
        async for page in read:
            for each in page.receipts:
                if _task_of(each) == name:
                    return each
    return None


class _Numbered(msgspec.Struct):
    number: int


class _Task(msgspec.Struct):
    task_id: str


def _task_of(artifact: Artifact) -> str | None:
    try:
        return msgspec.json.decode(artifact.content, type=_Task).task_id
    except msgspec.DecodeError:
        return None


def open_lines(path: Path) -> Iterable[bytes]:
    """The lines of a file, as they are read. Raises OSError."""
    with path.open("rb") as file:
        yield from file
