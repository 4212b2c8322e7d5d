"""A GGUF file on a web server, or all parts of a split one.

Decides what pins such a file (its ETag, else its date and size) and what it is called here. Asks for one byte of each
file, so that nothing is fetched twice. Never fetches a model.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from contracts.pools import Cause
from daemon_core.outbound import without_secrets
from model_provisioner.errors import FetchError, ModelError, Trouble
from model_provisioner.http_span import TRANSIENT, validator_of
from model_provisioner.reference import HttpsRef
from model_provisioner.sources import listing
from model_provisioner.sources.asking import Answer, Asker
from model_provisioner.sources.base import Located, RemoteFile

_TOTAL = re.compile(r"bytes (?:\d{1,19}-\d{1,19}|\*)/(\d{1,19})")
_LENGTH = re.compile(r"\d{1,19}")
_ODD = re.compile(r"[^A-Za-z0-9._ ()+=@-]+")


class HttpsSource:
    """Any web server. ``asker`` asks it."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def locate(self, ref: HttpsRef) -> Located:
        """The file, or the parts of the file, by what they are right now. Raises ModelError, FetchError."""
        files, marks = [], []
        for url, name in _wanted(ref):
            answer = await self._asker.ask(url, headers={"Range": "bytes=0-0"}, limit=0)
            _require_there(answer, url)
            files.append(RemoteFile(name=name, url=url, size_bytes=_size_of(answer)))
            marks.append(_mark_of(answer, files[-1].size_bytes))
        revision = hashlib.sha256("\n".join(marks).encode("utf-8", "surrogatepass")).hexdigest()[:32]
        source = f"{ref.shown} ({marks[0]})" if len(marks) == 1 else f"{ref.shown} ({len(marks)} parts, {revision})"
        return Located(revision=revision, source=source, files=tuple(files), entry=files[0].name)


def _wanted(ref: HttpsRef) -> list[tuple[str, str]]:
    """The addresses of the files and what they are called. Raises ModelError."""
    parts = urlsplit(ref.url)
    folder, _, last = parts.path.rpartition("/")
    name = unquote(last, errors="replace")
    if not name.lower().endswith(listing.GGUF):
        message = f"{ref.shown} does not name a {listing.GGUF} file"
        hint = "a web server gives one file: https://host/name.gguf; a whole directory comes from hf:, s3: or oci:"
        raise ModelError(Cause.MODEL_INVALID, message, hint)
    names = listing.parts_of(name)
    if names is None:
        return [(ref.url, _called(name))]
    if name != names[0]:
        message = f"{ref.shown} is not the first of the {len(names)} parts of its model"
        raise ModelError(Cause.MODEL_INVALID, message, f"give the address of {names[0]}")
    return [(urlunsplit(parts._replace(path=f"{folder}/{quote(each)}")), each) for each in map(_called, names)]


def _called(name: str) -> str:
    """The name on this disk: anybody chose the one in the address."""
    suffix = PurePosixPath(name).suffix
    stem = _ODD.sub("-", name.removesuffix(suffix))[: listing.MAX_NAME_BYTES - len(suffix)].strip("-. ") or "model"
    return f"{stem}{listing.GGUF}"


def _require_there(answer: Answer, url: str) -> None:
    """Raises FetchError, ModelError."""
    if answer.status in {200, 206}:
        return
    shown = without_secrets(url)
    if answer.status == 416:
        raise ModelError(Cause.MODEL_FETCH, f"{shown} is empty", "see what is at that address")
    text = f"{shown} cannot be fetched: the server answers {answer.status} {answer.reason}".rstrip()
    raise FetchError(Trouble.ANSWER, text, status=answer.status, retriable=answer.status in TRANSIENT)


def _size_of(answer: Answer) -> int | None:
    if answer.status == 206:
        found = _TOTAL.fullmatch(answer.headers.get("Content-Range", ""))
        return int(found[1]) if found else None
    text = answer.headers.get("Content-Length", "")
    packed = answer.headers.get("Content-Encoding", "identity") != "identity"
    return int(text) if _LENGTH.fullmatch(text) and not packed else None


def _mark_of(answer: Answer, size: int | None) -> str:
    """What tells this version of the file from others, for people and for its place."""
    named = validator_of(answer.headers) or answer.headers.get("ETag")
    said = [f"{re.sub(r'[^ -~]', '?', named)[:128]}"] if named else []
    if size is not None:
        said.append(f"{size} bytes")
    return ", ".join(said) or "no version is said"
