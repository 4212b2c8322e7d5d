"""The fixture of the lab suite."""

import os

import pytest

from tests.lab.host import Lab, obstacle


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Throw-away hosts with a real `systemd --user` and a real journal. See tests/lab/labhost."""
    reason = obstacle()
    if reason is None:
        return Lab()
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (a CI that runs the lab suite must have it)")
    pytest.skip(reason)
