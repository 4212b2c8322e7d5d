"""Runs a container runtime's command-line program: bounded in time and in output, ended with its whole group.

Decides nothing about what is asked or what an answer means.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import cast

import msgspec

from container_runtime.errors import ContainerError, RuntimeCause

LINE_BYTES = 64 * 1024
"""What is kept of a line; the rest of it is dropped, so that no secret is cut in two and shown in halves."""
OUTPUT_BYTES = 8 * 1024 * 1024
"""What is kept of each output of a command that is waited for."""
_QUEUE_LINES = 1_000
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
        within: tuple[str, ...] = (),
    ) -> Completed:
        """Call it and wait, for ever where ``timeout_s`` is None.

        ``environ`` is added to its own; ``within`` is a command that gets this one to run; ``on_line``
        gets each line of both outputs as it comes, and must not raise.

        Raises ContainerError: NO_RUNTIME without such a program, NO_ANSWER when the time is over. It is ended then, as
        it is when the caller is cancelled.
        """
        stdout, stderr = _Kept(on_line), _Kept(on_line)
        program, typed = (within[0], (*within[1:], self._program, *args)) if within else (self._program, args)
        try:
            async with (
                asyncio.timeout(timeout_s),
                _started(program, typed, {**self._environ, **(environ or {})}, (stdout, stderr)) as process,
            ):
                status = await process.wait()
                # Helpers that outlive it, as podman's do, may hold its outputs open.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HELPER_WAIT_S):
                        await stdout.over.wait()
                        await stderr.over.wait()
        except TimeoutError as error:
            text = f"{self._program} {args[0]} did not answer within {timeout_s} s and was ended"
            hint = f"see what holds it up: {self._program} info; on a slow disk or network, try again"
            raise ContainerError(RuntimeCause.NO_ANSWER, text, hint) from error
        return Completed(status=status, stdout=stdout.text(), stderr=stderr.text())

    async def lines(self, *args: str) -> AsyncGenerator[str, None]:
        """The lines of both outputs as they come, until it ends. It is ended when the generator is closed earlier."""
        waiting: asyncio.Queue[str | None] = asyncio.Queue()
        # Two pipes, so that neither output comes between the two halves of the other's line.
        pipes = (_Queued(waiting), _Queued(waiting))
        async with _started(self._program, args, self._environ, pipes):
            open_pipes = len(pipes)
            while open_pipes:
                line = await waiting.get()
                for pipe in pipes:
                    pipe.go_on()
                if line is None:
                    open_pipes -= 1
                else:
                    yield line


class _Pipe(asyncio.Protocol):
    """One output of a program."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.writer = -1
        """The end that the program gets."""
        self._transport: asyncio.ReadTransport | None = None
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pipe is open."""
        self._transport = cast("asyncio.ReadTransport", transport)  # what connect_read_pipe makes, uvloop's too
        if self._closed:  # given up before it was
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Nobody holds the other end any more, or we have closed ours."""
        self.over.set()

    def close(self) -> None:
        """Read no more, nor what will only be opened. Idempotent."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()


class _Kept(_Pipe):
    """An output that is kept, up to its bound, and shown line by line."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        super().__init__()
        self._on_line = on_line
        self._kept = bytearray()
        self._cutter = _Lines()

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
        self._kept += data[: max(0, OUTPUT_BYTES - len(self._kept))]
        self._show(self._cutter.feed(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """The end; what stands after the last line end is a line too."""
        self._show(self._cutter.rest())
        super().connection_lost(exc)

    def text(self) -> str:
        """What was kept."""
        return self._kept.decode(errors="replace")

    def _show(self, lines: list[str]) -> None:
        if self._on_line is not None:
            for line in lines:
                self._on_line(line)


class _Queued(_Pipe):
    """An output whose lines are put into a queue, no faster than they are taken; None at its end."""

    def __init__(self, queue: asyncio.Queue[str | None]) -> None:
        super().__init__()
        self._queue = queue
        self._cutter = _Lines()

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
        self._put(self._cutter.feed(data))
        if self._queue.qsize() > _QUEUE_LINES and self._transport is not None:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._put([*self._cutter.rest(), None])
        super().connection_lost(exc)

    def go_on(self) -> None:
        """Lines were taken."""
        if self._queue.qsize() <= _QUEUE_LINES and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _put(self, lines: Sequence[str | None]) -> None:
        for line in lines:
            self._queue.put_nowait(line)


@contextlib.asynccontextmanager
async def _started(
    program: str, args: tuple[str, ...], environ: Mapping[str, str], pipes: tuple[_Pipe, _Pipe]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start it in a session of its own; at the end nothing of it runs, but what has left its group on purpose."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
        # Pipes of our own: asyncio's would make wait() hang on to helpers that keep them open.
        for pipe in pipes:
            reader, writer = os.pipe()
            end = its.enter_context(os.fdopen(writer, "wb", buffering=0))
            pipe.writer = end.fileno()
            ours.callback(pipe.close)
            source = os.fdopen(reader, "rb", buffering=0)
            try:
                await loop.connect_read_pipe(lambda pipe=pipe: pipe, source)  # type: ignore[misc]
            except BaseException:
                with contextlib.suppress(OSError):  # uvloop has closed its descriptor and not the file
                    source.close()
                raise
        starting = loop.create_task(
            asyncio.create_subprocess_exec(
                program,
                *args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipes[0].writer,
                stderr=pipes[1].writer,
                env=dict(environ),
                start_new_session=True,
            )
        )
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It may run already, and have begun others: a start that is broken off would end the first of them alone.
            await asyncio.wait([starting])
            if starting.exception() is None:
                await _end(starting.result())
            raise
        except OSError as error:
            raise _no_program(program, error) from error
        its.close()
        try:
            yield process
        finally:
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
