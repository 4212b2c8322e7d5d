"""What every system that is measured has in common."""

from __future__ import annotations

from dataclasses import dataclass

from bench.load import Target
from bench.systems.engine import Engine

MAX_STREAMS = 1024
MAX_TOKENS = 1_000_000
POST = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True)
class System:
    """One thing to measure, the engine behind it, and the processes that it costs."""

    target: Target
    engine: Engine
    pids: tuple[int, ...]
    direct: str = "direct"
    """The system that is the same engine with nothing before it, in the same protocol."""

    @property
    def name(self) -> str:
        """Its column in the table."""
        return self.target.name
