"""The real Ray Serve with an application of ours, in namespaces of its own; see ``ray_house``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.engine_process import ENVIRONMENTS, EngineProcess

READY_S = 120.0
HOUSE = Path(__file__).with_name("ray_house.py")
NAMESPACES = ("--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")


class RealRayServe:
    """One running application."""

    def __init__(self, process: EngineProcess, url: str) -> None:
        self.process = process
        self.url = url

    def runner(self) -> int:
        """The process of ``serve run``."""
        (pid,) = self.process.children("serve run")
        return pid


def unshare() -> list[str]:
    """How a command comes into new namespaces; who is not root is so inside."""
    return ["unshare", *NAMESPACES, *(() if os.geteuid() == 0 else ("--map-root-user",))]


def may_have_namespaces() -> bool:
    """Whether this user may; a container often withholds it even from root."""
    return subprocess.run([*unshare(), "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def real_ray_serve(folder: Path) -> Iterator[RealRayServe]:
    """An application on a cluster of its own, all gone when the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as door:
        url = f"http://127.0.0.1:{door.getsockname()[1]}"
        argv: list[str | Path] = [
            "nice",
            *unshare(),
            ENVIRONMENTS / "ray" / "bin" / "python",
            HOUSE,
            str(door.fileno()),
        ]
        process = EngineProcess(argv, {"PYTHONUNBUFFERED": "1"}, cwd=folder, keep=door.fileno())
    with process:
        process.said("the door is open", within_s=READY_S)
        process.said("is ready at", within_s=READY_S)
        try:
            yield RealRayServe(process, url)
        finally:
            for first in process.children(HOUSE.name):  # with it the kernel ends all the others
                os.kill(first, signal.SIGKILL)
            process.ended(READY_S)
