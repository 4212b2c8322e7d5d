"""A small proof that is whole."""

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from contracts.artifacts import canonical
from contracts.events import Token
from contracts.examples.receipts import RECEIPT
from contracts.receipts import Receipt
from daemon_core.chain import Copy, line_of
from llama_orch.proof import manifest as names
from llama_orch.proof.manifest import Manifest, Missing, infos
from tests.unit.llama_orch.fake import frame

PIECES = ("My", " mind", " is")


def id_of(receipt: Receipt) -> str:
    return names.id_of(canonical(receipt))


def line(receipt: Receipt) -> bytes:
    return line_of(Copy(id=id_of(receipt), receipt=msgspec.Raw(canonical(receipt)))) + b"\n"


def stream_of(*pieces: str) -> bytes:
    tokens = (frame("token", Token(t=text, i=i), i) for i, text in enumerate(pieces))
    return b": ping\n\n" + b"".join(tokens)


def contents(receipt: Receipt = RECEIPT) -> dict[str, bytes]:
    """All files but the manifest."""
    after = replace(RECEIPT, number=receipt.number + 1, previous=id_of(receipt), task_id="poem-2")
    files = dict.fromkeys(names.NAMES, b"{}\n")
    return files | {
        names.RECEIPT: canonical(receipt),
        names.CHAIN: line(receipt) + line(after),
        names.REQUEST: bytes(receipt.request),
        names.TRANSCRIPT: (receipt.transcript or "").encode(),
        names.STREAM: stream_of(*PIECES),
        names.TASK: b'{"task_id": "%s"}\n' % receipt.task_id.encode(),
    }


def sealed(
    files: Mapping[str, bytes], receipt: Receipt = RECEIPT, missing: tuple[Missing, ...] = (), **more: str
) -> dict[str, bytes]:
    """The files with a manifest that fits them."""
    manifest = Manifest(
        task_id=receipt.task_id,
        job_id=receipt.job_id,
        receipt_id=id_of(receipt),
        made_ms=1_796_000_000_000,
        made_by="0",
        files=infos(files),
        missing=missing,
    )
    return {**files, names.MANIFEST: names.encoded(replace(manifest, **more))}
