"""How good predicted starts are: the real orchestrator over engines of drawn speeds and lengths, on virtual time.

Every mix is a steady load of random arrivals, prompts and lengths, at more work than leaves slots idle; nothing of it
is known to the orchestrator beforehand. An error is the distance between the predicted and the true wait, as a share of
the true one (of ``FLOOR_MS`` where that is less), over the tasks that waited, after the first ``WARM``. No prediction
can know how long an answer becomes; so beside the error stands how often the wait fell into the band that ought to
hold four out of five.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from adapters.base import Batch, Finished, Generation
from contracts.config import Queue, Timeouts
from contracts.events import FinishReason
from contracts.tasks import Priority
from tests.support.virtual_loop import VirtualTimeLoop, pass_time
from tests.unit.orchestratord.world import Pause, Script, ScriptedAdapter, Step, config, pool, snapshot, world

TASKS = 900
WARM = 150
"""Tasks from which nothing is counted: before them the orchestrator knows nothing of the engines."""
FLOOR_MS = 100.0
"""A wait of less than this is as good as none."""
PIECES = 8
"""Tokens of one engine read."""
SEEDS = (1, 2, 3)
MEDIAN_OF_BAND = 0.674 / 2.563
"""Of a normal distribution: the median miss, as a share of the width of the band of four fifths."""


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


@dataclass
class Outcome:
    """What came of one mix, or of all."""

    errors: list[float] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)
    bias: list[float] = field(default_factory=list)
    foretold: list[float] = field(default_factory=list)
    """What half of such predictions miss by at most, going by the width of their own bands."""

    def add(self, predicted: float, low: float, high: float, true: float) -> None:
        """One task that waited."""
        self.errors.append(abs(predicted - true) / max(true, FLOOR_MS))
        self.inside.append(low <= true <= high)
        self.bias.append((predicted - true) / max(true, FLOOR_MS))
        self.foretold.append(MEDIAN_OF_BAND * (high - low) / max(predicted, FLOOR_MS))

    def take(self, other: Outcome) -> None:
        """All of another's, too."""
        for name in ("errors", "inside", "bias", "foretold"):
            getattr(self, name).extend(getattr(other, name))

    @property
    def median_error(self) -> float:
        """Half of the tasks were predicted better than this."""
        return statistics.median(self.errors)

    @property
    def coverage(self) -> float:
        """The share of the tasks that started within their band; 0.8 is right."""
        return sum(self.inside) / len(self.inside)


class _Task:
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
        plain = machine.fixed_ms + machine.prompt_ms * self.prompt + machine.new_ms * (self.tokens - 1)
        return plain * max(0.2, 1.0 + machine.unsteady * self.luck)

    def asked(self) -> dict[str, Any]:
        """The fields of its request."""
        return {
            "prompt": "word " * self.prompt,
            "priority": self.flow.priority,
            "max_tokens": self.bound,
            "expected_tokens": self.hint,
            "seed": self.number,
        }


class _Engine(ScriptedAdapter):
    """Takes as long as the machine would."""

    def __init__(self, machine: Machine, tasks: list[_Task]) -> None:
        super().__init__()
        self._machine = machine
        self._tasks = tasks

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        self.scripts = [self._script(self._tasks[generation.seed])]
        return super().submit(generation)

    def _script(self, task: _Task) -> Script:
        machine = self._machine
        stretch = task.slot_ms(machine) / _plain_ms(task, machine) / 1000
        steps: list[Step] = [Pause((machine.fixed_ms + machine.prompt_ms * task.prompt) * stretch), ["x"]]
        left = task.tokens - 1
        while left:
            now = min(PIECES, left)
            steps += [Pause(machine.new_ms * now * stretch), ["x"] * now]
            left -= now
        reason = FinishReason.LENGTH if task.cut else FinishReason.STOP
        steps.append(Finished(reason=reason, tokens_in=task.prompt, tokens_out=task.tokens))
        return Script(steps)


def _plain_ms(task: _Task, machine: Machine) -> float:
    """What the task would take on a machine that is always as fast."""
    return machine.fixed_ms + machine.prompt_ms * task.prompt + machine.new_ms * (task.tokens - 1)


async def _play(mix: Mix, seed: int, tasks_count: int) -> Outcome:
    draw = random.Random(f"{mix.name} {seed}")  # noqa: S311 - a load, not a secret
    weights = [flow.share for flow in mix.flows]
    tasks = [_Task(draw, draw.choices(mix.flows, weights)[0], number) for number in range(tasks_count)]
    ids = [f"gpu{number}" for number in range(len(mix.machines))]
    engines: dict[str, ScriptedAdapter] = {
        each: _Engine(machine, tasks) for each, machine in zip(ids, mix.machines, strict=True)
    }
    limits = Timeouts(wall_ms=10**9, idle_ms=10**9)
    settings = config(*(pool(each, queue=Queue(capacity=100_000), timeouts=limits) for each in ids))
    slots = dict(zip(ids, (machine.slots for machine in mix.machines), strict=True))
    each_ms = {
        name: statistics.mean(task.slot_ms(m) for task in tasks) for name, m in zip(ids, mix.machines, strict=True)
    }
    rate = mix.load * sum(slots[name] / each_ms[name] for name in ids)
    outcome = Outcome()
    async with world(
        settings=settings, engines=engines, snapshots=lambda each: snapshot(each, slots=slots[each], ctx_max=1 << 17)
    ) as here:
        admitted = []
        for task in tasks:
            await pass_time(draw.expovariate(rate) / 1000)
            admitted.append(await here.submit(**task.asked()))
        while not all(task.finished for task in admitted):
            await pass_time(10.0)
        for number, done in enumerate(admitted):
            entered, run = done.admission, done.run
            if number < WARM or run is None:
                continue
            true = run.at_ms - entered.at_ms
            if true > 0 or entered.predicted_start_ms > 0:
                outcome.add(entered.predicted_start_ms, entered.predicted_low_ms, entered.predicted_high_ms, true)
    return outcome


def measure(tasks: int = TASKS, seeds: tuple[int, ...] = SEEDS) -> dict[str, Outcome]:
    """Each mix with each seed; all seeds of a mix together."""
    found = {}
    for mix in MIXES:
        whole = found[mix.name] = Outcome()
        for seed in seeds:
            whole.take(_on_virtual_time(partial(_play, mix, seed, tasks)))
    found["all of them"] = everything = Outcome()
    for mix in MIXES:
        everything.take(found[mix.name])
    return found


def _on_virtual_time(play: Callable[[], Coroutine[None, None, Outcome]]) -> Outcome:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(play())


def table(found: dict[str, Outcome]) -> Table:
    """The figures, and all of them together."""
    shown = Table(title="Predicted against true wait")
    for name in ("load", "waited", "median error", "9 of 10", "by its band", "in the band", "bias"):
        shown.add_column(name, justify="left" if name == "load" else "right")
    for name, each in found.items():
        ordered = sorted(each.errors)
        worst = ordered[int(0.9 * (len(ordered) - 1))]
        shown.add_row(
            name,
            str(len(ordered)),
            f"{each.median_error:.1%}",
            f"{worst:.1%}",
            f"{statistics.median(each.foretold):.1%}",
            f"{each.coverage:.0%}",
            f"{statistics.median(each.bias):+.1%}",
        )
    return shown


if __name__ == "__main__":
    Console().print(table(measure()))
