"""Whether a proof is whole: every file as its manifest says, and the files true to one another.

Decides what is wrong, file by file, in words. The receipt is what holds it: its id is the sha256 of its bytes, and
request, transcript, stream and chain have to agree with it. Who may change a file may change the manifest, too: an id
that was kept elsewhere shows that, the receipt's or the manifest's. Values in, values out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from contracts.artifacts import ID_PREFIX, canonical
from contracts.base import Message
from contracts.events import Token
from contracts.receipts import Receipt
from daemon_core.chain import Copy, read_line
from daemon_core.chain import verify as verify_chain
from llama_orch.proof import manifest as names
from llama_orch.proof.manifest import Manifest, id_of
from llama_orch.sse import SseError, SseParser


class Fault(Message, frozen=True, kw_only=True):
    """One thing that is wrong."""

    name: str
    """The file."""
    message: str


class Verdict(Message, frozen=True, kw_only=True):
    """What a look at a proof showed."""

    task_id: str | None
    receipt_id: str | None
    manifest_id: str | None
    files: int
    """How many it has, the manifest left out."""
    missing: tuple[names.Missing, ...]
    """What it never had, as the manifest says."""
    faults: tuple[Fault, ...]


def verify(files: Mapping[str, bytes], expected: str | None = None) -> Verdict:
    """Look at the files of a proof. ``expected`` is the id of its receipt or its manifest, kept elsewhere."""
    data = files.get(names.MANIFEST)
    if data is None:
        return _nothing(files, "it is missing: without it nobody knows what the proof should hold")
    manifest = names.read(data)
    if manifest is None:
        return _nothing(files, "it cannot be read: without it nobody knows what the proof should hold")
    faults = [*_form(manifest, data), *_listed(manifest, files), *_contents(manifest, files)]
    if expected is not None and expected not in {manifest.receipt_id, id_of(data)}:
        text = f"neither it nor the receipt has the id {expected}"
        faults.append(Fault(name=names.MANIFEST, message=text))
    return Verdict(
        task_id=manifest.task_id,
        receipt_id=manifest.receipt_id,
        manifest_id=id_of(data),
        files=len(files) - 1,
        missing=manifest.missing,
        faults=tuple(faults),
    )


def _nothing(files: Mapping[str, bytes], message: str) -> Verdict:
    fault = Fault(name=names.MANIFEST, message=message)
    return Verdict(
        task_id=None,
        receipt_id=None,
        manifest_id=None,
        files=len(set(files) - {names.MANIFEST}),
        missing=(),
        faults=(fault,),
    )


def _form(manifest: Manifest, data: bytes) -> list[Fault]:
    found = []
    if manifest.version != names.VERSION:
        found.append(f"it is of version {manifest.version}, and this program knows {names.VERSION}")
    elif canonical(manifest) != data:
        found.append("its JSON is not written as a manifest's is")
    return [Fault(name=names.MANIFEST, message=message) for message in found]


def _listed(manifest: Manifest, files: Mapping[str, bytes]) -> list[Fault]:
    """Every file that is missing, changed or extra."""
    found = []
    listed = {each.name: each for each in manifest.files}
    for name, info in listed.items():
        data = files.get(name)
        if data is None:
            found.append(Fault(name=name, message="it is missing"))
        elif hashlib.sha256(data).hexdigest() != info.sha256:
            found.append(Fault(name=name, message=f"it was changed: its sha256 is not {info.sha256}"))
        elif len(data) != info.size_bytes:
            found.append(Fault(name=name, message=f"it has {len(data)} bytes, not {info.size_bytes}"))
    extra = sorted(set(files) - set(listed) - {names.MANIFEST})
    found += [Fault(name=name, message="it is extra: the manifest does not know it") for name in extra]
    told = {*listed, *(each.name for each in manifest.missing)}
    untold = [name for name in names.NAMES if name not in told]
    return found + [Fault(name=name, message="the manifest says neither what it is nor why not") for name in untold]


def _contents(manifest: Manifest, files: Mapping[str, bytes]) -> list[Fault]:
    """Where the files do not agree with the receipt."""
    content = files.get(names.RECEIPT)
    if content is None:
        return [] if any(each.name == names.RECEIPT for each in manifest.files) else [_no_receipt()]
    true_id = ID_PREFIX + hashlib.sha256(content).hexdigest()
    if true_id != manifest.receipt_id:
        text = f"its bytes have the id {true_id}, and the manifest says {manifest.receipt_id}"
        return [Fault(name=names.RECEIPT, message=text)]
    try:
        receipt = msgspec.json.decode(content, type=Receipt)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return [Fault(name=names.RECEIPT, message=f"it is no receipt: {error}")]
    found = [*_chain(manifest.receipt_id, files), *_request(receipt, files), *_texts(receipt, files)]
    if (manifest.task_id, manifest.job_id) != (receipt.task_id, receipt.job_id):
        found.append(Fault(name=names.MANIFEST, message=f"it names another task than the receipt: {receipt.task_id}"))
    return found + _task(receipt, files)


def _no_receipt() -> Fault:
    return Fault(name=names.RECEIPT, message="the manifest does not list it, and nothing holds the others without it")


def _chain(receipt_id: str, files: Mapping[str, bytes]) -> list[Fault]:
    data = files.get(names.CHAIN)
    if data is None:
        return []
    copies: list[Copy | None] = [read_line(line) for line in data.splitlines()]
    seen = verify_chain(copies, expected=receipt_id)
    return [
        Fault(
            name=names.CHAIN, message=each.message if each.number is None else f"number {each.number}: {each.message}"
        )
        for each in seen.breaks
    ]


def _request(receipt: Receipt, files: Mapping[str, bytes]) -> list[Fault]:
    data = files.get(names.REQUEST)
    if data is None or data == bytes(receipt.request):
        return []
    return [Fault(name=names.REQUEST, message="it is not the request of the receipt")]


def _texts(receipt: Receipt, files: Mapping[str, bytes]) -> list[Fault]:
    found = []
    transcript, stream = files.get(names.TRANSCRIPT), files.get(names.STREAM)
    if transcript is not None:
        if receipt.transcript is None or transcript != receipt.transcript.encode():
            found.append(Fault(name=names.TRANSCRIPT, message="it is not the transcript of the receipt"))
        elif not receipt.redacted and hashlib.sha256(transcript).hexdigest() != receipt.stream_sha256:
            text = f"it does not have the stream_sha256 of the receipt, {receipt.stream_sha256}"
            found.append(Fault(name=names.TRANSCRIPT, message=text))
    if stream is not None:
        found += [Fault(name=names.STREAM, message=each) for each in _stream(receipt, stream)]
    return found


def _stream(receipt: Receipt, stream: bytes) -> list[str]:
    try:
        events = SseParser().feed(stream)
    except SseError as error:
        return [f"it is no stream: {error}"]
    tokens = [event for event in events if isinstance(event, Token)]
    if hashlib.sha256("".join(each.t for each in tokens).encode()).hexdigest() != receipt.stream_sha256:
        return [f"its text does not have the stream_sha256 of the receipt, {receipt.stream_sha256}"]
    if [each.i for each in tokens] != list(range(receipt.pieces)):
        return [f"its tokens are not the {receipt.pieces} of the receipt in their order"]
    return []


def _task(receipt: Receipt, files: Mapping[str, bytes]) -> list[Fault]:
    data = files.get(names.TASK)
    if data is None:
        return []
    try:
        told = msgspec.json.decode(data, type=_Named)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return [Fault(name=names.TASK, message="it is no task's status")]
    same = told.task_id == receipt.task_id
    return [] if same else [Fault(name=names.TASK, message=f"it is of another task: {told.task_id}")]


class _Named(msgspec.Struct):
    task_id: str
