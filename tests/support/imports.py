"""What a module brings with it."""

from __future__ import annotations

import subprocess
import sys


def imported_by(module: str) -> frozenset[str]:
    """Every module that is there once ``module`` was imported by a Python of its own."""
    names = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", names], check=True, capture_output=True, text=True)
    return frozenset(done.stdout.split())
