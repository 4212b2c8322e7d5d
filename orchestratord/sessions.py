"""Conversations: how long each lives, what its turns may use up, and which of them goes next.

Decides that a session begins with the first task that names it, ends when its last turn has been over for ``ttl_ms``
or when it makes room for another, and takes at most ``max_turns`` turns, one after the other in the order of their
arrival. A budget is never passed: what a turn may use at most is set aside before it is queued, and what it did not
use is given back. Warm is what the engine's own count shows. Never reads a clock (moments are monotonic milliseconds),
never queues, and knows no slot (``slots`` does).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Collection

import msgspec

from contracts.config import Sessions
from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from contracts.sessions import SessionBudgets
from orchestratord.admission import Refusal


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What the book wants to know of a task that names a session."""

    session_id: str
    model_ref: str
    same_model: Collection[str] = ()
    """The other names of that model."""
    prompt_tokens: int = 0
    """As counted; where nobody could count, more than it can be."""
    max_tokens: int | None = None


class Home(msgspec.Struct, frozen=True):
    """Where a session's cache is: this start of this replica's engine."""

    pool_id: str
    replica_id: str
    start: int


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a turn, by the engine's own count where it gave one.

    ``tokens``: read and generated. ``cached_tokens``: how much of the prompt the engine did not compute, None where it
    does not say. ``kept_tokens``: what it has of the conversation now; None where that is not known.
    """

    tokens: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    kept_tokens: int | None = None


class Turn:
    """One task of a session, from its admission to the end of its connection."""

    def __init__(self, task_id: str, session: Session, ask: Ask, reserved: int, max_tokens: int | None) -> None:
        self.task_id = task_id
        self.session = session
        self.prompt_tokens = ask.prompt_tokens
        self.reserved = reserved
        """Tokens of the budget that are set aside for it; 0 where there is no budget."""
        self.max_tokens = max_tokens
        """At most so many new ones, where the budget bounds them more than the request does."""
        self.began_ms: float | None = None
        """Since when it keeps a slot busy; None while it keeps none."""
        self.ran = False
        self.done = False
        """The engine has ended it well: it is not tried again."""

    @property
    def first(self) -> bool:
        """Whether no earlier turn of its session is left, so that it may run."""
        return self.session.open[0] is self


class Session:
    """One conversation. Written by its book alone."""

    def __init__(self, session_id: str, model_ref: str, number: int) -> None:
        self.id = session_id
        self.model_ref = model_ref
        self.number = number
        """Told from every other session, also from a later one of the same id."""
        self.open: deque[Turn] = deque()
        """The turns that wait or run, in the order of their arrival."""
        self.turns = 0
        self.spent_tokens = 0
        self.spent_ms = 0.0
        self.idle_since_ms = 0.0
        self.ended = False
        """It has left the book: what is still open of it finishes, and nothing follows."""
        self.home: Home | None = None
        self.kv_tokens = 0
        self.prompt_tokens = 0
        """Of its last turn."""
        self.warm = False
        """Whether the engine said that its last turn used what an earlier one had left."""

    @property
    def reserved(self) -> int:
        """Tokens that are set aside for its open turns."""
        return sum(turn.reserved for turn in self.open)


class Book:
    """All sessions of this daemon."""

    def __init__(self, settings: Sessions) -> None:
        self.settings = settings
        self._sessions: dict[str, Session] = {}
        self._idle: OrderedDict[str, Session] = OrderedDict()
        """Those without an open turn; the one that is idle for longest comes first."""
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_id: str, now_ms: float) -> Session | None:
        """A session that lives."""
        session = self._sessions.get(session_id)
        return None if session is None or self.ttl_remaining_ms(session, now_ms) <= 0 else session

    def expired(self, now_ms: float) -> list[Session]:
        """Take out the sessions whose time is over."""
        over = []
        for session in self._idle.values():
            if self.ttl_remaining_ms(session, now_ms) > 0:
                break
            over.append(session)
        for session in over:
            self._take_out(session)
        return over

    # --- turns --------------------------------------------------------------------------------------------------------

    def refusal(self, ask: Ask, now_ms: float, turn_ms: float) -> Refusal | None:
        """Why a task may not be a turn of its session, if it may not. ``turn_ms``: about what a turn takes."""
        session = self.get(ask.session_id, now_ms)
        if session is None:
            if len(self._sessions) >= self.settings.max_sessions and not self._idle:
                return self._no_room(turn_ms)
            return self._tokens_refusal(ask, None, 0, turn_ms)
        if ask.model_ref != session.model_ref and session.model_ref not in ask.same_model:
            return _other_model(session, ask)
        ttl_ms = self.ttl_remaining_ms(session, now_ms)
        if session.turns >= self.settings.max_turns:
            text = f"session {session.id!r} has had {session.turns} of {self.settings.max_turns} turns"
            return _used_up(text, PolicyLabel.SESSION_TURNS, ttl_ms)
        budget_ms = self.settings.time_budget_ms
        if budget_ms is not None and self.spent_ms(session, now_ms) >= budget_ms:
            text = f"session {session.id!r} has used up its time budget of {budget_ms} ms"
            return _used_up(text, PolicyLabel.SESSION_TIME, ttl_ms)
        return self._tokens_refusal(ask, session, ttl_ms, turn_ms)

    def enter(self, ask: Ask, task_id: str, now_ms: float) -> tuple[Turn, list[Session]]:
        """Open a turn that was not refused; answers with the sessions that ended to make room for it, too."""
        gone = self.expired(now_ms)
        session = self._sessions.get(ask.session_id)
        if session is None:
            while len(self._sessions) >= self.settings.max_sessions and self._idle:
                oldest = next(iter(self._idle.values()))
                self._take_out(oldest)
                gone.append(oldest)
            self._numbers += 1
            session = self._sessions[ask.session_id] = Session(ask.session_id, ask.model_ref, self._numbers)
        left = self._left(session)
        need, cap = _need(ask, left)
        turn = Turn(task_id, session, ask, 0 if left is None else need, cap)
        session.turns += 1
        session.open.append(turn)
        self._idle.pop(session.id, None)
        return turn, gone

    def began(self, turn: Turn, home: Home, now_ms: float) -> None:
        """A turn has a slot. What another replica had of the session is of no use from now on."""
        turn.ran = True
        if turn.began_ms is None:
            turn.began_ms = now_ms
        session = turn.session
        if session.home != home:
            session.home, session.kv_tokens = home, 0

    def concluded(self, turn: Turn, used: Used, *, again: bool = False) -> None:
        """The engine has ended a turn, or was told to: what it used is spent, and the rest is free again.

        ``again``: it may run once more, so that the rest stays set aside for it until it is over.
        """
        session = turn.session
        session.spent_tokens += used.tokens
        turn.reserved = max(0, turn.reserved - used.tokens) if again else 0
        if used.prompt_tokens is None and used.cached_tokens is None and used.kept_tokens is None:
            return
        session.warm = is_warm(used, session)
        session.prompt_tokens = used.prompt_tokens or 0
        if used.kept_tokens is not None:
            session.kv_tokens = used.kept_tokens

    def freed(self, turn: Turn, now_ms: float) -> None:
        """A turn keeps no slot busy any more; it may get another where that replica failed."""
        if turn.began_ms is not None:
            turn.session.spent_ms += now_ms - turn.began_ms
            turn.began_ms = None

    def over(self, turn: Turn, now_ms: float) -> Turn | None:
        """Nothing more comes of a turn; answers with the one that may run now. One that never ran is given back."""
        session = turn.session
        was_first = turn.first
        self.freed(turn, now_ms)
        turn.reserved = 0
        session.open.remove(turn)
        if not turn.ran:
            session.turns -= 1
        if session.open:
            return session.open[0] if was_first else None
        session.idle_since_ms = now_ms
        if not session.ended:
            self._idle[session.id] = session
        return None

    def end(self, session: Session) -> None:
        """A session leaves the book now; what is open of it finishes."""
        self._take_out(session)

    def lost(self, session: Session) -> None:
        """The session's cache is gone."""
        session.kv_tokens = 0

    # --- what is left -------------------------------------------------------------------------------------------------

    def ttl_remaining_ms(self, session: Session, now_ms: float) -> int:
        """How long it lives if no turn comes; it does not age while one is open."""
        ttl_ms = self.settings.ttl_ms
        return ttl_ms if session.open else max(0, math.ceil(session.idle_since_ms + ttl_ms - now_ms))

    def spent_ms(self, session: Session, now_ms: float) -> float:
        """How long its turns have kept slots busy, up to now."""
        running = (now_ms - turn.began_ms for turn in session.open if turn.began_ms is not None)
        return session.spent_ms + sum(running)

    def budgets(self, session: Session | None, now_ms: float) -> SessionBudgets:
        """What its turns have not used yet; of a session that is none, what the first one would have."""
        tokens, time_ms = self.settings.token_budget, self.settings.time_budget_ms
        spent, spent_ms = (0, 0.0) if session is None else (session.spent_tokens, self.spent_ms(session, now_ms))
        return SessionBudgets(
            tokens_remaining=None if tokens is None else max(0, tokens - spent),
            time_remaining_ms=None if time_ms is None else max(0, int(time_ms - spent_ms)),
        )

    # --- inside -------------------------------------------------------------------------------------------------------

    def _left(self, session: Session | None) -> int | None:
        """Tokens that no turn has used and that none has set aside; None where there is no budget."""
        budget = self.settings.token_budget
        if budget is None or session is None:
            return budget
        return budget - session.spent_tokens - session.reserved

    def _tokens_refusal(self, ask: Ask, session: Session | None, ttl_ms: int, turn_ms: float) -> Refusal | None:
        left, budget = self._left(session), self.settings.token_budget
        if left is None or budget is None:
            return None
        need, _ = _need(ask, left)
        if need <= left:
            return None
        if need > budget:
            return _never(ask, need, budget)
        waits = 0 if session is None else session.reserved
        others = f", {waits} of them set aside for turns that are not over" if waits else ""
        room, waiting = left - ask.prompt_tokens, need <= left + waits
        mend = f"ask for at most {room} max_tokens" if room > 0 else "shorten the prompt"
        if waiting and room <= 0:
            mend = "wait for those turns, or name max_tokens in each of them"
        return Refusal(
            code=ErrorCode.BUDGET_EXHAUSTED,
            message=f"session {ask.session_id!r} has {left + waits} of {budget} tokens left{others}; "
            f"this turn may take {need}",
            hint=f"{mend}, or DELETE the session and go on in a new one",
            field="session_id",
            # Behind turns that give back what they do not use it may fit; else the session has to end first.
            retry_after_ms=max(1, round(turn_ms) if waiting else ttl_ms),
            policy_label=PolicyLabel.SESSION_TOKENS,
            retriable=True if waiting else None,
        )

    def _no_room(self, turn_ms: float) -> Refusal:
        return Refusal(
            code=ErrorCode.ADMISSION_REJECT,
            message=f"all of {self.settings.max_sessions} sessions have turns that are not over",
            hint="try again later, or raise sessions.max_sessions",
            field="session_id",
            retry_after_ms=max(1, round(turn_ms)),
            policy_label=PolicyLabel.MAX_SESSIONS,
        )

    def _take_out(self, session: Session) -> None:
        session.ended = True
        self._idle.pop(session.id, None)
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]


def is_warm(used: Used, session: Session) -> bool:
    """Whether the engine's count shows that this turn used what the session's last one had left.

    More than half of the shorter of both prompts: every two prompts share their first token, and many their first
    sentence, so that a count above 0 alone shows nothing.
    """
    lengths = [each for each in (used.prompt_tokens, session.prompt_tokens) if each is not None]
    return session.prompt_tokens > 0 and 2 * (used.cached_tokens or 0) > min(lengths)


def _need(ask: Ask, left: int | None) -> tuple[int, int | None]:
    """Tokens that the turn may use at most, and how many new ones it gets where it did not say."""
    if ask.max_tokens is not None or left is None:
        return ask.prompt_tokens + (ask.max_tokens or 1), None
    new = max(1, left - ask.prompt_tokens)
    return ask.prompt_tokens + new, new


def _other_model(session: Session, ask: Ask) -> Refusal:
    return Refusal(
        code=ErrorCode.CONFLICT,
        message=f"session {session.id!r} goes on with model {session.model_ref!r}, not with {ask.model_ref!r}",
        hint="use another session_id for another model, or DELETE the session first",
        field="session_id",
    )


def _never(ask: Ask, need: int, budget: int) -> Refusal:
    """It does not fit into a new session either: the request is wrong, as one is that no context holds."""
    room = budget - ask.prompt_tokens
    return Refusal(
        code=ErrorCode.INVALID_PARAMS,
        message=f"this turn may take {need} tokens, and a whole session has {budget}",
        hint=f"ask for at most {room} max_tokens" if room > 0 else "shorten the prompt, or raise sessions.token_budget",
        field="max_tokens" if room > 0 else "session_id",
        policy_label=PolicyLabel.SESSION_TOKENS,
    )


def _used_up(message: str, label: PolicyLabel, ttl_ms: int) -> Refusal:
    return Refusal(
        code=ErrorCode.BUDGET_EXHAUSTED,
        message=message,
        hint="DELETE the session, or use another session_id, and go on in a new one",
        field="session_id",
        retry_after_ms=max(1, ttl_ms),
        policy_label=label,
    )
