"""Fetches one file, over http or from this machine's disk: the one way in which bytes come here, whoever wants them.

Decides how a transfer that was interrupted goes on, which failures are worth another attempt, and when the bytes are
the right ones. A file has its name only when its size and its digest, as far as they are known, were found to be right:
before that it is ``<name>.part``, and nobody opens it. Holds a megabyte or two of it in memory, however large it is.
Every address, also one that a server redirects to, is asked of the policy first. Never shows what may be secret in a
URL or a header, never follows a link, and never locks: two transfers of one file at once are the caller's to prevent.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import assert_never
from urllib.parse import urlsplit
from urllib.request import url2pathname

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_base, wait_random_exponential

from daemon_core.outbound import without_secrets
from model_provisioner import http_span
from model_provisioner.errors import FetchError, Trouble
from model_provisioner.folder import Folder
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.part import PART, Note, Part
from model_provisioner.sources.base import RemoteFile, Transferred
from model_provisioner.threads import in_thread
from model_provisioner.web import Patience, TransientError, Web, parsed, web_of

Progress = Callable[[str], None]
"""Takes one line for people."""

ATTEMPTS = 6
"""So many in a row that bring nothing new."""
CHUNK_BYTES = 1 << 20
REPORT_PERCENT = 5
REPORT_BYTES = 64 << 20
"""A line of progress for every so many bytes, where nobody says how many there will be."""
SPARE_BYTES = 256 << 20
"""What a transfer leaves free on the disk."""
ROOM_HINT = "make room on that disk, or set paths.cache to a directory on another one"

PAUSE = wait_random_exponential(multiplier=0.5, max=30)
_SCHEMES = ("https", "http", "file")


def free_bytes(folder: Path) -> int:
    """What the disk of a directory has free. Raises OSError."""
    return shutil.disk_usage(folder).free


def address_problem(url: str) -> FetchError | None:
    """Why nothing can be fetched from an address, as far as its text and this machine's disk tell."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in _SCHEMES:
        text = f"{without_secrets(url)} is no address that can be fetched"
        return FetchError(Trouble.ADDRESS, text, hint="use https://, http:// or file:///")
    if parts.scheme == "file":
        return _file_problem(url)
    try:
        host = parsed(url).host
    except FetchError:
        host = None
    if host is None:
        return FetchError(Trouble.ADDRESS, f"{without_secrets(url)} names no host", hint="use https://host/path")
    return None


class Transfer:
    """Fetches files to where they are wanted. ``pause`` is what lies between two attempts."""

    def __init__(
        self,
        gate: OutboundGate,
        *,
        patience: Patience | None = None,
        pause: wait_base = PAUSE,
        free_bytes: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._gate = gate
        self._patience = patience or Patience()
        self._pause = pause
        self._free_bytes = free_bytes

    def through(self, scheme: str) -> Transfer:
        """The same for what a reference of this scheme (``hf``) leads to."""
        gate = self._gate.through(scheme)
        return Transfer(gate, patience=self._patience, pause=self._pause, free_bytes=self._free_bytes)

    async def fetch(
        self,
        file: RemoteFile,
        target: Path,
        *,
        below: Path | None = None,
        progress: Progress = lambda _: None,
        transferred: Callable[[Transferred], None] = lambda _: None,
    ) -> str:
        """Bring a file to ``target``, and say its sha256 in hex.

        The directory of ``target`` exists, or is made below ``below``. What an interrupted transfer left in
        ``<target>.part`` is used. Interrupted itself, it leaves that, and no target. Raises FetchError; with
        ``Trouble.DIGEST`` what came is still in the part, for the caller to look at or to ``discard``.
        """
        root = below or target.parent
        try:
            with await asyncio.to_thread(Folder.open, target.parent, below=root, create=below is not None) as folder:
                part = Part(folder, target.name, known=file.sha256 is not None)
                one = _One(file, part, progress, transferred)
                found = await self._brought(one)
                await in_thread(lambda _: part.finish())
                return found
        except OSError as error:
            raise disk_error(target.with_name(f"{target.name}{PART}"), error) from error

    async def discard(self, target: Path, *, below: Path | None = None) -> None:
        """Throw away what a transfer left. Raises FetchError."""

        def work() -> None:
            with Folder.open(target.parent, below=below or target.parent) as folder:
                Part(folder, target.name, known=True).discard()

        try:
            await asyncio.to_thread(work)
        except OSError as error:
            raise disk_error(target, error) from error

    async def _brought(self, one: _One) -> str:
        """The digest of the whole file, which is in the part now."""
        file, part = one.file, one.part
        if file.size_bytes is not None and part.size > file.size_bytes:
            await one.discard()
        if await self._is_here(one):
            return await one.digest()
        bring = self._copy if urlsplit(file.url).scheme == "file" else self._download
        await bring(one)
        found = await one.digest()
        if file.sha256 is not None and found != file.sha256 and part.pieced:
            one.progress("what an earlier download left does not belong to this file: fetching it anew")
            await one.discard()
            await bring(one)
            found = await one.digest()
        if file.sha256 is not None and found != file.sha256:
            text = f"{without_secrets(file.url)} has the sha256 {found}, and {file.sha256} is wanted"
            raise FetchError(Trouble.DIGEST, text, found=found)
        return found

    async def _is_here(self, one: _One) -> bool:
        """Whether all of it was brought before, and only had no name yet."""
        part = one.part
        if not part.size:
            return False
        if one.file.sha256 is not None:
            return await one.digest() == one.file.sha256
        note = part.resumable()
        return note is not None and note.total == part.size

    # --- over http ----------------------------------------------------------------------------------------------------

    async def _download(self, one: _One) -> None:
        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            pause = state.next_action.sleep if state.next_action else 0.0
            one.progress(f"{error}; trying again in {pause:.0f} s")

        retrying = AsyncRetrying(
            stop=lambda _: one.fruitless >= ATTEMPTS,
            wait=self._pause,
            retry=retry_if_exception_type(TransientError),
            before_sleep=tell,
            reraise=True,
        )
        one.fruitless = 0
        async with web_of(self._gate, self._patience) as web:
            try:
                await retrying(self._attempt, web, one)
            except TransientError as error:
                text = f"{without_secrets(one.file.url)} cannot be fetched: {error} ({ATTEMPTS} attempts)"
                raise FetchError(Trouble.NETWORK, text, retriable=True) from error

    async def _attempt(self, web: Web, one: _One) -> None:
        """Fetch what is not here yet, once. Raises TransientError, FetchError, OSError."""
        part, file = one.part, one.file
        note = part.resumable()
        have = part.size if note else 0
        asked = {"Range": f"bytes={have}-", "If-Range": note.if_range} if note else {}
        one.fruitless += 1
        async with web.get(file.url, headers=asked, first_only=dict(file.headers)) as response:
            span = await _span(response, one, have, note)
            if span is None:
                return
            if span.start == 0:
                await one.begin(http_span.validator_of(response.headers), span.total)
            else:
                await one.digest()  # each byte is hashed once: those that are here now, the others as they come
                part.pieced = True
                one.progress(f"going on after {_mb(span.start)} that are here")
            self.require_room(part.path, None if span.total is None else span.total - span.start)
            await self._write(response, one, _Meter(span.start, span.total))

    async def _write(self, response: aiohttp.ClientResponse, one: _One, meter: _Meter) -> None:
        """Write what comes, in large pieces; also what came before it broke."""
        pending = bytearray()
        with one.part.appender() as file:
            try:
                async for chunk in response.content.iter_any():
                    pending += chunk
                    line = meter.count(len(chunk))
                    _require_size(one.file, meter)
                    if line or len(pending) >= CHUNK_BYTES:
                        await _written(file.write, pending)
                        one.told(meter)
                    if line:
                        one.progress(line)
                        if meter.total is None:
                            self.require_room(one.part.path, 0)
            finally:
                await _written(file.write, pending)
        one.told(meter)
        if meter.total is not None and meter.done < meter.total:
            raise TransientError("the connection broke")

    # --- from the disk ------------------------------------------------------------------------------------------------

    async def _copy(self, one: _One) -> None:
        await self._gate.ask(one.file.url)
        if problem := _file_problem(one.file.url):
            raise problem
        source = _path_of(one.file.url)
        one.progress(f"copying {source}")
        size = await asyncio.to_thread(lambda: source.stat().st_size)
        self.require_room(one.part.path, size)
        await one.begin(None, size)
        await in_thread(lambda stop: _copied(source, one.part, stop))

    def require_room(self, path: Path, length: int | None) -> None:
        """See that so many more bytes fit on the disk. Raises FetchError, OSError."""
        free = self._free_bytes(path.parent)
        if (length or 0) > free - SPARE_BYTES:
            what = "a file whose length nobody says" if not length else f"{_mb(length)} more"
            text = (
                f"there is no room for {what}: {_mb(free)} are free at {path.parent}, and {_mb(SPARE_BYTES)} stay free"
            )
            raise FetchError(Trouble.ROOM, text, hint=ROOM_HINT)


class _One:
    """One file on its way, and who wants to know."""

    def __init__(
        self, file: RemoteFile, part: Part, progress: Progress, transferred: Callable[[Transferred], None]
    ) -> None:
        self.file = file
        self.part = part
        self.progress = progress
        self.fruitless = 0
        """Attempts in a row that brought nothing new."""
        self._transferred = transferred
        self._most = 0

    def told(self, meter: _Meter) -> None:
        """Say how far it is, and see whether that is further than ever."""
        self._transferred(Transferred(name=self.file.name, done_bytes=meter.done, total_bytes=meter.total))
        if meter.done >= self._most + CHUNK_BYTES:
            self._most, self.fruitless = meter.done, 0

    async def begin(self, if_range: str | None, total: int | None) -> None:
        """Nothing is here, and what comes now is called so. Raises OSError."""
        await in_thread(lambda _: self.part.begin(if_range, total))

    async def discard(self) -> None:
        """Nothing is here any more. Raises OSError."""
        await in_thread(lambda _: self.part.discard())

    async def digest(self) -> str:
        """The sha256 of what is here. Raises OSError."""
        return await in_thread(self.part.digest)


async def _written(write: Callable[[bytes], None], pending: bytearray) -> None:
    """Write what is pending; a cancelled caller waits for it, so that nobody writes when it is gone."""
    if pending:
        data = bytes(pending)
        pending.clear()
        await in_thread(lambda _: write(data))


class _Meter:
    """Counts bytes, and has a line for every few percent of them."""

    def __init__(self, done: int, total: int | None) -> None:
        self.total = total
        self.done = done
        self._said = self._step()

    def count(self, size: int) -> str | None:
        """The line that is due after so many more bytes."""
        self.done += size
        step = self._step()
        if step == self._said:
            return None
        self._said = step
        if self.total is None:
            return f"downloaded {_mb(self.done)}"
        return f"downloaded {self.done * 100 // self.total} % of {_mb(self.total)}"

    def _step(self) -> int:
        return self.done * 100 // self.total // REPORT_PERCENT if self.total else self.done // REPORT_BYTES


async def _span(response: aiohttp.ClientResponse, one: _One, have: int, note: Note | None) -> http_span.Span | None:
    """Which bytes come; None where none is missing. Raises TransientError and FetchError."""
    named = note.if_range if note else None
    shown = without_secrets(one.file.url)
    answer = http_span.read_answer(response.status, response.headers, have=have, named=named, size=one.file.size_bytes)
    match answer:
        case http_span.Span():
            _require_plain(response, one.file)
            return answer
        case http_span.Whole():
            return None
        case http_span.StartOver():
            await one.discard()
            raise TransientError("the server does not go on where the last attempt ended")
        case http_span.WrongSize(total=total):
            text = f"{shown} has {total} bytes, and {one.file.size_bytes} are wanted"
            raise FetchError(Trouble.SIZE, text)
        case http_span.Refused(transient=transient):
            text = f"the server answers {response.status} {response.reason or ''}".rstrip()
            if transient:
                raise TransientError(text)
            code = response.headers.get("X-Error-Code")
            message = f"{shown} cannot be fetched: {text}"
            raise FetchError(Trouble.ANSWER, message, status=response.status, code=code)
        case _:
            assert_never(answer)


def _require_plain(response: aiohttp.ClientResponse, file: RemoteFile) -> None:
    """Bytes that the server packed, although it was asked not to, are another file; a known digest would tell."""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if file.sha256 is None and encoding not in {"identity", ""}:
        text = f"{without_secrets(file.url)} comes packed ({encoding[:32]!r}) although it was asked for as it is"
        raise FetchError(Trouble.ANSWER, text, status=response.status)


def _require_size(file: RemoteFile, meter: _Meter) -> None:
    if meter.total is not None and meter.done > meter.total:
        text = f"{without_secrets(file.url)} goes on after the {meter.total} bytes that it should have"
        raise FetchError(Trouble.SIZE, text)


def _path_of(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))


def _file_problem(url: str) -> FetchError | None:
    path = _path_of(url)
    shown = without_secrets(url)
    if urlsplit(url).netloc not in {"", "localhost"} or not path.is_absolute():
        return FetchError(Trouble.ADDRESS, f"{shown} is no file of this machine", hint="write file:///path/to/the/file")
    try:
        if stat.S_ISREG(path.stat().st_mode) and os.access(path, os.R_OK):
            return None
        reason = "is no file that can be read"
    except (OSError, ValueError):
        reason = "does not exist"
    return FetchError(Trouble.ADDRESS, f"{shown} {reason}")


def _copied(source: Path, part: Part, stop: Callable[[], bool]) -> None:
    with source.open("rb") as reader, part.appender() as writer:
        while not stop() and (chunk := reader.read(CHUNK_BYTES)):
            writer.write(chunk)


def disk_error(path: Path, error: OSError) -> FetchError:
    """What a disk that refuses means."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    where = error.filename or path
    verb = "use" if error.errno == errno.ELOOP else "write"
    text = f"cannot {verb} {where}: {error.strerror or error}"
    if full:
        return FetchError(Trouble.ROOM, text, hint=ROOM_HINT)
    if error.errno == errno.ELOOP:
        return FetchError(Trouble.DISK, text, hint="remove the link; to keep models on another disk, set paths.cache")
    return FetchError(Trouble.DISK, text, hint=f"see that this user may write to {path.parent}")


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size} bytes"
