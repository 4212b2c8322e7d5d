"""The machine as a provider sees it: programs on PATH, commands bounded in time, the GPUs, the clock, the catalog.

Decides nothing. All that it is made of is an argument, so a test gives it another environment and the same real tools.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from catalog_core.engines import EngineCatalogStore
from contracts.base import Message
from contracts.config import Policy
from contracts.pools import Cause, Gpu
from daemon_core.outbound import ruling_on
from engine_provisioner.errors import ProvisionError
from engine_provisioner.gpus import visible_gpus

_log = logging.getLogger(__name__)

OUTPUT_LIMIT = 1024 * 1024
"""Bytes of a command's output that are kept."""

_CHUNK = 1024 * 1024


class CommandError(Exception):
    """A command could not be run to its end. The text is one line."""


class CommandResult(Message, frozen=True, kw_only=True):
    """How a command ended: its exit status (negative: the signal) and its output, both streams together."""

    status: int
    output: str

    @property
    def last_line(self) -> str:
        """The last line that says something: most programs put their reason there."""
        return next((line.strip() for line in reversed(self.output.splitlines()) if line.strip()), "(it said nothing)")


def unix_ms() -> int:
    """Wall-clock time in Unix milliseconds: a person reads it in the catalog."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Host:
    """What providers need from the machine."""

    environ: Mapping[str, str]
    catalog: EngineCatalogStore
    cache: Path
    """Below it every engine has a directory of its own: sources, builds, downloads."""
    policy: Policy = Policy()
    workdir: Path | None = None
    """Where engines run; None leaves it to whoever starts them."""
    now_ms: Callable[[], int] = unix_ms
    gpus: Callable[[], tuple[Gpu, ...]] = visible_gpus
    """Raises GpuUnavailable. Called in a thread."""
    python: Path = field(default_factory=lambda: Path(sys.executable))
    os_release: Path = Path("/etc/os-release")

    def require_outbound(self, url: str) -> None:
        """See that policy lets an address be reached; every ruling is logged. Raises ProvisionError."""
        ruling = ruling_on(url, self.policy.outbound)
        _log.info("outbound to %s: %s by %s", ruling.host, "allowed" if ruling.allowed else "denied", ruling.rule)
        if not ruling.allowed:
            text = f"{ruling.host or 'this address'} may not be reached: {ruling.rule}"
            hint = f"add {ruling.host!r} to policy.outbound.allow, or get it from somewhere that is allowed"
            raise ProvisionError(Cause.POLICY_DENIED, text, hint)

    def which(self, name: str) -> Path | None:
        """The executable of this name on PATH."""
        found = shutil.which(name, path=self.environ.get("PATH", os.defpath))
        return Path(found) if found else None

    async def run(
        self, argv: tuple[str, ...], *, timeout_s: float, env: Mapping[str, str] | None = None
    ) -> CommandResult:
        """Run a command to its end without input. It and its children are gone afterwards, whatever happens.

        Raises CommandError where it cannot be started or takes longer than ``timeout_s``.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**self.environ, **(env or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise CommandError(f"{argv[0]} cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(timeout_s):
                output = await _bounded(process.stdout)
                status = await process.wait()
        except TimeoutError as error:
            raise CommandError(f"{argv[0]} did not answer within {timeout_s:g} s") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return CommandResult(status=status, output=output)

    def distribution(self) -> Mapping[str, str]:
        """The fields of os-release; empty where there is none."""
        try:
            text = self.os_release.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return {}
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


async def _bounded(stream: asyncio.StreamReader | None) -> str:
    """All of a stream, of which the first OUTPUT_LIMIT bytes are kept: who reads no further blocks the writer."""
    kept = bytearray()
    while stream is not None and (chunk := await stream.read(65_536)):
        kept += chunk[: OUTPUT_LIMIT - len(kept)]
    return kept.decode(errors="replace")


async def sha256_of(path: Path) -> str:
    """``sha256:<hex>`` of a file. Raises OSError."""
    return await asyncio.to_thread(_sha256_of, path)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
