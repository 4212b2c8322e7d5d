"""The fixture of the lab suite, and what happens where it cannot run."""

import os

import pytest

from tests.lab.host import HERE, Lab, mend, missing
from tests.plugins.needs import Needs


@pytest.hookimpl(trylast=True)  # after the deselection
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the suite with the mend as its reason, and adds it to the summary's line; in CI that is an error."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    lacking = missing() if ours else ()
    if not lacking:
        return
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(mend(lacking))
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=mend(lacking)))
    needs = config.pluginmanager.getplugin("llama_orch_needs")
    if isinstance(needs, Needs):
        needs.not_run[lacking] += [HERE.name] * len(ours)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Throw-away hosts with a real `systemd --user` and a real journal; see tests/lab/labhost."""
    return Lab()
