"""Between the conversations, the slots that have their caches, and the tasks that are their turns.

Decides nothing that a deciding module can: ``sessions`` says which turn may run and what it may use up, ``slots`` which
slot has whose cache. It tells them what becomes of tasks, turns their answers into refusals, seats and frames, and has
an engine forget what a deleted session left there. The cache of a session that merely ended is worth nothing from then
on and is overwritten by the next task; the engine's memory is the same either way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Protocol

import msgspec
from msgspec import UNSET

from adapters.base import Adapter, EngineError
from adapters.parameters import GENERATING
from contracts.config import Engine, Mode, Sessions
from contracts.errors import ErrorCode
from contracts.events import Metrics
from contracts.sessions import SessionInfo
from contracts.tasks import Determinism, KvHint, TaskRequest
from orchestratord.admission import PoolView, Refusal
from orchestratord.backlog import Backlog
from orchestratord.clock import Clock
from orchestratord.context import most_tokens
from orchestratord.errors import api_error
from orchestratord.pools import PoolDirectory, PoolEntry
from orchestratord.runs import Account, Ended, Seat
from orchestratord.sessions import Ask, Book, Home, Session, Turn, Used
from orchestratord.slots import SlotTable, Taken
from orchestratord.task import Task

log = logging.getLogger(__name__)

ERASING_S = 5.0
"""An engine that has not forgotten a slot by then is not waited for."""

Fail = Callable[[Task, ErrorCode, str, str | None], None]


class Place(Seat, frozen=True, kw_only=True):
    """A seat with what is given back when it comes free."""

    taken: Taken | None = None
    turn: Turn | None = None


class Bid(msgspec.Struct, frozen=True):
    """How a task would come in as a turn; of a task without a session all of it is empty."""

    ask: Ask | None = None
    home: str | None = None
    """The pool that has the session's cache."""
    hold_until_ms: float | None = None
    """Until then no other pool gets the turn."""
    parked: bool = False
    """An earlier turn is not over, so that nobody may start this one yet."""


class Floor(Protocol):
    """Where turns run."""

    def pump(self) -> None:
        """Start everything that can start."""

    def occupy(self, pool_id: str, adapter: Adapter) -> Callable[[], None]:
        """Take a slot for something that is no task; what is answered gives it back."""

    def beside(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Do something that ends with the tasks, whatever it has come to."""


class Turns:
    """The sessions of this daemon, and which of their turns stands where."""

    def __init__(
        self,
        settings: Sessions,
        pools: PoolDirectory,
        backlog: Backlog,
        *,
        clock: Clock,
        find: Callable[[str], Task | None],
        fail: Fail,
    ) -> None:
        self._settings = settings
        self._pools = pools
        self._backlog = backlog
        self._clock = clock
        self._find = find
        self._fail = fail
        self._book = Book(settings)
        self._slots = SlotTable()
        self._turns: dict[str, Turn] = {}
        """The open turns, by the ids of their tasks."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._keepers: dict[str, int] = {}
        """The starts of engines that gave a session back what another task had taken from its slot."""
        self.floor: Floor | None = None
        """Set before the first task comes."""

    def reconfigure(self, settings: Sessions) -> None:
        """Sessions have other bounds from now on, those that live too."""
        self._settings = settings
        self._book.settings = settings

    # --- at the entrance ----------------------------------------------------------------------------------------------

    def counts(self, request: TaskRequest) -> bool:
        """Whether a task's prompt has to be counted exactly."""
        return request.session_id is not None and self._settings.token_budget is not None

    def bid(self, request: TaskRequest, views: Iterable[PoolView], tokens: int | None) -> Bid:
        """What a task would be as a turn; nothing changes. ``tokens`` of its prompt, None where nobody counted them."""
        if request.session_id is None:
            return Bid()
        names = {name for view in views for name in _names(view) if name is not None}
        ask = Ask(
            session_id=request.session_id,
            model_ref=request.model_ref,
            same_model=names,
            prompt_tokens=most_tokens(request) if tokens is None else tokens,
            max_tokens=request.max_tokens,
        )
        session = self._session(request.session_id)
        if session is None:
            return Bid(ask)
        home, until_ms = self._affinity(session, request)
        return Bid(ask, home, until_ms, parked=bool(session.open))

    def refusal(self, request: TaskRequest, bid: Bid, turn_ms: float) -> Refusal | None:
        """Why a task may not be a turn of the session that it names. ``turn_ms``: about what a turn takes."""
        if bid.ask is None:
            return None
        if request.workload not in GENERATING:
            text = f"workload {request.workload} leaves nothing that a next turn could use"
            return Refusal(code=ErrorCode.INVALID_PARAMS, message=text, hint="leave session_id out", field="session_id")
        return self._book.refusal(bid.ask, self._now(), turn_ms)

    def expects_warm(self, request: TaskRequest, pool_id: str) -> bool:
        """Whether a turn that started now in this pool would be expected to find its cache."""
        session = self._session(request.session_id)
        if session is None or not _may_use_cache(request):
            return False
        return self._warm(session, _home_in(self._pools[pool_id]))

    def enter(self, task_id: str, bid: Bid) -> None:
        """A task that was not refused has its place in the queue."""
        if bid.ask is not None:
            self._turns[task_id], gone = self._book.enter(bid.ask, task_id, self._now())
            self._forget(gone)

    # --- while tasks run (``runs.Listener``) --------------------------------------------------------------------------

    def seat(self, task: Task, entry: PoolEntry, adapter: Adapter) -> Seat:
        """The slot that has the session's cache, or the one whose cache is worth least."""
        self._forget(self._book.expired(self._now()))
        turn = self._turns.get(task.id)
        home = _home_in(entry)
        warm = turn is not None and _may_use_cache(task.request) and self._warm(turn.session, home)
        there = turn is not None and self._there(turn.session, home)
        taken = None
        if _chooses(entry):
            owner = None if turn is None else turn.session.number
            taken = self._slots.take(entry.id, adapter, entry.start, entry.slots, owner)
        if turn is not None:
            self._begin(turn, task, home, there=there)
        return Place(
            slot=None if taken is None else taken.index,
            warm=warm,
            max_tokens=None if turn is None else turn.max_tokens,
            taken=taken,
            turn=turn,
        )

    def ended(self, task: Task, account: Account) -> Metrics | None:
        """Spend what the turn used, and say what is different from what was said when it started."""
        turn = self._turns.get(task.id)
        if turn is None:
            return None
        _drop(self._timers, task.id)
        self._book.concluded(turn, _used(turn, account), again=account.ended is Ended.FAILED)
        if account.ended is not Ended.DONE:
            return None
        turn.done = True
        self._learn(turn, account)
        warm, left = turn.session.warm, self._book.budgets(turn.session, self._now())
        said = Metrics(
            kv_warmth=UNSET if warm is account.seat.warm else warm,
            tokens_budget_remaining=UNSET if left.tokens_remaining is None else left.tokens_remaining,
            time_budget_remaining_ms=UNSET if left.time_remaining_ms is None else left.time_remaining_ms,
        )
        return None if said == Metrics() else said

    def freed(self, _pool_id: str, _adapter: Adapter, seat: Seat) -> None:
        """The slot can be given to another, and the session's next turn may run."""
        if not isinstance(seat, Place):
            return
        if seat.taken is not None:
            self._slots.give_back(seat.taken)
        if seat.turn is not None:
            self._book.freed(seat.turn, self._now())
            task = self._find(seat.turn.task_id)
            if seat.turn.done or task is None or task.finished:
                self._over(seat.turn)

    def settled(self, task: Task) -> None:
        """A task has had its terminal event; one that keeps no slot busy is over."""
        _drop(self._timers, task.id)
        turn = self._turns.get(task.id)
        if turn is not None and turn.began_ms is None and self._over(turn) and self.floor is not None:
            asyncio.get_running_loop().call_soon(self.floor.pump)  # others may be ending with it

    # --- what clients ask ---------------------------------------------------------------------------------------------

    def info(self, session_id: str) -> SessionInfo:
        """A session as it is now. Raises ApiError NOT_FOUND."""
        session, now = self._known(session_id), self._now()
        home = self._home(session)
        there = home is not None and self._there(session, home)
        tokens = session.kv_tokens if there else 0
        each = None if home is None else self._pools[home.pool_id].snapshot.kv_bytes_per_token
        return SessionInfo(
            session_id=session.id,
            model_ref=session.model_ref,
            ttl_ms_remaining=self._book.ttl_remaining_ms(session, now),
            turns=session.turns,
            turns_max=self._settings.max_turns,
            kv_tokens=tokens,
            kv_bytes=0 if tokens == 0 else None if each is None else tokens * each,
            kv_warmth=session.warm and there,
            replica_id=home.replica_id if there and home is not None else None,
            budgets=self._book.budgets(session, now),
        )

    def headers(self, session_id: str) -> dict[str, str]:
        """What a session has left, or would have as a new one, where there is a budget."""
        left = self._book.budgets(self._session(session_id), self._now())
        tokens, time_ms = left.tokens_remaining, left.time_remaining_ms
        said = {"X-Budget-Tokens-Remaining": tokens, "X-Budget-Time-Remaining-Ms": time_ms}
        return {name: str(value) for name, value in said.items() if value is not None}

    async def delete(self, session_id: str) -> None:
        """End a session. Its slot is free when this returns, or when its last turn is over.

        Raises ApiError NOT_FOUND.
        """
        session = self._known(session_id)
        self._book.end(session)
        erasing = None if session.open else self._erase(session)
        if erasing is not None:
            await asyncio.wait((erasing,))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock.monotonic_ms()

    def _session(self, session_id: str | None) -> Session | None:
        return None if session_id is None else self._book.get(session_id, self._now())

    def _known(self, session_id: str) -> Session:
        session = self._session(session_id)
        if session is None:
            hint = f"a session ends {self._settings.ttl_ms} ms after its last turn (sessions.ttl_ms)"
            raise api_error(ErrorCode.NOT_FOUND, f"there is no session {session_id!r}", hint)
        return session

    def _home(self, session: Session) -> Home | None:
        """Where the session's cache was left, if that engine is still the same."""
        home = session.home
        same = home is not None and self._pools[home.pool_id].start == home.start
        return home if same else None

    def _there(self, session: Session, home: Home) -> bool:
        """Whether this start of this replica has the session's cache, by all that is known."""
        if session.home != home or session.kv_tokens == 0:
            return False
        ours = _chooses(self._pools[home.pool_id])
        return not ours or self._slots.holds(home.pool_id, home.start, session.number)

    def _warm(self, session: Session, home: Home) -> bool:
        """Whether it is expected to use it: where we do not see its slots, once it has shown that it does."""
        return self._there(session, home) and (session.warm or _chooses(self._pools[home.pool_id]))

    def _affinity(self, session: Session, request: TaskRequest) -> tuple[str | None, float | None]:
        """The pool where the session is at home, and until when a turn is held for it: where its cache may be."""
        home = self._home(session)
        if home is None:
            return None, None
        kept = self._there(session, home) or self._keepers.get(home.pool_id) == home.start
        held = kept and _may_use_cache(request)
        return home.pool_id, self._now() + self._settings.affinity_wait_ms if held else None

    def _learn(self, turn: Turn, account: Account) -> None:
        """One that is warm where cold was expected keeps caches beside its slots: a turn may well wait for it."""
        session = turn.session
        if session.warm and not account.seat.warm and account.seat.slot is not None and session.home is not None:
            self._keepers[session.home.pool_id] = session.home.start

    def _begin(self, turn: Turn, task: Task, home: Home, *, there: bool) -> None:
        now = self._now()
        self._book.began(turn, home, now)
        if not there:
            self._book.lost(turn.session)
        left = self._book.budgets(turn.session, now).time_remaining_ms
        if left is not None:
            loop = asyncio.get_running_loop()
            self._timers[task.id] = loop.call_later(left / 1000, self._out_of_time, task, turn)

    def _out_of_time(self, task: Task, turn: Turn) -> None:
        if task.finished:
            return
        text = f"session {turn.session.id!r} has used up its time budget of {self._settings.time_budget_ms} ms"
        self._fail(task, ErrorCode.BUDGET_EXHAUSTED, text, "go on in a new session")

    def _over(self, turn: Turn) -> bool:
        """A turn is through: let the next one run; of a session that was deleted nothing stays. Whether one may run."""
        if self._turns.pop(turn.task_id, None) is None:
            return False
        session = turn.session
        following = self._book.over(turn, self._now())
        if following is not None:
            self._let_run(following)
        elif session.ended and not session.open:
            self._erase(session)
        return following is not None

    def _let_run(self, turn: Turn) -> None:
        task = self._find(turn.task_id)
        if task is None or task.finished:  # pragma: no cover - a task that ended is no open turn
            return
        if self._book.budgets(turn.session, self._now()).time_remaining_ms == 0:
            # Not at once: its end lets the next one run, and there may be many.
            asyncio.get_running_loop().call_soon(self._out_of_time, task, turn)
            return
        home, until_ms = self._affinity(turn.session, task.request)
        self._backlog.unpark(turn.task_id, home, until_ms)

    def _forget(self, gone: Iterable[Session]) -> None:
        for session in gone:
            self._slots.forget(session.number)

    def _erase(self, session: Session) -> asyncio.Task[None] | None:
        """Have the engine forget what an ended session left, where we know the slot and nobody else works in it."""
        home, floor = self._home(session), self.floor
        entry = None if home is None else self._pools[home.pool_id]
        if home is None or entry is None or entry.adapter is None or not entry.usable or floor is None:
            self._slots.forget(session.number)
            return None
        taken = self._slots.take_own(home.pool_id, home.start, session.number)
        self._slots.forget(session.number)
        if taken is None:
            return None
        give_back = floor.occupy(entry.id, entry.adapter)
        return floor.beside(self._erased(entry, entry.adapter, taken, give_back), f"erase-{entry.id}-{taken.index}")

    async def _erased(self, entry: PoolEntry, adapter: Adapter, taken: Taken, give_back: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(ERASING_S):
                await adapter.erase(taken.index)
        except (EngineError, TimeoutError) as error:
            why = str(error) or "it did not answer"
            log.warning("pool %s did not erase slot %d: %s", entry.id, taken.index, why, extra={"pool_id": entry.id})
        except Exception:  # as with a generation: a mistake of ours about one slot must not end all the others
            log.exception("slot %d of pool %s could not be erased", taken.index, entry.id, extra={"pool_id": entry.id})
        finally:
            self._slots.give_back(taken)
            give_back()


def _chooses(entry: PoolEntry) -> bool:
    """Whether we say which slot serves: of an engine that others may use too, we do not know which are busy."""
    return entry.snapshot.engine is Engine.LLAMACPP and entry.snapshot.provisioning_mode is not Mode.EXTERNAL


def _home_in(entry: PoolEntry) -> Home:
    return Home(entry.id, entry.snapshot.replica_id, entry.start)


def _may_use_cache(request: TaskRequest) -> bool:
    return request.determinism is not Determinism.STRICT and request.kv_hint is not KvHint.COLD


def _names(view: PoolView) -> tuple[str | None, ...]:
    snapshot = view.snapshot
    return snapshot.model_ref, snapshot.model_id, snapshot.model_digest


def _used(turn: Turn, account: Account) -> Used:
    """What a run came to. Of one that was cut off the engine gives no account: the text that came is what it made."""
    if account.ended is not Ended.DONE:
        return Used(tokens=turn.prompt_tokens + account.pieces if account.pieces else 0)
    read, made = account.tokens_in or 0, account.pieces if account.tokens_out is None else account.tokens_out
    return Used(
        tokens=read + made,
        prompt_tokens=account.tokens_in,
        cached_tokens=account.cached_tokens,
        # The last token of an answer is told and not computed with.
        kept_tokens=None if account.cached_tokens is None else read + max(0, made - 1),
    )


def _drop(timers: dict[str, asyncio.TimerHandle], task_id: str) -> None:
    timer = timers.pop(task_id, None)
    if timer is not None:
        timer.cancel()
