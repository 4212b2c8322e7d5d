"""The receipt that is meant: of a daemon, or out of a file that was brought from another machine.

Decides which forms of a receipt are read: lines of ``receipts export``, what ``receipts show --json`` prints, and the
receipt alone, as a proof has it. Never takes one whose content does not have its id.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from contracts.artifacts import ID_PREFIX, Artifact, ArtifactKind, canonical
from contracts.errors import ErrorCode
from contracts.receipts import Receipt
from daemon_core.chain import Copy
from daemon_core.errors import StartupError
from llama_orch.client import ApiClient
from llama_orch.errors import ApiError
from llama_orch.receipt_chain import find, pages, receipt_id, receipt_of

FORMS = "it holds lines of `llama-orch receipts export`, or one receipt as `receipts show --json` or a proof has it"


async def find_receipt(client: ApiClient, name: str) -> Artifact:
    """The receipt of a task, a job, an id or a number. Raises ApiError, also where it was changed."""
    try:
        found = await find(client, name)
    except ApiError as error:
        of_job = await _of_job(client, name) if error.code == ErrorCode.NOT_FOUND else None
        if of_job is None:
            raise
        found = of_job
    return checked(found)


def receipt_in(path: Path, name: str | None) -> Artifact:
    """The receipt in a file; ``name`` chooses among several. Raises StartupError and OSError."""
    found = [_artifact(copy) for copy in _copies(path.read_bytes())]
    if not found:
        raise StartupError(f"there is no receipt in {path}", FORMS)
    meant = [each for each in found if name is None or name in _names(each)]
    if len(meant) == 1:
        return checked(meant[0])
    if not meant:
        raise StartupError(f"there is no receipt of {name!r} in {path}", f"it has {len(found)}; {FORMS}")
    raise StartupError(f"there are {len(meant)} receipts in {path}", "name the task, the receipt's id or its number")


def checked(artifact: Artifact) -> Artifact:
    """A receipt as it was sealed. Raises ApiError where it was changed since."""
    true_id = ID_PREFIX + hashlib.sha256(bytes(artifact.content)).hexdigest()
    if true_id != artifact.id:
        text = f"what stands in the receipt {artifact.id} has the id {true_id}: it was changed"
        raise ApiError(ErrorCode.NOT_FOUND, text, hint="llama-orch receipts verify says what else was")
    return artifact


async def _of_job(client: ApiClient, name: str) -> Artifact | None:
    async for page in pages(client):
        for each in page.receipts:
            if receipt_of(each).job_id == name:
                return each
    return None


def _copies(data: bytes) -> list[Copy]:
    """Every receipt in the content of a file, in whichever form."""
    try:
        whole = msgspec.json.decode(data, type=_Any)
    except msgspec.MsgspecError:
        lines = (line for line in data.splitlines() if line.strip())
        return [copy for line in lines if (copy := _copy(line)) is not None]
    copy = _copy(data)
    if copy is not None:
        return [copy]
    if bytes(whole.content) and whole.id is not None:  # an artifact, printed for people: written anew
        return [Copy(id=whole.id, receipt=msgspec.Raw(_canonical(bytes(whole.content))))]
    alone = _canonical(data)
    try:
        msgspec.json.decode(alone, type=Receipt)
    except msgspec.MsgspecError:
        return []
    return [Copy(id=ID_PREFIX + hashlib.sha256(alone).hexdigest(), receipt=msgspec.Raw(alone))]


class _Any(msgspec.Struct):
    id: str | None = None
    content: msgspec.Raw = msgspec.Raw()


def _copy(line: bytes) -> Copy | None:
    try:
        return msgspec.json.decode(line, type=Copy)
    except msgspec.MsgspecError:
        return None


def _canonical(data: bytes) -> bytes:
    return canonical(msgspec.json.decode(data))


def _artifact(copy: Copy) -> Artifact:
    content = bytes(copy.receipt)
    return Artifact(
        id=copy.id, kind=ArtifactKind.TRACE, created_ms=0, size_bytes=len(content), content=msgspec.Raw(content)
    )


def _names(artifact: Artifact) -> set[str]:
    receipt = receipt_of(artifact)
    known = receipt_id(artifact.id) or artifact.id
    return {receipt.task_id, receipt.job_id, str(receipt.number), known, known.removeprefix(ID_PREFIX)}
