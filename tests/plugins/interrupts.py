"""Lets Ctrl-C work in what the tests start, also where the run itself is one in the background.

A shell without job control has such a run ignore SIGINT, and so would every program of ours that a test interrupts.
"""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
