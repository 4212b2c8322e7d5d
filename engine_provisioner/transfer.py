"""Fetches one file that is known by its sha256, over http or from this machine's disk.

Decides how a transfer that was interrupted goes on, which failures are worth another attempt, and when the bytes are
the right ones. A file has its name only when its digest was found to be right: before that it is ``<name>.part``, and
nobody opens it. Every address, also one that a server redirects to, is asked of the outbound policy first. Never shows
what may be secret in a URL, and never locks: two transfers of one file at once are the caller's to prevent.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import aiohttp
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_base, wait_random_exponential
from yarl import URL

from catalog_core.atomic import read_if_exists, remove_leftovers, sync_directory, write_atomic
from contracts.base import Message
from contracts.pools import Cause
from daemon_core.outbound import is_this_machine
from daemon_core.version import version
from engine_provisioner.base import Progress
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host, sha256_of
from engine_provisioner.plan import without_secrets

ATTEMPTS = 6
MAX_REDIRECTS = 10
CHUNK_BYTES = 1 << 20
REPORT_PERCENT = 5
REPORT_BYTES = 64 << 20
"""A line of progress for every so many bytes, where nobody says how many there will be."""
SPARE_BYTES = 256 << 20
"""What a transfer leaves free on the disk."""

_PAUSE = wait_random_exponential(multiplier=0.5, max=30)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_SCHEMES = ("https", "http", "file")
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
_WHY_HINT = "see that it can be opened from this machine, or fetch it by hand and set provisioning.binary.path"


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: for a connection, and between two pieces of the file."""

    connect_s: float = 30.0
    silence_s: float = 60.0


class _TransientError(Exception):
    """Another attempt may bring it. The text is one line and holds no secret."""


class _Validator(Message, frozen=True, kw_only=True):
    """What the server called the bytes that are here: an ETag or a date, as ``If-Range`` takes it."""

    if_range: str


def address_problem(url: str) -> ProvisionError | None:
    """Why nothing can be fetched from an address, as far as its text and this machine's disk tell."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in _SCHEMES:
        text = f"{without_secrets(url)} is no address that can be fetched"
        return ProvisionError(Cause.ENGINE_FETCH, text, "use https://, http:// or file:///")
    if parts.scheme == "file":
        return _file_problem(url)
    try:
        host = URL(url).host
    except ValueError:
        host = None
    if host is None:
        return ProvisionError(Cause.ENGINE_FETCH, f"{without_secrets(url)} names no host", "use https://host/path")
    return None


class Transfer:
    """Fetches files to where they are wanted. ``pause`` is what lies between two attempts."""

    def __init__(self, host: Host, *, patience: Patience | None = None, pause: wait_base = _PAUSE) -> None:
        self._host = host
        self._patience = patience or Patience()
        self._pause = pause

    async def fetch(self, url: str, sha256: str, target: Path, progress: Progress) -> None:
        """Bring the file with this digest to ``target``, whose directory exists. Raises ProvisionError.

        What an interrupted one left in ``<target>.part`` is used. Interrupted itself, it leaves that, and no target.
        """
        part = _Part(target)
        try:
            await self._fetch(url, sha256, part, progress)
            await asyncio.to_thread(part.finish, target)
        except OSError as error:
            raise _disk_error(part.path, error) from error

    async def _fetch(self, url: str, sha256: str, part: _Part, progress: Progress) -> None:
        if part.size and await _digest(part.path) == sha256:
            return  # it was all here, and only had no name yet
        bring = self._copy if urlsplit(url).scheme == "file" else self._download
        await bring(url, part, progress)
        found = await _digest(part.path)
        if found != sha256 and part.pieced:
            progress("what an earlier download left does not belong to this file: fetching it anew")
            part.discard()
            await bring(url, part, progress)
            found = await _digest(part.path)
        if found != sha256:
            part.discard()
            text = f"{without_secrets(url)} has the sha256 {found}, and the pool asks for {sha256}"
            hint = "nothing of it was used; see which file is meant, and set provisioning.binary.sha256 to its digest"
            raise ProvisionError(Cause.ENGINE_FETCH, text, hint)

    # --- over http ----------------------------------------------------------------------------------------------------

    async def _download(self, url: str, part: _Part, progress: Progress) -> None:
        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            pause = state.next_action.sleep if state.next_action else 0.0
            progress(f"{error}; trying again in {pause:.0f} s")

        retrying = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=self._pause,
            retry=retry_if_exception_type(_TransientError),
            before_sleep=tell,
            reraise=True,
        )
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._patience.connect_s, sock_read=self._patience.silence_s
        )
        async with aiohttp.ClientSession(
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"llama-orch/{version()}", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=True,  # the proxies of the environment
        ) as session:
            try:
                await retrying(self._attempt, session, url, part, progress)
            except _TransientError as error:
                text = f"{without_secrets(url)} cannot be fetched: {error} ({ATTEMPTS} attempts)"
                raise ProvisionError(Cause.ENGINE_FETCH, text, _WHY_HINT, retriable=True) from error

    async def _attempt(self, session: aiohttp.ClientSession, url: str, part: _Part, progress: Progress) -> None:
        """Fetch what is not here yet, once. Raises _TransientError, ProvisionError, OSError."""
        have, if_range = part.resumable()
        asked = {"Range": f"bytes={have}-", "If-Range": if_range} if if_range else {}
        try:
            async with self._opened(session, url, asked) as response:
                start = _start_of(response, have, part, url)
                if start == 0:
                    part.begin(_validator_of(response))
                else:
                    part.pieced = True
                    progress(f"going on after {_mb(start)} that are here")
                length = response.content_length
                self._require_room(part.path, length)
                total = None if length is None else start + length
                await self._write(response, part, _Meter(start, total), progress)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _failure(error, url) from error

    @asynccontextmanager
    async def _opened(
        self, session: aiohttp.ClientSession, url: str, asked: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer of the last of the servers that each name the next one; policy is asked of each."""
        place = _parsed(url)
        for _ in range(MAX_REDIRECTS + 1):
            self._host.require_outbound(str(place))
            async with session.get(place, headers=asked, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    yield response
                    return
                place = _next(place, response.headers.get("Location"))
        raise ProvisionError(
            Cause.ENGINE_FETCH, f"{without_secrets(url)} redirects more than {MAX_REDIRECTS} times", _WHY_HINT
        )

    async def _write(self, response: aiohttp.ClientResponse, part: _Part, meter: _Meter, progress: Progress) -> None:
        with part.append() as file:
            async for chunk in response.content.iter_any():
                await asyncio.to_thread(file.write, chunk)
                if line := meter.count(len(chunk)):
                    await asyncio.to_thread(file.flush)  # what is said to be here outlives us
                    progress(line)
                    if meter.total is None:
                        self._require_room(part.path, 0)

    # --- from the disk ------------------------------------------------------------------------------------------------

    async def _copy(self, url: str, part: _Part, progress: Progress) -> None:
        self._host.require_outbound(url)
        if problem := _file_problem(url):
            raise problem
        source = _path_of(url)
        progress(f"copying {source}")
        size = await asyncio.to_thread(lambda: source.stat().st_size)
        self._require_room(part.path, size)
        part.begin(None)
        await in_thread(lambda stop: _copied(source, part.path, stop))

    def _require_room(self, path: Path, length: int | None) -> None:
        """See that so many more bytes fit on the disk. Raises ProvisionError."""
        free = self._host.free_bytes(path.parent)
        if (length or 0) > free - SPARE_BYTES:
            what = "a file whose length nobody says" if not length else f"{_mb(length)} more"
            text = f"there is no room for {what}: {_mb(free)} are free at {path.parent}"
            raise ProvisionError(Cause.ENGINE_FETCH, text, _ROOM_HINT)


async def in_thread(work: Callable[[Callable[[], bool]], None]) -> None:
    """Run blocking work that asks its argument whether to stop. Cancelled, this waits for its end."""
    stop = threading.Event()
    running = asyncio.get_running_loop().run_in_executor(None, work, stop.is_set)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        raise


class _Part:
    """The bytes of a file that has no name yet, and what its server called them."""

    def __init__(self, target: Path) -> None:
        self.pieced = False
        """Whether its bytes come from more than one answer of the server."""
        self.path = target.with_name(f"{target.name}.part")
        self._validator = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def resumable(self) -> tuple[int, str | None]:
        """The bytes that are here and what they are called; without a name for them they are of no use."""
        try:
            known = msgspec.json.decode(read_if_exists(self._validator) or b"", type=_Validator)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return 0, None
        return (self.size, known.if_range) if self.size else (0, None)

    def begin(self, if_range: str | None) -> None:
        """Nothing is here; what comes now is called ``if_range``. In this order: old bytes never get a new name."""
        self.discard()
        self.pieced = False
        self.path.touch(mode=0o600)
        if if_range is not None:
            write_atomic(self._validator, msgspec.json.encode(_Validator(if_range=if_range)))

    def append(self) -> IO[bytes]:
        return self.path.open("ab", CHUNK_BYTES)

    def discard(self) -> None:
        self._forget()
        self.path.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Give the file its name, for good."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(target)
        self._forget()
        sync_directory(target.parent)

    def _forget(self) -> None:
        remove_leftovers(self._validator)
        self._validator.unlink(missing_ok=True)


class _Meter:
    """Counts bytes, and has a line for every few percent of them."""

    def __init__(self, done: int, total: int | None) -> None:
        self.total = total
        self._done = done
        self._said = self._step()

    def count(self, size: int) -> str | None:
        """The line that is due after so many more bytes."""
        self._done += size
        step = self._step()
        if step == self._said:
            return None
        self._said = step
        if self.total is None:
            return f"downloaded {_mb(self._done)}"
        return f"downloaded {self._done * 100 // self.total} % of {_mb(self.total)}"

    def _step(self) -> int:
        return self._done * 100 // self.total // REPORT_PERCENT if self.total else self._done // REPORT_BYTES


def _start_of(response: aiohttp.ClientResponse, have: int, part: _Part, url: str) -> int:
    """From which byte on the answer is. Raises _TransientError and ProvisionError."""
    status = response.status
    if status == 200:
        return 0
    if status == 206 and have:
        named = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if named and int(named[1]) == have:
            return have
    if status in {206, 416}:
        part.discard()
        raise _TransientError("the server does not go on where the last attempt ended")
    text = f"the server answers {status} {response.reason or ''}".rstrip()
    if status in _TRANSIENT:
        raise _TransientError(text)
    raise ProvisionError(Cause.ENGINE_FETCH, f"{without_secrets(url)} cannot be fetched: {text}", _WHY_HINT)


def _validator_of(response: aiohttp.ClientResponse) -> str | None:
    """What ``If-Range`` may name: a strong ETag, else the date of the last change."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _parsed(url: str) -> URL:
    # As it is written: a signature over a URL holds for one spelling only.
    return URL(url, encoded=url.isascii() and " " not in url)


def _next(place: URL, location: str | None) -> URL:
    """Where a redirect leads. Raises ProvisionError."""
    shown = without_secrets(str(place))
    try:
        following = place.join(_parsed(location or ""))
    except ValueError:
        following = None
    if not location or following is None or following.scheme not in {"http", "https"} or not following.host:
        raise ProvisionError(Cause.ENGINE_FETCH, f"{shown} redirects to no address of a server", _WHY_HINT)
    if is_this_machine(str(following)) and not is_this_machine(str(place)):
        text = f"{shown} redirects to this machine"
        raise ProvisionError(Cause.POLICY_DENIED, text, "use an address that does not lead back here")
    return following


def _failure(error: Exception, url: str) -> Exception:
    """What a failed connection means. The library's own text may hold the URL, so it stays out of ours."""
    match error:
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            reason = "it is no address of a server"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            reason = "the server cannot prove who it is (TLS)"
        case aiohttp.ClientHttpProxyError():
            reason = f"the proxy answers {error.status}"
        case aiohttp.ClientProxyConnectionError():
            return _TransientError("the proxy of the environment cannot be reached")
        case aiohttp.ClientConnectorError():
            return _TransientError(f"no connection to {error.host}:{error.port}: {error.strerror or 'refused'}")
        case TimeoutError():
            return _TransientError("the server fell silent")
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return _TransientError("the connection broke")
        case _:
            reason = f"the server does not speak HTTP ({type(error).__name__})"
    return ProvisionError(Cause.ENGINE_FETCH, f"{without_secrets(url)} cannot be fetched: {reason}", _WHY_HINT)


def _path_of(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))


def _file_problem(url: str) -> ProvisionError | None:
    path = _path_of(url)
    shown = without_secrets(url)
    if urlsplit(url).netloc not in {"", "localhost"} or not path.is_absolute():
        text = f"{shown} is no file of this machine"
        return ProvisionError(Cause.ENGINE_FETCH, text, "write file:///path/to/the/file")
    try:
        if stat.S_ISREG(path.stat().st_mode) and os.access(path, os.R_OK):
            return None
        reason = "is no file that can be read"
    except (OSError, ValueError):
        reason = "does not exist"
    return ProvisionError(Cause.ENGINE_FETCH, f"{shown} {reason}", "see provisioning.binary.url")


def _copied(source: Path, target: Path, stop: Callable[[], bool]) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while not stop() and (chunk := reader.read(CHUNK_BYTES)):
            writer.write(chunk)


_ROOM_HINT = "make room on that disk, or set paths.cache to a directory on another one"


def _disk_error(path: Path, error: OSError) -> ProvisionError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    hint = _ROOM_HINT if full else f"see that this user may write to {path.parent}"
    return ProvisionError(Cause.ENGINE_FETCH, f"cannot write {path}: {error.strerror or error}", hint)


async def _digest(path: Path) -> str:
    return (await sha256_of(path)).removeprefix("sha256:")


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size} bytes"
