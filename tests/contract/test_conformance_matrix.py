"""Every trap has a test for every adapter that it can concern, or its reason to have none."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.req("AD-03")
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_field_of_the_matrix_is_empty() -> None:
    command = [sys.executable, "-m", "tools.conformance", "--collect"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
