"""Looks at engines: what a new one is, and whether one that failed still lives.

Decides when an engine is trusted. A new one is asked what it serves before anything is sent to it; one under suspicion
gets nothing until it answers well, and is asked anew then, since it may be another one by now. An engine that looks
well and hangs on one run after the other is reported to pool-managerd, which starts it anew. Never sends a generation.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from weakref import WeakKeyDictionary

import msgspec

from adapters.base import Adapter, EngineError, Failure, Health, Props
from contracts.config import Mode
from orchestratord.pools import PoolEntry
from orchestratord.vouched import changed

log = logging.getLogger(__name__)

MUTE = frozenset({Failure.INVALID, Failure.UNAUTHORIZED, Failure.PROTOCOL})
"""What an engine that will not say what it is does not recover from by itself: its configuration is wrong, or ours."""

RECHECK_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between looks at an engine that is under suspicion or does not say what it is; the last one repeats."""

MAX_HANGS = 3
"""So many runs in a row that an engine left hanging, none between them that it ended well."""


class Looks:
    """Everything that is going on about engines beside their work."""

    def __init__(
        self,
        *,
        learned: Callable[[PoolEntry], None],
        usable: Callable[[], None],
        restart: Callable[[str], bool],
        start: Callable[[Coroutine[None, None, None], str], None],
    ) -> None:
        self._learned = learned
        self._usable = usable
        self._restart = restart
        self._start = start
        self._hangs = WeakKeyDictionary[Adapter, int]()
        """An engine that is replaced takes its count along."""
        self._open = False

    def open(self) -> None:
        """Looks may begin."""
        self._open = True

    def close(self) -> None:
        """None begins any more."""
        self._open = False

    def learn(self, entry: PoolEntry) -> None:
        """Ask a running engine, once in each of its starts, what it is and what it serves."""
        if self._open and entry.introducible and entry.adapter is not None and not entry.asked:
            entry.asked = True
            self._start(self._ask(entry, entry.adapter, entry.start), f"props-{entry.id}")

    def suspect(self, entry: PoolEntry, adapter: Adapter) -> None:
        """The engine may be dead: nothing is sent to it until it answers well."""
        if self._open and entry.adapter is adapter and not entry.suspect:
            entry.suspect = True
            self._start(self._recheck(entry, adapter), f"recheck-{entry.id}")

    def doubt(self, entry: PoolEntry, adapter: Adapter) -> None:
        """The engine lives, and may be another one than it was: it is asked anew before anything more is sent."""
        if self._open and entry.adapter is adapter and entry.props is not None:
            entry.restarted()
            self.learn(entry)

    def hung(self, entry: PoolEntry, adapter: Adapter) -> None:
        """It has left a run hanging. Its health may be well all the same."""
        hangs = self._hangs[adapter] = self._hangs.get(adapter, 0) + 1
        if hangs >= MAX_HANGS and entry.adapter is adapter:
            del self._hangs[adapter]
            self.lost(entry, f"its engine left {hangs} tasks in a row hanging")

    def worked(self, adapter: Adapter) -> None:
        """It has ended a run well."""
        if self._hangs:
            self._hangs.pop(adapter, None)

    def lost(self, entry: PoolEntry, why: str) -> None:
        """The engine is worth nothing as it is: pool-managerd is asked to start it anew."""
        log.warning("pool %s: %s; pool-managerd is asked to start it anew", entry.id, why, extra={"pool_id": entry.id})
        if not self._restart(entry.id):
            log.warning("pool %s: pool-managerd cannot be reached", entry.id, extra={"pool_id": entry.id})

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _ask(self, entry: PoolEntry, adapter: Adapter, start: int) -> None:
        """Ask until it says what it is, or until it is started anew; nothing is sent to it before."""
        said = ""
        for pause in itertools.chain(RECHECK_S, itertools.repeat(RECHECK_S[-1])):
            answer = await _introduction(entry, adapter)
            if entry.start != start:
                return
            if not isinstance(answer, EngineError):
                entry.props, entry.model, entry.mute = answer.props, answer.model, None
                break
            if answer.message != said:
                log.warning("pool %s does not say what it is: %s", entry.id, answer.message)
            said = answer.message
            if answer.failure in MUTE:
                entry.mute = answer.message
                entry.heard.set()
                self._learned(entry)
            await asyncio.sleep(pause)
            if entry.start != start:
                return
        entry.heard.set()
        self._learned(entry)
        self._usable()

    async def _recheck(self, entry: PoolEntry, adapter: Adapter) -> None:
        """Look at an engine under suspicion until it answers well, or until pool-managerd reports a change."""
        pauses = iter(RECHECK_S)
        pause = RECHECK_S[0]
        while self._open and entry.suspect and entry.adapter is adapter:
            pause = next(pauses, pause)
            await asyncio.sleep(pause)
            if await _answers_well(entry, adapter) and entry.adapter is adapter and entry.suspect:
                entry.suspect = False
                self.doubt(entry, adapter)


async def _answers_well(entry: PoolEntry, adapter: Adapter) -> bool:
    try:
        return await adapter.health() is Health.OK
    except Exception:  # as with a generation: a mistake of ours about one pool must not end all the others
        log.exception("pool %s could not be looked at", entry.id)
        return False


class Introduction(msgspec.Struct, frozen=True):
    """What an engine says of itself, and which model it has where that may change under us."""

    props: Props
    model: str | None = None


async def _introduction(entry: PoolEntry, adapter: Adapter) -> Introduction | EngineError:
    """Changes nothing: whether it is still this start that has answered, the caller sees."""
    try:
        props = await adapter.props()
        if entry.snapshot.provisioning_mode is not Mode.EXTERNAL:
            return Introduction(props)
        said, before = await adapter.model(), entry.model
        return changed(before, said) if before is not None and said != before else Introduction(props, said)
    except EngineError as error:
        return error
    except Exception:  # as with a generation
        log.exception("pool %s could not be asked what it is", entry.id)
        return EngineError(Failure.PROTOCOL, "internal error; the log has the details")
