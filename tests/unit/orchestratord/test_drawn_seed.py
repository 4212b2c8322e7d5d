"""The seed of a task that gives none."""

import secrets

import msgspec
import pytest

from adapters.parameters import asked_by, obstacle
from contracts.config import Engine
from contracts.tasks import TaskRequest, Workload
from orchestratord.app import drawn_seed
from tests.unit.orchestratord.world import request


@pytest.mark.req("AD-06")
@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("drawn", [lambda _: 0, lambda end: end - 1], ids=["smallest", "largest"])
def test_every_engine_takes_a_drawn_seed(monkeypatch: pytest.MonkeyPatch, engine: Engine, drawn: object) -> None:
    monkeypatch.setattr(secrets, "randbelow", drawn)
    asked = request(seed=drawn_seed())
    assert msgspec.json.decode(msgspec.json.encode(asked), type=TaskRequest) == asked  # a client may ask for it again
    assert obstacle(engine, Workload.COMPLETION, asked_by(asked), None) is None
