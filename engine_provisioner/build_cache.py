"""Where sources and builds of llama.cpp are kept, and when one is finished.

Decides the layout below ``<cache>/llamacpp``, what counts as a finished build (a stamp, written last, that knows the
program's digest), who may build (one at a time: builds share the processors, the memory and ccache) and what is thrown
away. Never builds.

    sources/<repository>/<commit>/      a checkout; complete, because it is renamed into place
    refs/<repository and ref>.json      which commit a ref was last
    builds/<id>/build/                  CMake's; removed when the program stands alone
    builds/<id>/build.log               of the last attempt; build.log.1 is the one before
    builds/<id>/llama-server, stamp.json
    lock                                held by who builds, and by what it started
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from catalog_core.atomic import sync_file_system, write_atomic
from contracts.base import Message
from engine_provisioner.cmake import Definitions
from engine_provisioner.host import sha256_of

POLL_S = 0.2
KEPT_BUILDS = 3
"""So many finished builds stay whatever they are, to go back to."""


class Stamp(Message, frozen=True, kw_only=True):
    """A build that is finished."""

    repo: str
    ref: str
    commit: str
    definitions: Definitions
    program: str
    """Its path below the build's directory."""
    digest: str
    size_bytes: int
    built_ms: int = 0


class Remembered(Message, frozen=True, kw_only=True):
    """Which commit a ref was when it was last asked for."""

    repo: str
    ref: str
    commit: str


class BuildCache:
    """The sources and builds below ``root``. Constructing it touches nothing; every method blocks on files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def builds(self) -> Path:
        """The directory of all builds."""
        return self.root / "builds"

    def build(self, identifier: str) -> Path:
        """The directory of a build."""
        return self.builds / identifier

    def source(self, repo: str, commit: str) -> Path:
        """The checkout of a commit; it is whole where it exists."""
        return self.root / "sources" / _key(repo) / commit

    def incoming(self, repo: str) -> Path:
        """Where a checkout is made before it is one."""
        return self.root / "sources" / _key(repo) / ".incoming"

    def finished(self, identifier: str) -> tuple[Stamp, Path] | None:
        """A finished build and its program, None where there is none; the program's bytes are not looked at."""
        folder = self.build(identifier)
        try:
            stamp = msgspec.json.decode((folder / "stamp.json").read_bytes(), type=Stamp)
            program = folder / stamp.program
            good = program.stat().st_size == stamp.size_bytes and os.access(program, os.X_OK)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return (stamp, program) if good else None

    def discard(self, identifier: str) -> None:
        """A build is not finished after all."""
        (self.build(identifier) / "stamp.json").unlink(missing_ok=True)

    def finish(self, identifier: str, stamp: Stamp) -> None:
        """Say that a build is finished: from here on it is used. Its program and its libraries are on the disk then."""
        folder = self.build(identifier)
        sync_file_system(folder)
        write_atomic(folder / "stamp.json", msgspec.json.format(msgspec.json.encode(stamp)), mode=0o644)

    def remember(self, repo: str, ref: str, commit: str) -> None:
        """Keep what a ref was, for when the repository cannot be asked."""
        if self.remembered(repo, ref) == commit:
            return
        path = self._ref(repo, ref)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(Remembered(repo=repo, ref=ref, commit=commit)), mode=0o644)

    def remembered(self, repo: str, ref: str) -> str | None:
        """What a ref was when it was last asked for."""
        try:
            return msgspec.json.decode(self._ref(repo, ref).read_bytes(), type=Remembered).commit
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def prune(self, repo: str, commit: str) -> None:
        """Throw away what only another commit needs: its checkouts and its unfinished builds.

        To be called under the lock. Finished builds stay where they may still be wanted: see ``_spare``.
        """
        sources = self.source(repo, commit).parent
        for folder in _folders(sources):
            if folder.name != commit:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in _folders(self.builds):
            if not folder.name.startswith(f"{commit[:9]}-") and not (folder / "stamp.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
        for identifier in self._spare():
            self.discard(identifier)  # first: what is half removed is no build
            shutil.rmtree(self.build(identifier), ignore_errors=True)

    def _spare(self) -> list[str]:
        """The finished builds that nobody misses.

        Kept are the KEPT_BUILDS that were made last, the last one of each repository, ref and definitions, those of a
        commit that a ref was when it was last asked for, and those that run.
        """
        found = [(folder.name, each[0]) for folder in _folders(self.builds) if (each := self.finished(folder.name))]
        found.sort(key=lambda each: each[1].built_ms, reverse=True)
        commits = self._commits()
        running = _running()
        seen: set[tuple[str, str, Definitions]] = set()
        spare = []
        for number, (identifier, stamp) in enumerate(found):
            what = (stamp.repo, stamp.ref, stamp.definitions)
            used = any(program.is_relative_to(self.build(identifier).resolve()) for program in running)
            if number >= KEPT_BUILDS and what in seen and stamp.commit not in commits and not used:
                spare.append(identifier)
            seen.add(what)
        return spare

    def _commits(self) -> set[str]:
        """What the refs were when they were last asked for."""
        found = set()
        for path in (self.root / "refs").glob("*.json"):
            with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
                found.add(msgspec.json.decode(path.read_bytes(), type=Remembered).commit)
        return found

    @asynccontextmanager
    async def locked(self, waiting: Callable[[str], None]) -> AsyncIterator[int]:
        """Be the only one who builds in this cache; the descriptor is what holds the lock.

        Whoever inherits it holds the lock too: compilers that outlive a killed builder keep the next one waiting until
        they have ended, so two never write the same object. ``waiting`` is told once who has it. Raises OSError.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            told = False
            while not _try_lock(descriptor):
                if not told:
                    waiting(os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process")
                    told = True
                await asyncio.sleep(POLL_S)
            _sign(descriptor, f"process {os.getpid()}")
            yield descriptor
        finally:
            os.close(descriptor)

    def _ref(self, repo: str, ref: str) -> Path:
        return self.root / "refs" / f"{_key(repo, ref)}.json"


async def is_whole(program: Path, stamp: Stamp) -> bool:
    """Whether a program is, byte by byte, the one that was built."""
    try:
        return await sha256_of(program) == stamp.digest
    except OSError:
        return False


def new_log(folder: Path) -> Path:
    """An empty build.log; what stood there is kept once."""
    log = folder / "build.log"
    with suppress(FileNotFoundError):
        log.replace(folder / "build.log.1")
    log.touch()
    return log


def read_tail(path: Path, limit: int = 512 * 1024) -> str:
    """The last part of a file, from the beginning of a line. Empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return text if size <= limit else text.partition("\n")[2]


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _folders(parent: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]


def _running() -> set[Path]:
    """The programs that run, as far as this user may see them."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                found.add((entry / "exe").readlink())
    return found


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int, holder: str) -> None:
    # For people only: a full disk must not keep anybody from the lock.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
