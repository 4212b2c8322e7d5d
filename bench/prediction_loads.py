"""The loads that predictions are tried on: machines, flows of tasks into them, and the tasks that are drawn."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from contracts.tasks import Priority


@dataclass(frozen=True)
class Machine:
    """One engine: milliseconds for a run, for a token of its prompt, and for a new one."""

    slots: int
    fixed_ms: float
    prompt_ms: float
    new_ms: float
    unsteady: float = 0.05


@dataclass(frozen=True)
class Flow:
    """Tasks of one kind. Lengths are drawn from a logarithmic normal distribution (median, sigma)."""

    share: float
    prompt: tuple[float, float]
    answer: tuple[float, float]
    priority: Priority = Priority.INTERACTIVE
    max_tokens: tuple[int, ...] | None = None
    """One of these bounds; left out, there is none."""
    hint: float | None = None
    """The client knows the length but for this sigma."""


@dataclass(frozen=True)
class Mix:
    """A load: flows into machines, at so much of what they can do."""

    name: str
    machines: tuple[Machine, ...]
    flows: tuple[Flow, ...]
    load: float = 0.93


_FAST, _SLOW = Machine(1, 20, 0.2, 12), Machine(1, 30, 0.5, 25)
_CHAT = Flow(0.7, (150, 1.0), (90, 0.8), max_tokens=(64, 256, 512))
_REPORT = Flow(0.3, (1500, 0.7), (350, 0.6), Priority.BATCH, max_tokens=(512, 1024))
MIXES = (
    Mix("chat, one slot", (_FAST,), (Flow(1.0, (150, 1.0), (90, 0.8)),)),
    Mix("chat and batch, two GPUs", (_FAST, _SLOW), (_CHAT, _REPORT)),
    Mix("chat and batch, four slots", (Machine(4, 20, 0.2, 30),), (_CHAT, _REPORT)),
    Mix("bounded answers", (_FAST,), (Flow(1.0, (400, 0.8), (5000, 0.3), max_tokens=(50, 100, 200)),)),
    Mix("clients that know", (_FAST, _FAST), (Flow(1.0, (300, 1.0), (200, 0.9), hint=0.2),)),
    Mix("prompts alone", (Machine(2, 5, 1.0, 1),), (Flow(1.0, (500, 1.2), (1, 0.0), max_tokens=(1,)),)),
)


class Drawn:
    """A task before anybody has seen it."""

    def __init__(self, draw: random.Random, flow: Flow, number: int) -> None:
        self.flow = flow
        self.number = number
        self.prompt = max(1, round(draw.lognormvariate(0, flow.prompt[1]) * flow.prompt[0]))
        wanted = max(1, round(draw.lognormvariate(0, flow.answer[1]) * flow.answer[0]))
        self.bound = None if flow.max_tokens is None else draw.choice(flow.max_tokens)
        self.tokens = wanted if self.bound is None else min(wanted, self.bound)
        self.cut = self.bound is not None and wanted >= self.bound
        self.hint = None if flow.hint is None else max(1, round(wanted * draw.lognormvariate(0, flow.hint)))
        self.luck = draw.gauss(0, 1)

    def slot_ms(self, machine: Machine) -> float:
        """What it takes there."""
        return self.plain_ms(machine) * self.stretch(machine)

    def plain_ms(self, machine: Machine) -> float:
        """What it would take if that machine were always as fast."""
        return machine.fixed_ms + machine.prompt_ms * self.prompt + machine.new_ms * (self.tokens - 1)

    def stretch(self, machine: Machine) -> float:
        """How much slower that machine is this time."""
        return max(0.2, 1.0 + machine.unsteady * self.luck)

    def asked(self) -> dict[str, Any]:
        """The fields of its request."""
        return {
            "prompt": "word " * self.prompt,
            "priority": self.flow.priority,
            "max_tokens": self.bound,
            "expected_tokens": self.hint,
            "seed": self.number,
        }
