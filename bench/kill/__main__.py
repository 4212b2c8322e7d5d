"""``python -m bench.kill``: thousands of tasks while everything is killed, over and over, and what became of them.

Both daemons, two real llama.cpp servers and the tests' stand-in are killed with SIGKILL at moments that a seed chooses,
alone, together and while they begin, and each is started again at once. Strict and best-effort tasks, interactive and
batch, turns of sessions; clients that read, leave and come back by ``Last-Event-ID``, ask again, cancel, or never read.
What has to hold:

- *Every task that was told of is known*, after any death: a client that got its 202 or a byte of its stream finds its
  task again, and asking again gets the same answer.
- *One end.* Each has one terminal event, the last one, the same for every later reader, and also after a clean stop.
- *No token differs.* What any reader saw is what is there; numbers have no gap and no repetition over reconnects. A
  strict task that ran when orchestratord died goes on, and its text is that of an undisturbed run of the same seed. A
  best-effort one ends with ``WORKER_RESET``, and of it alone tokens may be gone. The stand-in's texts are known too.
- *Order.* What waits for a pool with one slot ends in the order of its admission, in each priority.
- *Receipts.* One for each task, in one unbroken chain, and each says what its stream says.
- *Nothing is left.* No engine that nobody knows of, no file beside the store, no row in it that nobody needs, no more
  file descriptors than at first; SQLite's log is bounded; both daemons end with status 0.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.kill.house import POOLS
from bench.kill.play import Outcome, play


def said(outcome: Outcome) -> list[str]:
    """What is printed of a run."""
    first, last = outcome.descriptors
    lines = [
        f"{outcome.tasks:,} tasks over {len(POOLS)} pools, {outcome.tokens:,} tokens, {outcome.took_s:.0f} s",
        f"  killed: {_counts(outcome.killed)}",
        f"  deeds: {_counts(outcome.deeds)}",
        f"  ends: {_counts(outcome.ends)}; refused for the moment: {_counts(outcome.refused)}",
        f"  clients came back after a death {outcome.returns:,} times",
        f"  ran when orchestratord died: {outcome.interrupted:,}; gone on with to a good end: {outcome.resumed:,}",
        *(f"    {count} strict ones were not: {why}" for why, count in outcome.given_up.items()),
        f"  receipts: {outcome.receipts:,}",
        f"  file descriptors of orchestratord and pool-managerd: {first} at first, {last} at last",
        f"  SQLite's log: at most {outcome.largest_log:,} bytes; at last: {outcome.on_disk}",
        f"  {len(outcome.wrong)} things are wrong",
    ]
    return lines + [f"  WRONG: {complaint}" for complaint in outcome.wrong]


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counted.most_common()) or "none"


def main() -> int:
    """Play it, print what came of it; 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.kill", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tasks", type=int, default=3_000)
    parser.add_argument("--at-once", type=int, default=48, help="clients at a time")
    parser.add_argument("--every", type=int, default=500, help="events that clients read between two deeds, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--durability", choices=("process", "machine"), default="process")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llama-orch-kill-") as folder:
        outcome = asyncio.run(
            play(
                Path(folder) / "house",
                tasks=asked.tasks,
                at_once=asked.at_once,
                seed=asked.seed,
                every=asked.every,
                durability=asked.durability,
            )
        )
    print("\n".join(said(outcome)), flush=True)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
