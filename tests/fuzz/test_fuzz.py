"""Hostile bytes by the thousand, almost right and not at all, against all that is read of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz import pieces, targets
from tests.fuzz.corpus import SEEDS

T = TypeVar("T")
Ran = Callable[[str, str], None]

REGRESSIONS = Path(__file__).parent / "regressions"

thorough = settings(
    max_examples=1000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Drawn:
    """Choices that hypothesis makes."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def number(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))

    def pick(self, things: Sequence[T]) -> T:
        return self._data.draw(st.sampled_from(things))

    def some_bytes(self, most: int) -> bytes:
        return self._data.draw(st.binary(max_size=most))


@pytest.mark.req("MP-05")
@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("target", targets.TARGETS)
@thorough
@given(data=st.data())
def test_documents_that_are_almost_right(target: str, ran: Ran, data: st.DataObject) -> None:
    ran(f"{target}, almost right", targets.TARGETS[target](pieces.BUILDERS[target](Drawn(data))))


@pytest.mark.req("MP-05")
@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("target", targets.TARGETS)
@thorough
@given(data=st.data())
def test_real_documents_that_were_damaged(target: str, ran: Ran, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(SEEDS[target]))
    ran(f"{target}, damaged", targets.TARGETS[target](pieces.damaged(Drawn(data), seed)))


@pytest.mark.req("MP-05")
@pytest.mark.parametrize("target", targets.TARGETS)
@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400))
@example(b"")
def test_any_bytes(target: str, ran: Ran, data: bytes) -> None:
    ran(f"{target}, any bytes", targets.TARGETS[target](data))


@pytest.mark.parametrize("target", targets.TARGETS)
def test_the_documents_that_others_are_made_from_are_read(target: str) -> None:
    assert {targets.TARGETS[target](seed) for seed in SEEDS[target]} == {targets.READ}


@pytest.mark.req("MP-05")
@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_went_wrong_ends_well(path: Path, ran: Ran) -> None:
    ran("what once went wrong", targets.TARGETS[path.parent.name](path.read_bytes()))
