"""How good predicted starts are: the real orchestrator over engines of drawn speeds and lengths, on virtual time.

Every mix is a steady load of random arrivals, prompts and lengths, at more work than leaves slots idle; nothing of it
is known to the orchestrator beforehand. An error is the distance between the predicted and the true wait, as a share of
the true one (of ``FLOOR_MS`` where that is less), over the tasks that waited, after the first ``WARM``. No prediction
can know how long an answer becomes, nor who comes next. So beside the error stands that of ``prediction_oracle``, which
knows everything else, and how often the wait fell into the band that ought to hold four out of five.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial

from rich.console import Console
from rich.table import Table

from adapters.base import Batch, Finished, Generation
from bench.prediction_loads import MIXES, Drawn, Machine, Mix
from bench.prediction_oracle import Lived, Oracle
from contracts.config import Queue, Timeouts
from contracts.events import FinishReason
from orchestratord.task import Task
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
EACH = 4
"""The oracle is asked of one in so many tasks."""


@dataclass
class Outcome:
    """What came of one mix, or of all."""

    errors: list[float] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)
    bias: list[float] = field(default_factory=list)
    possible: list[float] = field(default_factory=list)
    """The errors of who knows every distribution, over one of each ``EACH`` of these tasks,"""
    beside: list[float] = field(default_factory=list)
    """and ours of the same."""

    def add(self, predicted: float, low: float, high: float, true: float) -> None:
        """One task that waited."""
        self.errors.append(_error(predicted, true))
        self.inside.append(low <= true <= high)
        self.bias.append((predicted - true) / max(true, FLOOR_MS))

    def take(self, other: Outcome) -> None:
        """All of another's, too."""
        for name in ("errors", "inside", "bias", "possible", "beside"):
            getattr(self, name).extend(getattr(other, name))

    @property
    def median_error(self) -> float:
        """Half of the tasks were predicted better than this."""
        return statistics.median(self.errors)

    @property
    def median_possible(self) -> float:
        """Half of the tasks could have been predicted better than this."""
        return statistics.median(self.possible)

    @property
    def coverage(self) -> float:
        """The share of the tasks that started within their band; 0.8 is right."""
        return sum(self.inside) / len(self.inside)


class _Engine(ScriptedAdapter):
    """Takes as long as the machine would."""

    def __init__(self, machine: Machine, tasks: list[Drawn]) -> None:
        super().__init__()
        self._machine = machine
        self._tasks = tasks

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        self.scripts = [self._script(self._tasks[generation.seed])]
        return super().submit(generation)

    def _script(self, task: Drawn) -> Script:
        machine = self._machine
        stretch = task.stretch(machine) / 1000
        steps: list[Step] = [Pause((machine.fixed_ms + machine.prompt_ms * task.prompt) * stretch), ["x"]]
        left = task.tokens - 1
        while left:
            now = min(PIECES, left)
            steps += [Pause(machine.new_ms * now * stretch), ["x"] * now]
            left -= now
        reason = FinishReason.LENGTH if task.cut else FinishReason.STOP
        steps.append(Finished(reason=reason, tokens_in=task.prompt, tokens_out=task.tokens))
        return Script(steps)


async def _play(mix: Mix, seed: int, tasks_count: int) -> Outcome:
    draw = random.Random(f"{mix.name} {seed}")  # noqa: S311 - a load, not a secret
    weights = [flow.share for flow in mix.flows]
    tasks = [Drawn(draw, draw.choices(mix.flows, weights)[0], number) for number in range(tasks_count)]
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
        machines = dict(zip(ids, mix.machines, strict=True))
        lived = [_lived(task, done, machines) for task, done in zip(tasks, admitted, strict=True)]
        oracle = Oracle(mix, rate, lived)
        for number, done in enumerate(admitted):
            entered, true = done.admission, lived[number].started - lived[number].came
            if number < WARM or (true == 0 and entered.predicted_start_ms == 0):
                continue
            outcome.add(entered.predicted_start_ms, entered.predicted_low_ms, entered.predicted_high_ms, true)
            if number % EACH == 0:
                outcome.beside.append(outcome.errors[-1])
                outcome.possible.append(_error(oracle.wait_ms(number), true))
    return outcome


def _lived(task: Drawn, done: Task, machines: dict[str, Machine]) -> Lived:
    run = done.run
    if run is None:
        message = f"task {done.id} never ran"
        raise AssertionError(message)
    machine = machines[run.pool_id]
    return Lived(task, done.admission.at_ms, run.at_ms, run.at_ms + task.slot_ms(machine), machine)


def _error(predicted: float, true: float) -> float:
    return abs(predicted - true) / max(true, FLOOR_MS)


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
    for name in ("load", "waited", "median error", "9 of 10", "at best", "in the band", "bias"):
        shown.add_column(name, justify="left" if name == "load" else "right")
    for name, each in found.items():
        ordered = sorted(each.errors)
        worst = ordered[int(0.9 * (len(ordered) - 1))]
        shown.add_row(
            name,
            str(len(ordered)),
            f"{each.median_error:.1%}",
            f"{worst:.1%}",
            f"{each.median_possible:.1%}" if each.possible else "-",
            f"{each.coverage:.0%}",
            f"{statistics.median(each.bias):+.1%}",
        )
    return shown


if __name__ == "__main__":
    Console().print(table(measure()))
