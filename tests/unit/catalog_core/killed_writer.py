"""Writes an index and dies in the middle, at every line of catalog_core that a change runs through.

For each n, a child is killed by SIGKILL before the n-th line. The parent, this program, then looks at what is left, and
lets the next writer go on. Standard output: one JSON object, {"points": n, "old": n, "new": n, "wrong": [text]}.
"""

import json
import os
import signal
import sys
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from catalog_core.errors import CatalogError
from catalog_core.models import FsModelCatalog
from contracts.engines import ModelEntry, ModelState

OLD = ModelEntry(id="haiku", ref="haiku.gguf", local_path="/models/haiku.gguf", size_bytes=1, digest="sha256:1")


def die_before_line(number: int) -> None:
    """From now on, count the lines run in catalog_core, and be killed at this one."""
    lines = count(1)

    def trace(frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 - what sys.settrace asks for
        if "/catalog_core/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        if event == "line" and next(lines) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def change_and_die(root: Path, number: int, mode: str) -> bool:
    """Whether the child was killed; False when it got through with fewer lines."""
    pid = os.fork()
    if pid == 0:
        die_before_line(number)
        catalog = FsModelCatalog(root)
        catalog.recover() if mode == "corrupt" else catalog.set_state("haiku", ModelState.RETIRED)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def look(root: Path, mode: str) -> tuple[str, str | None]:
    """What a reader finds, and what is wrong with it."""
    try:
        entries = FsModelCatalog(root).list()
    except CatalogError as error:
        return "old", None if mode == "corrupt" else f"unreadable: {error}"
    if not (root / "models.json").exists():
        return "new", "there is no index"
    if mode == "corrupt":
        asides = [path.read_bytes() for path in root.glob("models.json.corrupt-*")]
        return "new", None if asides and set(asides) == {b'{"schema": 1'} else f"kept aside: {asides}"
    if entries == (OLD_CREATED,):
        return "old", None
    return "new", None if [entry.state for entry in entries] == [ModelState.RETIRED] else f"found {entries}"


OLD_CREATED = ModelEntry(
    id=OLD.id, ref=OLD.ref, local_path=OLD.local_path, size_bytes=1, digest=OLD.digest, created_ms=1
)


def main(root: Path, mode: str) -> None:
    found: dict[str, Any] = {"points": 0, "old": 0, "new": 0, "wrong": []}
    for number in count(1):
        here = root / str(number)
        FsModelCatalog(here).put(OLD, now_ms=1)
        if mode == "corrupt":
            (here / "models.json").write_bytes(b'{"schema": 1')
        killed = change_and_die(here, number, mode)
        state, wrong = look(here, mode)
        FsModelCatalog(here).put(OLD, now_ms=2)  # the next writer is not held up
        leftovers = [path.name for path in here.glob(".*.tmp")]
        if wrong or leftovers:
            found["wrong"].append(f"killed before line {number}: {wrong}, left behind: {leftovers}")
        found[state] += 1
        if not killed:
            break
        found["points"] += 1
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
