"""What any client can have of a task for its proof: over the API, with the token.

Decides what is left out, and why: what would show a secret, and what the daemon has let go. Never changes the bytes of
a receipt, which are what the proof hangs on.
"""

from __future__ import annotations

import hashlib

import msgspec

from contracts.artifacts import Artifact
from contracts.errors import ErrorCode
from contracts.events import Token
from contracts.receipts import Receipt
from daemon_core.chain import line_of
from daemon_core.errors import StartupError
from daemon_core.redaction import Redactor
from llama_orch.client import ApiClient
from llama_orch.errors import ApiError
from llama_orch.proof import manifest as names
from llama_orch.receipt_chain import copy_of, receipt_number, receipt_of
from llama_orch.sse import SseParser

MAX_CHAIN_BYTES = 16 << 20
MAX_STREAM_BYTES = 32 << 20
NO_SLOT = "the task never got a slot: no pool served it"


class Collected:
    """The files of a proof while they come, and why others do not."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor
        self.files: dict[str, bytes] = {}
        self.missing: dict[str, str] = {}

    def raw(self, name: str, data: bytes) -> None:
        """A file as it is."""
        self.files[name] = data

    def document(self, name: str, value: object) -> None:
        """A value as JSON that people can read, without secrets."""
        clean = self.redactor.value(msgspec.to_builtins(value))
        self.files[name] = msgspec.json.format(msgspec.json.encode(clean), indent=1) + b"\n"

    def lacks(self, why: str, *which: str) -> None:
        """Why some files are not there."""
        self.missing |= dict.fromkeys(which, self.redactor.text(why))


async def gather(client: ApiClient, artifact: Artifact, neighbours: int, into: Collected) -> Receipt:
    """All that the API tells of a task and its surroundings; the answer is its receipt.

    Raises ApiError where the daemon cannot be asked, and StartupError where the receipt itself has a secret in it.
    """
    receipt, content = receipt_of(artifact), bytes(artifact.content)
    if _leaks(content, into.redactor):
        text = (
            f"the receipt {artifact.id} has a secret of this machine in it, and nothing can be taken out of a receipt"
        )
        raise StartupError(text, "a proof of it cannot be handed to anybody; ask again without that text")
    into.raw(names.RECEIPT, content)
    into.raw(names.REQUEST, bytes(receipt.request))
    _transcript(receipt, into)
    await _chain(client, receipt, neighbours, into)
    await _stream(client, receipt, into)
    await _status(client, receipt, into)
    into.document(names.CAPABILITIES, await client.capabilities())
    await _pool(client, receipt, into)
    await _model(client, receipt, into)
    return receipt


def _leaks(data: bytes, redactor: Redactor) -> bool:
    """Whether a secret that is known here stands in it; what only looks like one was the daemon's to take out."""
    text = data.decode()
    return redactor.prose(text) != text


def _transcript(receipt: Receipt, into: Collected) -> None:
    if receipt.transcript is None:
        into.lacks("the answer was too long for its receipt", names.TRANSCRIPT)
    else:
        into.raw(names.TRANSCRIPT, receipt.transcript.encode())


async def _chain(client: ApiClient, receipt: Receipt, neighbours: int, into: Collected) -> None:
    """The receipt before, its own, and so many after it. One with a secret of this machine ends the stretch."""
    first, last = receipt.number - bool(neighbours), receipt.number + neighbours
    lines: list[bytes] = []
    after = max(0, first - 1)
    while after < last and (found := (await client.receipts(after, last - after)).receipts):
        for each in found:
            after = receipt_number(each)
            line = line_of(copy_of(each)) + b"\n"
            if after > last or not _may_stand(line, after, receipt, into, lines):
                after = last
                break
    into.raw(names.CHAIN, b"".join(lines))


def _may_stand(line: bytes, number: int, receipt: Receipt, into: Collected, lines: list[bytes]) -> bool:
    """Add a receipt to the stretch, unless it has a secret in it or is too much; False where the stretch ends."""
    kept = number == receipt.number or (
        not _leaks(line, into.redactor) and sum(map(len, lines)) + len(line) <= MAX_CHAIN_BYTES
    )
    if kept:
        lines.append(line)
    return kept or number < receipt.number


async def _stream(client: ApiClient, receipt: Receipt, into: Collected) -> None:
    try:
        stream = await client.stream_bytes(receipt.task_id, MAX_STREAM_BYTES)
    except ApiError as error:
        if error.code != ErrorCode.NOT_FOUND:
            raise
        into.lacks("the daemon does not keep it any more", names.STREAM)
        return
    if stream is None:
        into.lacks(f"it is longer than {MAX_STREAM_BYTES >> 20} MiB", names.STREAM)
        return
    text = "".join(event.t for event in SseParser().feed(stream) if isinstance(event, Token))
    raw, redactor = stream.decode(), into.redactor
    if hashlib.sha256(text.encode()).hexdigest() != receipt.stream_sha256:
        into.lacks("the daemon keeps the stream of another task under this id", names.STREAM)
    elif _masked(receipt) or redactor.text(text) != text or redactor.text(raw) != raw:
        into.lacks("a secret stands in it, and it would not be the stream without", names.STREAM)
    else:
        into.raw(names.STREAM, stream)


def _masked(receipt: Receipt) -> bool:
    """Whether a secret was taken out of the answer."""
    text = receipt.transcript
    return receipt.redacted and (text is None or hashlib.sha256(text.encode()).hexdigest() != receipt.stream_sha256)


async def _status(client: ApiClient, receipt: Receipt, into: Collected) -> None:
    try:
        into.document(names.TASK, await client.task(receipt.task_id))
    except ApiError as error:
        if error.code != ErrorCode.NOT_FOUND:
            raise
        into.lacks("the daemon does not keep the task any more", names.TASK)


async def _pool(client: ApiClient, receipt: Receipt, into: Collected) -> None:
    if receipt.engine is None:
        into.lacks(NO_SLOT, names.POOL)
        return
    try:
        into.document(names.POOL, await client.pool_health(receipt.engine.pool_id))
    except ApiError as error:
        if error.code != ErrorCode.NOT_FOUND:
            raise
        into.lacks(f"the daemon has no pool {receipt.engine.pool_id} any more", names.POOL)


async def _model(client: ApiClient, receipt: Receipt, into: Collected) -> None:
    """The catalog's entry of the model that served: found by its digest, which says that it is that one."""
    if receipt.engine is None:
        into.lacks(NO_SLOT, names.MODEL)
        return
    digest = receipt.engine.model_digest
    try:
        models = (await client.models()).models
    except ApiError as error:
        into.lacks(f"the catalog cannot be asked: {error.message}", names.MODEL)
        return
    found = [each for each in models if digest is not None and each.digest == digest]
    found.sort(key=lambda each: each.id != receipt.engine.model_id)  # type: ignore[union-attr]
    if found:
        into.document(names.MODEL, found[0])
    else:
        into.lacks(f"no model of the catalog has the digest {digest}", names.MODEL)
