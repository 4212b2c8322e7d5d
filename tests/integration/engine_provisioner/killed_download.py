"""Prepares a downloaded engine and dies in the middle, at the lines of our code that a preparation runs through.

For each n-th line, a child is killed by SIGKILL before it. The parent, this program, sees that nothing is used that is
not whole, and prepares the engine from what is left. Standard output: one JSON object, {"points": n, "wrong": [text]}.
"""

from __future__ import annotations

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

from contracts.config import Pool
from tests.integration.engine_provisioner.fetching import download_pool, host_at, provider

OURS = ("/transfer.py", "/download.py", "/archive.py", "/atomic.py", "/lock.py")
STEP = 5
"""Only every fifth line: each costs a process, and hardly a line is a step of its own."""


def die_before_line(number: int) -> None:
    """From now on, count the lines of ours in all threads, and be killed at this one."""
    lines = count(1)

    def trace(frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 - what sys.settrace asks for
        if not frame.f_code.co_filename.endswith(OURS):
            return None
        if event == "line" and next(lines) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def downloads_in(root: Path) -> Path:
    return root / "cache" / "llamacpp" / "downloads"


async def prepared(pool: Pool, root: Path) -> None:
    await provider(host_at(root)).ensure(pool, lambda _: None)


def killed(pool: Pool, root: Path, number: int) -> bool:
    """Whether the child was killed; False when it got through with fewer lines."""
    pid = os.fork()
    if pid == 0:
        die_before_line(number)
        asyncio.run(prepared(pool, root))
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def whole(root: Path, digest: str) -> str | None:
    """What is wrong with what a killed one left; the file under its own name is right, and so is a tree."""
    file, tree = downloads_in(root) / digest, downloads_in(root) / f"{digest}.d"
    if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        return "a file that is not whole has its name"
    if tree.exists() and len([path for path in tree.rglob("*") if path.is_file()]) != 2:
        return "a tree that is not whole has its name"
    return None


def main(file: Path, root: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    pool = download_pool(file.as_uri(), digest)
    found: dict[str, Any] = {"points": 0, "wrong": []}
    for number in count(1, STEP):
        here = root / "killed"
        more = killed(pool, here, number)
        if problem := whole(here, digest):
            found["wrong"].append(f"killed before line {number}: {problem}")
        asyncio.run(prepared(pool, here))
        left = {path.suffix for path in downloads_in(here).iterdir()}
        if left != {"", ".d", ".lock"}:
            found["wrong"].append(f"killed before line {number}: left behind {left}")
        shutil.rmtree(here)
        if not more:
            break
        found["points"] += 1
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
