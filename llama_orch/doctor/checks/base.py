"""What every check is: a name, what it is about, and how it is done.

Decides how long a check may take, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from llama_orch.doctor.base import Result
from llama_orch.doctor.machine import Look

LIMIT_S = 12.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check; ``run`` gathers the facts and has them judged."""

    name: str
    about: str
    run: Callable[[Look], Awaitable[Sequence[Result]]]
    limit_s: float = LIMIT_S
    at_start: bool = True
    """Whether it says anything new while the daemons start."""
