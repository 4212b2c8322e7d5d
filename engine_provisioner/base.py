"""What every provider offers.

Decides the shape only. ``ensure`` does the steps of ``plan`` in their order and nothing else, to which a ``Checklist``
holds it; a new way to get an engine brings its own steps and keeps this shape.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from contracts.config import Pool
from contracts.engines import Finding, Plan, PreparedEngine
from engine_provisioner.plan import StepKind

Progress = Callable[[str], None]
"""Takes one line for the operator; called from the event loop."""


class EngineProvider(Protocol):
    """One way in which a pool gets its engine."""

    def plan(self, pool: Pool) -> Plan:
        """The steps of ``ensure``, in order. Pure: the same pool always gives the same plan. Raises ProvisionError."""

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """Every problem that would stop ``ensure``, found at once; empty when there is none. Changes nothing."""

    async def ensure(self, pool: Pool, progress: Progress) -> PreparedEngine:
        """Execute the plan and record the engine in the engine catalog. Idempotent. Raises ProvisionError."""


class Checklist:
    """Holds an ``ensure`` to its plan: each step is announced before it is done, in the plan's order, none left out.

    A step out of turn is a defect of the provider: AssertionError.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._left = deque(plan.steps)
        self._progress = progress

    def begin(self, kind: StepKind) -> None:
        """Announce the next step, which must be of this kind."""
        step = self._left.popleft() if self._left else None
        if step is None or step.kind != kind:
            raise AssertionError(f"the next step of the plan is {step}, not {kind}")
        self._progress(step.detail)

    def end(self) -> None:
        """Nothing is left to do."""
        if self._left:
            raise AssertionError(f"steps of the plan were left out: {', '.join(step.kind for step in self._left)}")
