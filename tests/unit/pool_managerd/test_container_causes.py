"""A container runtime's failure as a pool tells it: the same wherever it happens."""

from __future__ import annotations

import pytest

from container_runtime.errors import ContainerError, RuntimeCause
from contracts.pools import Cause
from engine_provisioner.container_checks import CAUSES
from pool_managerd.container import step_error


@pytest.mark.req("CR-01")
@pytest.mark.parametrize("cause", RuntimeCause)
def test_every_failure_has_the_cause_of_the_one_table(cause: RuntimeCause) -> None:
    error = step_error(ContainerError(cause, "it failed", "mend it"))
    assert (error.cause, error.message, error.hint) == (CAUSES[cause], "it failed", "mend it")


@pytest.mark.req("CR-01")
def test_a_runtime_that_does_not_answer_a_stop_is_no_matter_of_fetching() -> None:
    assert CAUSES[RuntimeCause.NO_ANSWER] is Cause.CONTAINER_RUNTIME
    assert CAUSES[RuntimeCause.CONTAINER_GONE] is Cause.ENGINE_EXIT
