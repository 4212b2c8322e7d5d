"""A llama-server that is downloaded: the program itself, or an archive that has it, known by its sha256.

Decides whether a download is allowed, and which file of an archive is the server. What is here is used without the
network and without the policy. Never opens a download before its digest was found to be the configured one. What was
unpacked then is this user's file like any other: it is run as it lies there, and not looked at again.

    <cache>/llamacpp/downloads/<sha256>       what was fetched, whole and right
    <cache>/llamacpp/downloads/<sha256>.d/    unpacked; complete, because it is renamed into place
    <cache>/llamacpp/downloads/<sha256>.lock  held by who fetches and unpacks it
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from catalog_core.atomic import sync_directory
from catalog_core.errors import LockTimeoutError
from catalog_core.lock import locked
from contracts.config import Binary, Pool
from contracts.engines import Finding
from contracts.pools import Cause
from engine_provisioner.archive import ArchiveError, Kind, Limits, kind_of, unpack
from engine_provisioner.base import Checklist, Progress
from engine_provisioner.errors import ProvisionError, error_of
from engine_provisioner.host import Host, sha256_of
from engine_provisioner.plan import SERVER, StepKind, without_secrets
from engine_provisioner.providers.native import Program, engine_finding
from engine_provisioner.transfer import SPARE_BYTES, Transfer, address_problem, in_thread

POLL_S = 0.2
POLICY_LINE = "policy.allow_binary_downloads: true"
_BY_HAND = "or fetch it by hand and set provisioning.binary.path"


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool asks for, and where it is kept."""

    url: str
    sha256: str
    file: Path

    @property
    def tree(self) -> Path:
        return self.file.with_name(f"{self.file.name}.d")

    @property
    def lock(self) -> Path:
        return self.file.with_name(f"{self.file.name}.lock")


class DownloadSource:
    """Fetches, unpacks and finds the program of ``provisioning.binary.url``. ``transfer`` is what fetches."""

    def __init__(self, host: Host, transfer: Transfer | None = None) -> None:
        self._host = host
        self._transfer = transfer or Transfer(host)

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """See Source."""
        return tuple(engine_finding(error) for error in await self._problems(pool))

    async def present(self, pool: Pool) -> Program | None:
        """See Source."""
        wanted = self._wanted(pool)
        return await asyncio.to_thread(_here, wanted) if wanted else None

    async def obtain(self, pool: Pool, steps: Checklist, progress: Progress) -> Program:
        """See Source."""
        steps.begin(StepKind.FETCH)
        if problems := await self._problems(pool):
            raise error_of(problems[0].cause, tuple(map(engine_finding, problems)))
        wanted = self._wanted(pool)
        if wanted is None:  # pragma: no cover - it would be a problem
            raise AssertionError("a download without a digest")
        try:
            await asyncio.to_thread(wanted.file.parent.mkdir, parents=True, exist_ok=True)
            async with _alone(wanted, progress):
                # Whoever had the lock may have fetched it.
                if await _is_whole(wanted, progress):
                    progress(f"{wanted.file} is here")
                else:
                    if problem := self._policy_problem(wanted.url):
                        raise problem
                    await self._transfer.fetch(wanted.url, wanted.sha256, wanted.file, progress)
                steps.begin(StepKind.UNPACK)
                return await self._unpacked(wanted)
        except OSError as error:
            text = f"cannot keep the download in {wanted.file.parent}: {error.strerror or error}"
            hint = "see that this user may write there and that the disk has room, or set paths.cache"
            raise ProvisionError(Cause.ENGINE_FETCH, text, hint) from error

    # --- what is in the way -------------------------------------------------------------------------------------------

    def _wanted(self, pool: Pool) -> _Wanted | None:
        binary = pool.provisioning.binary or Binary()
        if binary.url is None or binary.sha256 is None:
            return None
        file = self._host.cache.absolute() / "llamacpp" / "downloads" / binary.sha256
        return _Wanted(url=binary.url, sha256=binary.sha256, file=file)

    async def _problems(self, pool: Pool) -> tuple[ProvisionError, ...]:
        """All that keeps the program from being brought here; nothing where it is here."""
        wanted = self._wanted(pool)
        if wanted is not None and await asyncio.to_thread(_is_fetched, wanted):
            return ()
        binary = pool.provisioning.binary or Binary()
        url = binary.url or ""
        found = [self._policy_problem(url)]
        if binary.sha256 is None:
            text = f"{without_secrets(url)} is not downloaded without its digest"
            hint = "set provisioning.binary.sha256: sha256sum prints it"
            found.append(ProvisionError(Cause.POLICY_DENIED, text, hint))
        address = await asyncio.to_thread(address_problem, url)
        found.append(address or await self._outbound_problem(url))
        return tuple(problem for problem in found if problem)

    def _policy_problem(self, url: str) -> ProvisionError | None:
        if self._host.policy.allow_binary_downloads:
            return None
        text = f"policy does not allow to download {without_secrets(url)}"
        return ProvisionError(Cause.POLICY_DENIED, text, f"set {POLICY_LINE}, {_BY_HAND}")

    async def _outbound_problem(self, url: str) -> ProvisionError | None:
        try:
            await self._host.require_outbound(url)
        except ProvisionError as error:
            return error
        return None

    # --- what is unpacked ---------------------------------------------------------------------------------------------

    async def _unpacked(self, wanted: _Wanted) -> Program:
        """The program of what was fetched. To be called under the lock. Raises ProvisionError, OSError."""
        if program := await asyncio.to_thread(_here, wanted):
            return program
        room = self._host.free_bytes(wanted.file.parent) - SPARE_BYTES
        await in_thread(lambda stop: _unpack(wanted, room, stop))
        return await asyncio.to_thread(_program, wanted)


def _is_fetched(wanted: _Wanted) -> bool:
    return wanted.file.is_file()


def _here(wanted: _Wanted) -> Program | None:
    """The program, where it was fetched and unpacked before."""
    try:
        return _program(wanted) if _is_fetched(wanted) else None
    except ProvisionError:
        return None


def _program(wanted: _Wanted) -> Program:
    path = _server_in(wanted.tree, wanted)
    hint = f"see that it is a build for this machine, {_BY_HAND}"
    return Program(argv=(str(path),), digest_of=wanted.file, missing_hint=hint)


def _unpack(wanted: _Wanted, room: int, stop: Callable[[], bool]) -> None:
    """Make the tree anew, whole or not at all."""
    for leftover in (wanted.tree, *wanted.tree.parent.glob(f".{wanted.tree.name}.*")):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{wanted.tree.name}.", dir=wanted.tree.parent))
    try:
        kind = kind_of(wanted.file)
        if kind is None:
            text = f"{without_secrets(wanted.url)} is neither a program nor an archive that can be opened"
            raise ProvisionError(Cause.ENGINE_FETCH, text, f"use a {SERVER}, or a tar.gz, tar.xz, tar or zip with it")
        if kind is Kind.PROGRAM:
            (temporary / SERVER).hardlink_to(wanted.file)
        else:
            limits = Limits(total_bytes=max(0, min(Limits().total_bytes, room)))
            unpack(wanted.file, kind, temporary, limits=limits, stop=stop)
        _server_in(temporary, wanted).chmod(0o755)
        temporary.chmod(0o755)
        sync_directory(temporary)
        temporary.rename(wanted.tree)
        sync_directory(wanted.tree.parent)
    except ArchiveError as error:
        text = f"{without_secrets(wanted.url)} cannot be unpacked, with room for {room} bytes: {error}"
        raise ProvisionError(Cause.ENGINE_FETCH, text, f"use another archive, {_BY_HAND}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _server_in(tree: Path, wanted: _Wanted) -> Path:
    """The one llama-server of a tree. Raises ProvisionError, which names the candidates."""
    found = sorted(path for path in tree.rglob(SERVER) if path.is_file())
    if len({path.resolve() for path in found}) == 1:
        return found[0]
    shown = without_secrets(wanted.url)
    if not found:
        text = f"there is no {SERVER} in {shown}"
        raise ProvisionError(Cause.ENGINE_MISSING, text, "use an archive that has it among its files")
    names = ", ".join(str(path.relative_to(tree)) for path in found)
    text = f"there are {len(found)} {SERVER} in {shown}: {names}"
    raise ProvisionError(Cause.ENGINE_MISSING, text, f"use an archive that has one, {_BY_HAND}")


async def _is_whole(wanted: _Wanted, progress: Progress) -> bool:
    """Whether the file is here and is, byte by byte, the one that is wanted; what is not right is thrown away."""
    try:
        digest = await sha256_of(wanted.file)
    except FileNotFoundError:
        return False
    if digest == f"sha256:{wanted.sha256}":
        return True
    progress(f"{wanted.file} is not what was fetched: it is thrown away")
    await asyncio.to_thread(shutil.rmtree, wanted.tree, ignore_errors=True)
    await asyncio.to_thread(wanted.file.unlink, missing_ok=True)
    return False


@asynccontextmanager
async def _alone(wanted: _Wanted, progress: Progress) -> AsyncIterator[None]:
    """Be the only one, among all processes, who fetches this file. A holder that dies frees it. Raises OSError."""
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(wanted.lock, wait_s=0))
                break
            except LockTimeoutError as error:
                if not told:
                    progress(f"waiting for {error.holder}, which fetches the same file")
                told = True
                await asyncio.sleep(POLL_S)
        yield
