"""Pulls a model and dies in the middle, at the lines of our code that a pull runs through.

For each n-th line, a child is killed by SIGKILL before it. The parent, this program, sees that nothing has its name
that is not whole and that the catalog can be read, and pulls from what is left. Standard output: one JSON object,
{"points": n, "resumed": n, "wrong": [text]}, where resumed counts the children that left a part of the file.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from model_provisioner.errors import ModelError
from tests.integration.model_provisioner.pulling import Puller

OURS = ("/model_provisioner/", "/catalog_core/")


def die_before_line(number: int) -> None:
    """From now on, count the lines of ours in all threads, and be killed at this one."""
    lines = count(1)

    def trace(frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 - what sys.settrace asks for
        name = frame.f_code.co_filename
        if not any(ours in name for ours in OURS) or "/tests/" in name:
            return None
        if event == "line" and next(lines) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def pulled(root: Path, arguments: argparse.Namespace) -> str:
    puller = Puller(root)
    puller.environ = {"HF_ENDPOINT": arguments.endpoint}
    return asyncio.run(puller.pull(arguments.ref)).digest


def killed(root: Path, arguments: argparse.Namespace, number: int) -> bool:
    """Whether the child was killed; False when it got through with fewer lines."""
    pid = os.fork()
    if pid == 0:
        die_before_line(number)
        pulled(root, arguments)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def problem_of(root: Path, digest: str) -> str | None:
    """What is wrong with what a killed one left."""
    for file in (root / "cache").rglob("*.gguf"):
        if f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" != digest:
            return f"{file} is not whole and has its name"
    for entry in Puller(root).catalog.list():
        if entry.digest != digest or not Path(entry.local_path).exists():
            return f"the catalog has {entry}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--endpoint", "--ref", "--digest"):
        parser.add_argument(name, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--step", type=int, required=True)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"points": 0, "resumed": 0, "wrong": []}
    for number in count(1, arguments.step):
        here = arguments.root / "killed"
        more = killed(here, arguments, number)
        found["resumed"] += bool(list(here.rglob("*.part")))
        wrong = problem_of(here, arguments.digest)
        try:
            if pulled(here, arguments) != arguments.digest:
                wrong = "another digest"
        except ModelError as error:
            wrong = error.render()
        if wrong:
            found["wrong"].append(f"line {number}: {wrong}")
        shutil.rmtree(here, ignore_errors=True)
        if not more:
            break
        found["points"] += 1
    print(json.dumps(found))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main()
