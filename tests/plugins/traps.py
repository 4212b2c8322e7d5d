"""Connects tests to the traps of tests/integration/adapters/traps.py: `@pytest.mark.trap(7)`.

A number or a row that is not in the table stops the collection. tools/conformance.py makes its matrix of how they end.
"""

import pytest

from tools.conformance import Traps


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Traps(), "llama_orch_traps")
