"""Where a fetched model lies in the cache: ``<scheme>/<two readable names>/<revision>/<name>``.

Decides names that any reference may be given: short, of plain characters, never two for one reference and never one for
two. Never looks at a disk. The depth is the same for all, so no model lies inside another one's folder.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import assert_never

from model_provisioner import reference
from model_provisioner.reference import HfRef, HttpsRef, OciRef, RemoteRef, S3Ref

MAX_SEGMENT = 80
"""Characters of one name, before what tells it from similar ones."""

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


def scheme_of(ref: RemoteRef) -> str:
    """``hf``, ``https``, ``s3`` or ``oci``."""
    match ref:
        case HfRef():
            return "hf"
        case HttpsRef():
            return "https"
        case S3Ref():
            return "s3"
        case OciRef():
            return "oci"
        case _:
            assert_never(ref)


def folder_of(ref: RemoteRef, revision: str) -> PurePosixPath:
    """The folder of a reference's files at one revision, relative to the cache."""
    match ref:
        case HfRef(org=org, repo=repo):
            names = (segment(org), segment(repo))
        case HttpsRef(url=url, host=host):
            # Two addresses that differ in their query alone are two files.
            names = (segment(host), _marked(PurePosixPath(ref.shown).name, url))
        case S3Ref(bucket=bucket, key=key):
            names = (segment(bucket), _marked(PurePosixPath(key).name, key))
        case OciRef(registry=registry, repository=repository):
            names = (segment(registry), _marked(PurePosixPath(repository).name, repository))
        case _:
            assert_never(ref)
    return PurePosixPath(scheme_of(ref), *names, segment(revision))


def note_of(ref: RemoteRef) -> str:
    """The name of what is remembered about a reference; it shows nothing of it."""
    return f"{_digest(reference.render(ref))[:32]}.json"


def lock_of(file: str) -> str:
    """The name of the lock of a file, whose path is relative to the cache."""
    return f"{_digest(file)[:32]}.lock"


def segment(text: str) -> str:
    """The text itself where it can be a name of plain characters, else something similar that is only its own."""
    if _PLAIN.fullmatch(text) and len(text) <= MAX_SEGMENT:
        return text
    return _marked(text, text)


def _marked(text: str, whole: str) -> str:
    """The text with the mark of what it stands for. A ``~`` is in no name that was left as it is."""
    readable = _ODD.sub("-", text)[:MAX_SEGMENT].strip("-.") or "model"
    return f"{readable}~{_digest(whole)[:16]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
