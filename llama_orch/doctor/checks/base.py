"""What every check is: a name, what it is about, how it is done, and what it may find.

Decides how long a check may take, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from llama_orch.doctor.base import Kind, Result
from llama_orch.doctor.machine import Look

LIMIT_S = 12.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check; ``run`` gathers the facts and has them judged."""

    name: str
    about: str
    judge: ModuleType
    """The module that judges its facts."""
    run: Callable[[Look], Awaitable[Sequence[Result]]]
    limit_s: float = LIMIT_S
    at_start: bool = True
    """Whether it says anything new while the daemons start."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Everything that it can find; a new kind in its judge is among them by itself."""
        found = (value for value in vars(self.judge).values() if isinstance(value, Kind))
        return tuple(kind for kind in found if kind.check == self.name)
