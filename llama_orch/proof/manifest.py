"""The list of what a proof holds.

Decides the names of its files, which of them a proof should have, and the form of the list: canonical JSON, so that the
sha256 of the file is the id under which the daemon keeps it as an artifact. Values in, values out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from contracts.artifacts import ID_PREFIX, canonical
from contracts.base import Message

VERSION = 1
MANIFEST = "manifest.json"
RECEIPT = "receipt.json"
CHAIN = "receipts.jsonl"
REQUEST = "request.json"
TRANSCRIPT = "transcript.txt"
STREAM = "stream.sse"
TASK = "task.json"
CAPABILITIES = "capabilities.json"
POOL = "pool.json"
PLAN = "plan.json"
PREFLIGHT = "preflight.txt"
PREPARED_ENGINE = "prepared_engine.json"
ENGINE_ENTRY = "engine_entry.json"
MODEL = "model.json"
LOG = "log.jsonl"
VERSIONS = "versions.json"

OF_THE_DAEMON = (RECEIPT, CHAIN, REQUEST, TRANSCRIPT, STREAM, TASK, CAPABILITIES, POOL, MODEL)
"""What any client with the token can have."""
OF_THE_MACHINE = (PLAN, PREFLIGHT, PREPARED_ENGINE, ENGINE_ENTRY, LOG, VERSIONS)
"""What only the machine of the engine has."""
NAMES = (*OF_THE_DAEMON, *OF_THE_MACHINE)


class FileInfo(Message, frozen=True, kw_only=True):
    """One file of a proof, but for the manifest itself."""

    name: str
    sha256: str
    size_bytes: int


class Missing(Message, frozen=True, kw_only=True):
    """A file that a proof should have, and this one has not."""

    name: str
    why: str


class Manifest(Message, frozen=True, kw_only=True):
    """``manifest.json``.

    Receipt, chain, request, transcript, stream and log are of the task; all else is as it was when the proof was made.
    """

    task_id: str
    job_id: str
    receipt_id: str
    made_ms: int
    """Unix milliseconds."""
    made_by: str
    """The version of llama-orch that made it."""
    files: tuple[FileInfo, ...]
    missing: tuple[Missing, ...] = ()
    version: int = VERSION


def infos(files: Mapping[str, bytes]) -> tuple[FileInfo, ...]:
    """The entries of all files, by name."""
    return tuple(
        FileInfo(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in sorted(files.items())
    )


def encoded(manifest: Manifest) -> bytes:
    """The file."""
    return canonical(manifest)


def read(data: bytes) -> Manifest | None:
    """The manifest in a file; None where there is none in it."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def id_of(data: bytes) -> str:
    """The id of a manifest's file, as an artifact has it."""
    return ID_PREFIX + hashlib.sha256(data).hexdigest()
