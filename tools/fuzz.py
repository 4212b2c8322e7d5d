"""Fuzzes all that is read of a model with a coverage-guided fuzzer, and says how far it came: `make fuzz`.

Each target has SECONDS, in a process of its own under limits of memory and time; what was found interesting is kept in
.cache/fuzz and begins the next run. Ends with 1 where something went wrong. Without the fuzzer nothing is run, and that
is said.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import targets

FOLDER = Path(__file__).parents[1] / ".cache" / "fuzz"
MEMORY_MB, ONE_INPUT_S = 512, 5
MAX_INPUT_BYTES = 1 << 14
NOT_RUN = "not run: coverage-guided fuzzing (atheris is not installed: pip install atheris)"

_RUNS = re.compile(r"stat::number_of_executed_units: +(\d+)")
_MEMORY = re.compile(r"stat::peak_rss_mb: +(\d+)")
_REACHED = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


class Outcome(NamedTuple):
    """How one campaign ended."""

    runs: int
    edges: int
    corpus: int
    memory_mb: int
    wrong: str | None


def campaign(target: str, how: str, folder: Path, **more: int) -> Outcome:
    """Fuzz one target; ``more`` flags of libFuzzer say how long, and may say otherwise than ours."""
    flags = {
        "max_len": MAX_INPUT_BYTES,
        "timeout": ONE_INPUT_S,
        "rss_limit_mb": MEMORY_MB,
        "print_final_stats": 1,
        **more,
    }
    # By way of a shell that forks: a process inherits the peak of what started it, and would be over the limit at once
    # where that was a long run of tests.
    argv = ["sh", "-c", '"$@"; exit $?', "sh"]
    argv += [sys.executable, "-m", "tests.fuzz.campaign", target, how, str(folder)]
    argv += [f"-{flag}={value}" for flag, value in flags.items()]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return outcome(done.stdout.decode(errors="replace"), done.returncode)


def outcome(text: str, code: int) -> Outcome:
    """What libFuzzer printed."""
    reached = _REACHED.findall(text)
    edges, _, corpus = reached[-1] if reached else ("0", "0", "0")
    told = text[text.rfind("=== Uncaught") :] if "=== Uncaught" in text else text[-2000:]
    runs, memory = _RUNS.findall(text), _MEMORY.findall(text)
    return Outcome(
        runs=int(runs[-1]) if runs else 0,
        edges=int(edges),
        corpus=int(corpus),
        memory_mb=int(memory[-1]) if memory else 0,
        wrong=None if code == 0 else told.partition("SUMMARY")[0],
    )


def main() -> int:
    """Fuzz everything; the exit code says whether something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30, help="for each target and way (default: 30)")
    parser.add_argument("--only", choices=list(targets.TARGETS), help="one target")
    chosen = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print(NOT_RUN)
        return 0
    wrong = total = 0
    print(f"{'target':28} {'executions':>11} {'edges':>6} {'corpus':>7} {'peak':>8}")
    for target in [chosen.only] if chosen.only else targets.TARGETS:
        for how in ("bytes", "built"):
            folder = FOLDER / f"{target}-{how}"
            found = campaign(target, how, folder, max_total_time=chosen.seconds)
            name = f"{target}, {how}"
            print(f"{name:28} {found.runs:>11} {found.edges:>6} {found.corpus:>7} {found.memory_mb:>5} MB", flush=True)
            total += found.runs
            if found.wrong is not None:
                wrong += 1
                print(f"{found.wrong}\nthe document is in {folder}/wrong: put it into tests/fuzz/regressions/{target}")
    print(f"{total} executions, {wrong} campaigns found something wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
