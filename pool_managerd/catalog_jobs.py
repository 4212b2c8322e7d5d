"""Work on models that takes a while: one of a kind at a time, in the order in which it was asked for.

Decides when a job runs and what is shown of it. Never decides what a job does. What is asked for twice is done once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from contracts.base import Message
from contracts.catalog import CatalogJob, JobKind, JobState, VerifyReason, VerifyResult
from pool_managerd.errors import StepError

_log = logging.getLogger(__name__)

SHOW_S = 0.5
"""Progress is shown this often at most."""
MAX_MESSAGE = 1_000

Progress = Callable[[str], None]


class Done(Message, frozen=True, kw_only=True):
    """How a job ended that did what it should, also where it found something bad. ``model_id`` is the final one."""

    model_id: str
    message: str
    hint: str | None = None
    result: VerifyResult | None = None
    reason: VerifyReason | None = None


Work = Callable[[Progress], Awaitable[Done]]
"""Raises StepError."""


@dataclass(eq=False)
class _Running:
    job: CatalogJob
    work: Work
    over: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class CatalogJobs:
    """The jobs of one daemon. ``show`` gets each job whenever it has changed, ``redact`` every text first."""

    def __init__(
        self, *, show: Callable[[CatalogJob], None], redact: Callable[[str], str], now_ms: Callable[[], int]
    ) -> None:
        self._show = show
        self._redact = redact
        self._now_ms = now_ms
        self._number = 0
        self._waiting: dict[JobKind, asyncio.Queue[_Running]] = {kind: asyncio.Queue() for kind in JobKind}
        self._open: dict[tuple[JobKind, str], _Running] = {}

    async def run(self) -> None:
        """Do what is asked for, until cancelled; what runs then is cancelled with it."""
        async with asyncio.TaskGroup() as group:
            for kind in JobKind:
                group.create_task(self._lane(kind), name=f"catalog: {kind}")

    def begin(self, kind: JobKind, model_id: str, model_ref: str, engine: str, work: Work) -> CatalogJob:
        """Ask for a job. One of this kind on this model that is not over yet is the answer itself."""
        if (known := self._open.get((kind, model_id))) is not None:
            return known.job
        self._number += 1
        job = CatalogJob(
            number=self._number,
            kind=kind,
            model_id=model_id,
            asked_id=model_id,
            model_ref=model_ref,
            state=JobState.WAITING,
            started_ms=self._now_ms(),
            engine=engine,
        )
        running = self._open[kind, model_id] = _Running(job, work)
        self._waiting[kind].put_nowait(running)
        self._show(job)
        return job

    def open_on(self, kind: JobKind, model_id: str) -> CatalogJob | None:
        """The job of this kind on this model that is not over."""
        running = self._open.get((kind, model_id))
        return None if running is None else running.job

    async def cancel(self, model_id: str) -> bool:
        """End every job on this model, and wait for it; whether there was one."""
        found = [running for kind in JobKind if (running := self._open.get((kind, model_id))) is not None]
        for running in found:
            if running.task is None:
                self._end(running, replace(running.job, state=JobState.CANCELED, message="canceled"))
            else:
                running.task.cancel()
            await running.over.wait()
        return bool(found)

    async def _lane(self, kind: JobKind) -> None:
        while True:
            running = await self._waiting[kind].get()
            if running.over.is_set():
                continue
            async with asyncio.TaskGroup() as group:
                running.task = group.create_task(self._do(running), name=f"{kind} {running.job.model_id}")
            if not running.over.is_set():  # it was cancelled before it began
                self._end(running, replace(running.job, state=JobState.CANCELED, message="canceled"))

    async def _do(self, running: _Running) -> None:
        self._change(running, replace(running.job, state=JobState.RUNNING))
        last = -SHOW_S

        def progress(line: str) -> None:
            nonlocal last
            running.job = replace(running.job, message=self._text(line))
            now = asyncio.get_running_loop().time()
            if now - last >= SHOW_S:
                last = now
                text = "%s model %s: %s"
                _log.info(
                    text, running.job.kind, running.job.model_id, running.job.message, extra=_known_by(running.job)
                )
                self._show(running.job)

        try:
            done = await running.work(progress)
        except asyncio.CancelledError:
            self._end(running, replace(running.job, state=JobState.CANCELED, message="canceled"))
        except StepError as error:
            self._fail(running, str(error.cause), error.message, error.hint)
        except Exception as error:  # noqa: BLE001 - a defect in one job must not end the pools
            text = "%s model %s: a defect"
            _log.exception(text, running.job.kind, running.job.model_id, extra=_known_by(running.job))
            self._fail(running, "internal", f"a defect: {error!r}", "please report it, with the log")
        else:
            self._end(
                running,
                replace(
                    running.job,
                    state=JobState.DONE,
                    model_id=done.model_id,
                    message=self._text(done.message),
                    hint=done.hint,
                    result=done.result,
                    reason=done.reason,
                ),
            )

    def _fail(self, running: _Running, cause: str, message: str, hint: str | None) -> None:
        shown = hint and self._text(hint)
        message = self._text(message)
        self._end(running, replace(running.job, state=JobState.FAILED, cause=cause, message=message, hint=shown))

    def _end(self, running: _Running, job: CatalogJob) -> None:
        del self._open[job.kind, job.asked_id]
        self._change(running, replace(job, ended_ms=self._now_ms()))
        bad = job.state is JobState.FAILED or job.result is VerifyResult.FAILED
        level = logging.ERROR if bad else logging.INFO
        hint = f" ({job.hint})" if job.hint else ""
        text, came_to = "%s model %s: %s: %s%s", job.result or job.state
        _log.log(level, text, job.kind, job.model_id, came_to, job.message, hint, extra=_known_by(job))
        running.over.set()

    def _change(self, running: _Running, job: CatalogJob) -> None:
        running.job = job
        self._show(job)

    def _text(self, text: str) -> str:
        return self._redact(text)[:MAX_MESSAGE]


def _known_by(job: CatalogJob) -> dict[str, object]:
    """What a log line about it carries, so that it is found."""
    return {"job": str(job.kind), "model_id": job.model_id}
