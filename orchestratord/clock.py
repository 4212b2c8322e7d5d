"""The two clocks of the daemon, so that everything that decides can be given the time instead of reading it.

Never used inside a deciding module.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Time, in milliseconds."""

    def monotonic_ms(self) -> float:
        """For spans: never goes back."""

    def unix_ms(self) -> int:
        """For people and files."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic_ms(self) -> float:
        """For spans: never goes back."""
        return time.monotonic() * 1000.0

    def unix_ms(self) -> int:
        """For people and files."""
        return time.time_ns() // 1_000_000
