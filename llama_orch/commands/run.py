"""``llama-orch run``: submit a task and stream its answer.

Decides the default model and what Ctrl-C does: the first cancels the task and waits for its end, the second leaves.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import Annotated

import typer

from contracts.events import End, FinishReason, Metrics, Started, StreamError, Token
from contracts.pools import Capabilities
from contracts.tasks import (
    ChatMessage,
    Determinism,
    Placement,
    PlacementMode,
    Priority,
    Role,
    Sampling,
    TaskRequest,
    Workload,
)
from daemon_core.entry import first_leaf
from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE, StartupError
from llama_orch.client import ApiClient, new_task_id
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.errors import EXIT_INTERRUPTED, ApiError
from llama_orch.output import Output
from llama_orch.prospects import forecast_lines, waiting_line
from llama_orch.session import Session, find_session

MAX_SEED = 2**32 - 2
Build = Callable[[str], TaskRequest]


def run(
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    *,
    model: Annotated[str | None, typer.Option(help="The model (default: that of the first ready pool).")] = None,
    pool: Annotated[str | None, typer.Option(help="Insist on this pool.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Where the randomness starts.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="At most so many new tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=10, help="0 is greedy.")] = None,
    priority: Annotated[Priority, typer.Option(help="Interactive goes first.")] = Priority.INTERACTIVE,
    strict: Annotated[bool, typer.Option("--strict", help="The same seed gives the same bytes.")] = False,
    session: Annotated[str | None, typer.Option(metavar="ID", help="A turn of this conversation.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Use the model's chat template.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say when it would start and end.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say where it waits, also where nobody looks.")] = False,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Ask a model and stream the answer."""
    text = prompt_text(prompt)

    def build(model_ref: str) -> TaskRequest:
        return TaskRequest(
            model_ref=model_ref,
            task_id=new_task_id(),
            session_id=session,
            workload=Workload.CHAT if chat else Workload.COMPLETION,
            prompt=None if chat else text,
            messages=(ChatMessage(role=Role.USER, content=text),) if chat else None,
            priority=priority,
            seed=seed,
            max_tokens=max_tokens,
            determinism=Determinism.STRICT if strict else Determinism.BEST_EFFORT,
            sampling=Sampling() if temperature is None else Sampling(temperature=temperature),
            placement=Placement() if pool is None else Placement(mode=PlacementMode.PIN, pool_id=pool),
        )

    found, out = find_session(config, url), Output(as_json=as_json)
    if dry_run:
        return asyncio.run(_foretell(found, out, build, model, pool))
    return asyncio.run(_run(found, out, build, model, pool, verbose=verbose))


async def _foretell(session: Session, out: Output, build: Build, model: str | None, pool: str | None) -> int:
    async with session.client() as client:
        found = await client.forecast(
            build(default_model(await client.capabilities(), pool) if model is None else model)
        )
    for line in forecast_lines(found):
        out.line(line)
    out.data(found)
    return 0


async def _run(
    session: Session, out: Output, build: Build, model: str | None, pool: str | None, *, verbose: bool
) -> int:
    async with session.client() as client:
        request = build(default_model(await client.capabilities(), pool) if model is None else model)
        answer = _Answer(out, verbose=verbose)
        try:
            async with asyncio.TaskGroup() as group:
                interrupts = _Interrupts(client, request.task_id or "", group)
                await answer.read(client, request)
                interrupts.detach()
        except ExceptionGroup as failed:
            raise first_leaf(failed) from None
        return answer.finish(interrupted=interrupts.count > 0)


def prompt_text(given: str) -> str:
    """The prompt, from standard input where it is ``-``. Raises StartupError where it is no UTF-8."""
    # What was not UTF-8 on the command line came as lone surrogates, one for each byte.
    raw = sys.stdin.buffer.read() if given == "-" else given.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        text = f"the prompt is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}"
        raise StartupError(text, "convert it, for example with: iconv -f latin1 -t utf-8", EXIT_USAGE) from error


def default_model(capabilities: Capabilities, pool_id: str | None) -> str:
    """The model of the pool that is asked for, else of the first that is ready.

    Raises ApiError where no pool is ready, or there is no such pool.
    """
    if pool_id is not None:
        known = {pool.pool_id: pool.model_ref for pool in capabilities.pools}
        if pool_id in known:
            return known[pool_id]
        raise ApiError("NOT_FOUND", f"there is no pool {pool_id!r}", hint=f"pools: {', '.join(known)}")
    ready = [pool.model_ref for pool in capabilities.pools if pool.ready]
    if ready:
        return ready[0]
    raise ApiError("POOL_UNREADY", "no pool is ready", hint="llama-orch pools shows why", retriable=True)


class _Interrupts:
    """Ctrl-C while a task runs: the first cancels the task, the second this program."""

    def __init__(self, client: ApiClient, task_id: str, group: asyncio.TaskGroup) -> None:
        self.count = 0
        self._client = client
        self._task_id = task_id
        self._group = group
        self._main = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)

    def detach(self) -> None:
        """From here on Ctrl-C has its usual meaning."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _interrupt(self) -> None:
        self.count += 1
        if self.count == 1:
            self._group.create_task(self._client.cancel(self._task_id), name="cancel")
        elif self._main is not None:
            self._main.cancel()


class _Answer:
    """Shows an answer as it comes and keeps what the end needs."""

    def __init__(self, out: Output, *, verbose: bool) -> None:
        self._out = out
        self._tells = verbose or out.notes_are_read
        self._pieces: list[str] = []
        self._started: Started | None = None
        self._last: End | StreamError | None = None
        self._told: str | None = None

    async def read(self, client: ApiClient, request: TaskRequest) -> None:
        """Follow the stream to its end."""
        async with aclosing(client.run(request)) as events:
            async for event in events:
                match event:
                    case Token(t=text):
                        self._pieces.append(text)
                        self._out.piece(text)
                    case Started():
                        self._started = event
                    case Metrics():
                        self._tell(event)
                    case End() | StreamError():
                        self._last = event

    def _tell(self, told: Metrics) -> None:
        if self._started is not None:
            self._started = self._started.since(told)
            return
        line = waiting_line(told)
        if self._tells and line is not None and line != self._told:
            self._out.note(line)
            self._told = line

    def finish(self, *, interrupted: bool) -> int:
        """Show the end; the answer is the exit status. Raises ApiError where the task failed."""
        text = "".join(self._pieces)
        if text and not text.endswith("\n"):
            self._out.piece("\n")
        last = self._last
        if isinstance(last, StreamError):
            after = None if not isinstance(last.retry_after_ms, int) else last.retry_after_ms
            hint = last.hint if isinstance(last.hint, str) else None
            raise ApiError(last.code, last.message, hint=hint, retriable=last.retriable, retry_after_ms=after)
        if last is None:
            return EXIT_FAILURE
        self._out.data({"text": text, "started": self._started, "end": last})
        if not self._out.as_json:
            self._out.note(stats_line(self._started, last))
        if last.finish_reason is FinishReason.CANCELED:
            return EXIT_INTERRUPTED if interrupted else EXIT_FAILURE
        return 0


def stats_line(started: Started | None, end: End) -> str:
    """What is worth knowing about an answer, in one line."""
    speed = 1000 * end.tokens_out / max(end.decode_time_ms, 1)
    parts = [
        f"{end.tokens_in} tokens in, {end.tokens_out} out",
        f"{speed:.0f} tokens/s",
        f"queued {end.queue_time_ms} ms",
        f"first token after {end.first_token_ms} ms",
        str(end.finish_reason),
    ]
    if started is not None:
        engine = f"{started.engine} {started.engine_version}"
        parts += [f"pool {started.pool_id}", engine, f"seed {started.seed}", f"profile {started.profile}"]
    return " | ".join(parts)
