"""What a task will ask of an engine, as far as that is known before it runs, and what many of them ask together.

Decides nothing but what is alike: tasks of one *kind* are predicted from the same measurements, so a queue of any
length comes down to a handful of sums.
"""

from __future__ import annotations

import msgspec

from adapters.parameters import GENERATING
from contracts.tasks import Priority, TaskRequest, Workload


class Kind(msgspec.Struct, frozen=True, eq=True, order=True):
    """Tasks that are predicted alike."""

    priority: Priority
    workload: Workload
    in_session: bool
    """Whether an engine may still have the first part of the prompt in its cache."""
    hinted: bool
    """Whether the client said how many new tokens it expects."""
    bound: int
    """In powers of two about how many new tokens there may be; 0 for none at all."""


class Demand(msgspec.Struct, frozen=True):
    """One task's."""

    kind: Kind
    prompt: float
    """Tokens of the prompt, counted or estimated."""
    bound: int
    """So many new tokens at most: what was asked for, or the rest of the context."""
    hint: int = 0
    """How many the client expects; 0 where it does not say."""
    counted: bool = False
    """Whether an engine has counted the prompt."""


class Tally:
    """The demands of some waiting tasks, added up by kind. Every operation is O(1) in their number."""

    __slots__ = ("sums",)

    def __init__(self) -> None:
        self.sums: dict[Kind, Sum] = {}

    def add(self, demand: Demand) -> None:
        """One more task waits."""
        held = self.sums.get(demand.kind, NOTHING)
        self.sums[demand.kind] = Sum(
            held.count + 1, held.prompt + demand.prompt, held.bound + demand.bound, held.hint + demand.hint
        )

    def remove(self, demand: Demand) -> None:
        """A task that was added waits no more."""
        held = self.sums[demand.kind]
        if held.count == 1:
            del self.sums[demand.kind]  # and with it what adding and taking away of floats left over
            return
        self.sums[demand.kind] = Sum(
            held.count - 1, max(0.0, held.prompt - demand.prompt), held.bound - demand.bound, held.hint - demand.hint
        )


class Sum(msgspec.Struct, frozen=True):
    """What tasks of one kind ask for together."""

    count: int
    prompt: float
    bound: int
    hint: int


NOTHING = Sum(0, 0.0, 0, 0)


def demand_of(request: TaskRequest, prompt: float, ctx_max: int, *, counted: bool = False) -> Demand:
    """What a request asks for whose prompt has about ``prompt`` tokens, with a context of ``ctx_max``."""
    if request.workload in GENERATING:
        bound = max(1, round(ctx_max - prompt)) if request.max_tokens is None else request.max_tokens
    else:
        bound = 0
    hint = min(request.expected_tokens or 0, bound)
    kind = Kind(
        priority=request.priority,
        workload=request.workload,
        in_session=request.session_id is not None,
        hinted=hint > 0,
        bound=bound.bit_length(),
    )
    return Demand(kind=kind, prompt=prompt, bound=bound, hint=hint, counted=counted)


UNKNOWN = Demand(Kind(Priority.INTERACTIVE, Workload.COMPLETION, in_session=False, hinted=False, bound=0), 0.0, 0)
"""Of a task whose demand nobody has looked at."""
