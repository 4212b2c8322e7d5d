"""Runs a container runtime's command-line program: bounded in time and in output, ended with its whole group.

Decides nothing about what is asked or what an answer means.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

import msgspec

from container_runtime.errors import ContainerError, RuntimeCause

LINE_BYTES = 64 * 1024
"""What is kept of a line; the rest of it is dropped, so that no secret is cut in two and shown in halves."""
OUTPUT_BYTES = 8 * 1024 * 1024
"""What is kept of each output of a command that is waited for."""
_CHUNK = 64 * 1024
_HELPER_WAIT_S = 0.5
"""How long helpers that outlive the program may hold its outputs open."""
_END_WAIT_S = 2.0


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended, and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """All of it; what went wrong stands last."""
        return f"{self.stdout}\n{self.stderr}".strip()


class Command:
    """A program that is called again and again, with an environment of its own."""

    def __init__(self, program: str, environ: Mapping[str, str]) -> None:
        self._program = program
        self._environ = dict(environ)

    async def run(
        self,
        *args: str,
        timeout_s: float | None,
        environ: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Call it and wait, for ever where ``timeout_s`` is None.

        ``environ`` is added to its own; ``on_line`` gets each line of both outputs as it comes.
        Raises ContainerError: NO_RUNTIME without such a program, NO_ANSWER when the time is over. It is ended then, as
        it is when the caller is cancelled.
        """
        try:
            async with (
                asyncio.timeout(timeout_s),
                _started(self._program, args, {**self._environ, **(environ or {})}) as child,
                asyncio.TaskGroup() as readers,
            ):
                stdout = readers.create_task(_collect(child.stdout, on_line))
                stderr = readers.create_task(_collect(child.stderr, on_line))
                status = await child.ended()
        except TimeoutError as error:
            text = f"{self._program} {args[0]} did not answer within {timeout_s} s and was ended"
            hint = f"see what holds it up: {self._program} info; on a slow disk or network, try again"
            raise ContainerError(RuntimeCause.NO_ANSWER, text, hint) from error
        return Completed(status=status, stdout=stdout.result(), stderr=stderr.result())

    async def lines(self, *args: str) -> AsyncGenerator[str, None]:
        """Both outputs, line by line, until it ends. It is ended when the iterator is closed earlier."""
        async with _started(self._program, args, self._environ, merged=True) as child:
            cutter = _Lines()
            while chunk := await child.stdout.read(_CHUNK):
                for line in cutter.feed(chunk):
                    yield line
            for line in cutter.rest():
                yield line


class _Child:
    """A started program, and the ends of its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.stdout = asyncio.StreamReader(limit=_CHUNK)
        self.stderr = asyncio.StreamReader(limit=_CHUNK)
        self.pipes: list[asyncio.BaseTransport] = []

    async def ended(self) -> int:
        """Its exit status, once it has one. Its outputs end soon after, whoever else holds them."""
        status = await self.process.wait()
        asyncio.get_running_loop().call_later(_HELPER_WAIT_S, self.close)
        return status

    def close(self) -> None:
        """Read no more. Idempotent."""
        for pipe in self.pipes:
            pipe.close()


@contextlib.asynccontextmanager
async def _started(
    program: str, args: tuple[str, ...], environ: Mapping[str, str], *, merged: bool = False
) -> AsyncIterator[_Child]:
    """Start it in a session of its own; at the end nothing of it runs, but what has left its group on purpose."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as writers:
        readers = []
        ends = []
        for _ in range(1 if merged else 2):
            reader, writer = os.pipe()
            readers.append(os.fdopen(reader, "rb", buffering=0))
            ends.append(writers.enter_context(os.fdopen(writer, "wb", buffering=0)))
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                *args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=ends[0],
                stderr=ends[-1],
                env=dict(environ),
                start_new_session=True,
            )
        except BaseException as error:
            for pipe in readers:
                pipe.close()
            if isinstance(error, OSError):
                raise _no_program(program, error) from error
            raise
    # Pipes of our own: asyncio's would make wait() hang on to helpers that keep them open, as podman's do.
    child = _Child(process)
    try:
        for pipe, stream in zip(readers, (child.stdout, child.stderr), strict=False):
            protocol = asyncio.StreamReaderProtocol(stream)
            transport, _ = await loop.connect_read_pipe(lambda protocol=protocol: protocol, pipe)  # type: ignore[misc]
            child.pipes.append(transport)
        yield child
    finally:
        child.close()
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """TERM to the group, a wait, KILL; nothing where the program has ended by itself."""
    if process.returncode is not None:
        return
    try:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_WAIT_S):
                await process.wait()
    finally:
        # Also those of its group that outlived it: the program was interrupted, so none of them is wanted.
        _signal(process.pid, signal.SIGKILL)
        await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


async def _collect(stream: asyncio.StreamReader, on_line: Callable[[str], None] | None) -> str:
    kept = bytearray()
    cutter = _Lines()
    while chunk := await stream.read(_CHUNK):
        kept += chunk[: max(0, OUTPUT_BYTES - len(kept))]
        if on_line is not None:
            for line in cutter.feed(chunk):
                on_line(line)
    if on_line is not None:
        for line in cutter.rest():
            on_line(line)
    return kept.decode(errors="replace")


class _Lines:
    """Cuts what comes into lines, and lines to their bound."""

    def __init__(self) -> None:
        self._open = bytearray()

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that this chunk ends."""
        *ended, rest = chunk.replace(b"\r", b"\n").split(b"\n")
        found = []
        for part in ended:
            self._keep(part)
            found += self.rest()
        self._keep(rest)
        return found

    def rest(self) -> list[str]:
        """What stands after the last line end, if anything does."""
        text = self._open.decode(errors="replace")
        self._open.clear()
        return [text] if text else []

    def _keep(self, part: bytes) -> None:
        self._open += part[: LINE_BYTES - len(self._open)]


def _no_program(program: str, error: OSError) -> ContainerError:
    return ContainerError(
        RuntimeCause.NO_RUNTIME,
        f"{program} cannot be started: {error.strerror or error}",
        f"install {program}, or put it on the PATH of the user who runs pool-managerd",
    )
