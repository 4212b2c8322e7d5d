"""Finds out why an engine failed: gathers what the kernel, the driver and the engine itself tell, for ``diagnosis``.

Decides only for which of the processes that the kernel ended a failure accounts. Starts and ends nothing.
"""

from __future__ import annotations

from contracts.pools import Cause
from pool_managerd.container import EngineContainer
from pool_managerd.devices import GpuEvent
from pool_managerd.diagnosis import Diagnosis, During, Evidence, Exit, diagnose
from pool_managerd.engine_log import EngineLog
from pool_managerd.host import Host
from pool_managerd.oom_kills import OomKills
from pool_managerd.process import RunningEngine


class PostMortem:
    """Of one engine. ``gpus`` are those of its mask, None where it computes on none; ``since`` is the loop's clock."""

    def __init__(self, host: Host, log: EngineLog, *, gpus: frozenset[str] | None, since: float) -> None:
        self._host = host
        self._log = log
        self._gpus = gpus
        self._since = since
        self._oom_kills: OomKills | None = None
        self._oom_kills_before = 0

    def started(self, running: RunningEngine) -> None:
        """The engine runs: what the kernel ends from now on may be its."""
        if isinstance(running, EngineContainer):  # its runtime tells
            return
        where = self._host.scopes
        self._oom_kills = where.inside if running.outlives else where.outside
        self._oom_kills_before = self._oom_kills.count()

    async def diagnosis(self, during: During, exited: Exit | None, health: str | None = None) -> Diagnosis:
        """Why it has ended, or why it is not healthy: ``health`` says that."""
        events: tuple[GpuEvent, ...] = ()
        problem = None
        if self._host.watch is not None and self._gpus is not None:
            problem = (await self._host.watch.look()).problem
            events = self._host.watch.since(self._since, self._gpus)
        kills = frozenset() if self._oom_kills is None else self._oom_kills.since(self._oom_kills_before)
        evidence = Evidence(
            on_gpu=self._gpus is not None,
            during=during,
            exit=exited,
            marks=self._log.marks,
            oom_kills_delta=1 if exited is not None and exited.oom_killed else len(kills),
            gpu_events=events,
            driver_problem=problem,
            health=health,
        )
        found = diagnose(evidence)
        if found.cause is Cause.HOST_OOM and self._oom_kills is not None:
            # One, where it was this process: the engine beside it may have ended of the next.
            alone = exited is not None and exited.killed
            self._oom_kills.explain(frozenset(sorted(kills)[:1]) if alone else kills)
        return found
