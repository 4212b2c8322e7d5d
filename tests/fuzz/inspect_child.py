"""Inspects one path in a process of its own, under a limit of memory, and prints as JSON how it ended and what it cost.

`python -m tests.fuzz.inspect_child PATH EXTRA_MB`: no more address space than it has when everything is imported, and
EXTRA_MB beside it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from model_provisioner import local
from model_provisioner.errors import ModelError

MIB = 1 << 20


def status(name: str) -> int:
    """A number of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise LookupError(name)


def bytes_read() -> int:
    """How many bytes this process has read so far, from whatever."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def main(path: str, extra_mb: int) -> None:
    """Inspect it and say what it cost."""
    limit = status("VmSize") + extra_mb * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before, read, started = status("VmRSS"), bytes_read(), time.process_time()
    outcome: dict[str, object]
    try:
        found = local.inspect(path)
        outcome = {"files": len(found.files), "size": found.size_bytes, "ctx": found.facts.ctx_max}
    except ModelError as error:
        outcome = {"cause": str(error.cause), "message": error.message}
    except MemoryError:
        outcome = {"message": "it needed more memory than it may have"}
    cost = {
        "seconds": time.process_time() - started,
        "memory": status("VmHWM") - before,
        "read": bytes_read() - read,
    }
    sys.stdout.write(json.dumps({**outcome, **cost}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
