"""Models on Hugging Face's hub, or a mirror of it: one GGUF file, a split one, or a whole repository.

Decides which files of a repository at one commit are the model, and where their bytes come from. Asks the hub's
documented API once; huggingface_hub says where that is, where tokens are kept and how a file is addressed, and its own
connections are not used, for they would go out without asking the policy (docs/adr/0012). What a repository lists is
written by anybody: names that are not safe on a disk are refused. Never fetches a model, never shows a token.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec
from huggingface_hub import constants

from contracts.pools import Cause
from daemon_core.outbound import without_secrets
from model_provisioner.errors import ModelError
from model_provisioner.reference import HfRef
from model_provisioner.sources import hf_words, listing
from model_provisioner.sources.asking import Asker
from model_provisioner.sources.base import Located, RemoteFile

MAX_LISTING_BYTES = 32 << 20
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRUE = frozenset({"1", "on", "yes", "true"})
_NO_MODEL = "give another repository, or the path of a file: hf:org/repo/name.gguf"
_ENDPOINT_HINT = "see HF_ENDPOINT: it names the hub or a mirror of it"


class _Lfs(msgspec.Struct):
    sha256: str | None = None
    size: int | None = None


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


class _Listing(msgspec.Struct):
    sha: str
    siblings: list[_Sibling] = []


class HfSource:
    """The hub. ``environ`` says where it is (``HF_ENDPOINT``) and who asks (``HF_TOKEN``); ``asker`` asks it."""

    def __init__(self, asker: Asker, environ: Mapping[str, str]) -> None:
        self._asker = asker
        self._environ = environ

    async def locate(self, ref: HfRef) -> Located:
        """The model's files at one commit. Raises ModelError, FetchError."""
        if self._environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
            message = f"the hub is not asked for {ref.org}/{ref.repo}: HF_HUB_OFFLINE keeps from it"
            raise ModelError(Cause.MODEL_FETCH, message, "unset HF_HUB_OFFLINE, or give the path of a file")
        token = await asyncio.to_thread(token_of, self._environ)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        found = await self._listing(ref, headers)
        choice = chosen(ref, [sibling.rfilename for sibling in found.siblings])
        by_name = {sibling.rfilename: sibling for sibling in found.siblings}
        files = tuple(self._remote(ref, by_name[name], found.sha, headers) for name in choice.names)
        source = f"hf:{ref.org}/{ref.repo}" + (f"/{choice.entry}" if choice.entry else "") + f"@{found.sha}"
        endpoint = endpoint_of(self._environ)
        if endpoint != constants.HUGGINGFACE_CO_URL_HOME.rstrip("/"):
            source = f"{source} at {without_secrets(endpoint)}"
        return Located(revision=found.sha, source=source, files=files, entry=choice.entry)

    async def _listing(self, ref: HfRef, headers: Mapping[str, str]) -> _Listing:
        endpoint = endpoint_of(self._environ)
        revision = quote(ref.revision or constants.DEFAULT_REVISION, safe="")
        url = f"{endpoint}/api/models/{ref.org}/{ref.repo}/revision/{revision}?blobs=true"
        answer = await self._asker.ask(url, first_only=headers, limit=MAX_LISTING_BYTES)
        if answer.status != 200:
            code = answer.headers.get("X-Error-Code")
            raise hf_words.refusal(ref, answer.status, code, endpoint=endpoint, has_token=bool(headers))
        try:
            found = msgspec.json.decode(answer.body, type=_Listing)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            message = f"what {without_secrets(endpoint)} says of {ref.org}/{ref.repo} is not what the hub's API says"
            raise ModelError(Cause.MODEL_FETCH, message, _ENDPOINT_HINT) from error
        if not _COMMIT.fullmatch(found.sha):
            message = f"{without_secrets(endpoint)} names no commit of {ref.org}/{ref.repo}"
            raise ModelError(Cause.MODEL_FETCH, message, _ENDPOINT_HINT)
        return found

    def _remote(self, ref: HfRef, sibling: _Sibling, commit: str, headers: Mapping[str, str]) -> RemoteFile:
        from huggingface_hub import hf_hub_url  # noqa: PLC0415 - brings an HTTP client; a start should not wait for it

        url = hf_hub_url(
            f"{ref.org}/{ref.repo}", sibling.rfilename, revision=commit, endpoint=endpoint_of(self._environ)
        )
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        size = sibling.lfs.size if sibling.lfs and sibling.lfs.size is not None else sibling.size
        return RemoteFile(
            name=sibling.rfilename,
            url=url,
            headers=tuple(headers.items()),
            size_bytes=size if size is not None and size >= 0 else None,
            sha256=sha256 if sha256 and _SHA256.fullmatch(sha256) else None,
        )


def endpoint_of(environ: Mapping[str, str]) -> str:
    """Where the hub is; a mirror's address may hold a password."""
    return (environ.get("HF_ENDPOINT") or constants.HUGGINGFACE_CO_URL_HOME).rstrip("/")


def token_of(environ: Mapping[str, str]) -> str | None:
    """The token of this user: ``HF_TOKEN``, else the file that `hf auth login` writes. Blocks.

    huggingface_hub's own lookup may talk to servers (to renew a token), so the places are looked at here.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := environ.get(name, "").strip():
            return token
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE:
        return None
    home = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    try:
        text = Path(environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError, RuntimeError):
        return None
    return text if text and text.isascii() and text.isprintable() and " " not in text else None


def chosen(ref: HfRef, names: Sequence[str]) -> listing.Choice:
    """The files of the one model that ``ref`` names among those of its repository. Raises ModelError."""
    where = f"{ref.org}/{ref.repo}"
    if ref.path is None:
        return _choose(where, where, names)
    if ref.path in names:
        return _file(where, ref.path, names)
    by_stem = [name for name in names if _stem_of(name) == ref.path]
    if by_stem:
        return _choose(f"{where}/{ref.path}", where, by_stem)
    inside = [name for name in names if name.startswith(f"{ref.path}/") and name.endswith(listing.GGUF)]
    if inside:
        return _choose(f"{where}/{ref.path}", where, inside)
    message = f"there is no {ref.path} in {where}" + (f" at revision {ref.revision}" if ref.revision else "")
    raise ModelError(Cause.MODEL_FETCH, message, _nearest(ref.path, names))


def _file(where: str, path: str, names: Sequence[str]) -> listing.Choice:
    if not path.endswith(listing.GGUF):
        message = f"{path} in {where} is no {listing.GGUF} file"
        raise ModelError(Cause.MODEL_INVALID, message, f"the whole repository is hf:{where}; one file ends in .gguf")
    parts = listing.parts_of(path)
    if parts is not None and path != parts[0]:
        message = f"{path} is not the first of the {len(parts)} parts of its model"
        raise ModelError(Cause.MODEL_INVALID, message, f"hf:{where}/{parts[0]} is the whole of it")
    return _choose(f"{where}/{path}", where, [name for name in names if name in (parts or (path,))])


def _choose(what: str, where: str, names: Sequence[str]) -> listing.Choice:
    try:
        return listing.choose(names)
    except listing.NoChoiceError as error:
        quants = sorted({_stem_of(name) or name for name in names if name.endswith(listing.GGUF)})
        several = len(quants) > 1
        hint = f"say which: hf:{where}/NAME, with one of {', '.join(quants[:40])}" if several else _NO_MODEL
        raise ModelError(Cause.MODEL_FETCH, f"{what} {error}", hint) from error


def _stem_of(name: str) -> str | None:
    """The name of a GGUF file without its ending, and without which part of the model it is."""
    if not name.endswith(listing.GGUF):
        return None
    parts = listing.parts_of(name)
    return name.removesuffix(listing.GGUF) if parts is None else re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", name)


def _nearest(path: str, names: Sequence[str]) -> str:
    models = sorted(name for name in names if name.endswith(listing.GGUF))
    near = difflib.get_close_matches(path, models, n=3, cutoff=0.3) or models[:3]
    return f"did you mean {listing.shown(near)}?" if near else _NO_MODEL
