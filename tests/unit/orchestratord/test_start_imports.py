"""What a start of this daemon does not wait for."""

from __future__ import annotations

from tests.support.imports import imported_by

NEEDED_LATER = frozenset({"contracts.openapi", "contracts.operations", "contracts.examples"})
"""The API's own description: made when somebody asks for it."""


def test_a_start_imports_nothing_that_only_a_request_may_need() -> None:
    assert imported_by("orchestratord.app") & NEEDED_LATER == frozenset()
