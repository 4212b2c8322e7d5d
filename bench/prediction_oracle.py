"""The best that anybody could have foretold: waits drawn by somebody who knows every distribution, and no draw.

It knows the machines, how lengths and arrivals are distributed, what waits, and how far what runs is; not how long a
single answer becomes, nor who comes next. What it misses by is what no prediction can know.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from statistics import NormalDist

from bench.prediction_loads import Drawn, Flow, Machine, Mix
from contracts.tasks import Priority

PLAYS = 100
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Lived:
    """One task as it went: when it came, started and ended (milliseconds), and the machine it ran on."""

    task: Drawn
    came: float
    started: float
    ended: float
    machine: Machine


class Oracle:
    """Of one load: ``rate`` tasks come in a millisecond."""

    def __init__(self, mix: Mix, rate: float, lived: Sequence[Lived]) -> None:
        self._mix = mix
        self._lived = lived
        self._random = random.Random(mix.name)  # noqa: S311 - plays, not a secret
        self._flows = [flow for flow in mix.flows if flow.priority is Priority.INTERACTIVE]
        self._shares = [flow.share for flow in self._flows]
        self._rivals = rate * sum(self._shares) / sum(flow.share for flow in mix.flows)

    def wait_ms(self, number: int) -> float:
        """The middle of all waits that this task could have had, as it came."""
        lived, now = self._lived[number], self._lived[number].came
        before = [each for each in self._lived[:number] if each.ended > now]
        running = [each for each in before if each.started <= now]
        waiting = [each.task for each in before if each.started > now]
        batch = lived.task.flow.priority is Priority.BATCH
        first = [task for task in waiting if task.flow.priority is Priority.INTERACTIVE]
        ahead = waiting if batch else first
        second = [task for task in ahead if task.flow.priority is Priority.BATCH]
        return statistics.median(self._play(running, first, second, now, batch=batch) for _ in range(PLAYS))

    def _play(self, running: list[Lived], first: list[Drawn], second: list[Drawn], now: float, *, batch: bool) -> float:
        slots = [(self._left(each, now), number, each.machine) for number, each in enumerate(running)]
        for machine in self._mix.machines:
            free = machine.slots - sum(each.machine is machine for each in running)
            slots += [(0.0, len(slots) + number, machine) for number in range(free)]
        heapify(slots)
        queue, later = deque(first), deque(second)
        arrival = self._gap() if batch else math.inf
        while True:
            free_at, number, machine = slots[0]
            while arrival <= free_at:
                flow = self._random.choices(self._flows, self._shares)[0]
                queue.append(Drawn(self._random, flow, 0))
                arrival += self._gap()
            if not queue and not later:
                return free_at
            task = queue.popleft() if queue else later.popleft()
            heapreplace(slots, (free_at + self._service(task, machine), number, machine))

    def _gap(self) -> float:
        return self._random.expovariate(self._rivals)

    def _service(self, task: Drawn, machine: Machine) -> float:
        return self._stretch(machine, 0.0) * _plain_ms(task, machine, self._tokens(task, 0.0))

    def _left(self, lived: Lived, now: float) -> float:
        """What a run still takes; how fast its machine is this time, its first token has shown."""
        task, machine, passed = lived.task, lived.machine, now - lived.started
        stretch, first = task.stretch(machine), _plain_ms(task, machine, 1)
        made = (passed / stretch - first) / machine.new_ms
        if made < 0.0:
            stretch = self._stretch(machine, passed / first)
        return max(0.0, stretch * _plain_ms(task, machine, self._tokens(task, made + 1)) - passed)

    def _stretch(self, machine: Machine, least: float) -> float:
        """How many times as long a run takes as its tokens say; that it takes longer than ``least`` is seen."""
        known = _NORMAL.cdf((least - 1.0) / machine.unsteady)
        share = min(known + (1.0 - known) * self._random.random(), 1.0 - 1e-12)
        return max(0.2, 1.0 + machine.unsteady * _NORMAL.inv_cdf(max(share, 1e-12)))

    def _tokens(self, task: Drawn, beyond: float) -> float:
        """How long the answer becomes, of one that is longer than this."""
        middle, sigma = _known(task.flow, task.hint)
        least = 0.0 if beyond < 1.0 else _NORMAL.cdf((math.log(beyond) - middle) / sigma) if sigma else 0.0
        share = min(least + (1.0 - least) * self._random.random(), 1.0 - 1e-12)
        wanted = max(1.0, math.exp(middle + sigma * _NORMAL.inv_cdf(max(share, 1e-12))))
        return max(beyond, wanted if task.bound is None else min(wanted, task.bound))


def _plain_ms(task: Drawn, machine: Machine, tokens: float) -> float:
    return machine.fixed_ms + machine.prompt_ms * task.prompt + machine.new_ms * (tokens - 1)


def _known(flow: Flow, hint: int | None) -> tuple[float, float]:
    """Middle and spread of the logarithm of the length, once the client has said what it expects."""
    middle, sigma = math.log(flow.answer[0]), flow.answer[1]
    if hint is None or flow.hint is None:
        return middle, sigma
    prior, said = 1.0 / sigma**2, 1.0 / flow.hint**2
    return (prior * middle + said * math.log(hint)) / (prior + said), math.sqrt(1.0 / (prior + said))
