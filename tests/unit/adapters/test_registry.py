import pytest

from adapters.base import EngineError, Failure
from adapters.http import EngineHttp
from adapters.registry import ADAPTERS, adapter_for
from contracts.config import Engine
from contracts.pools import Endpoint

ENDPOINT = Endpoint(url="http://127.0.0.1:1")


@pytest.mark.parametrize("engine", list(ADAPTERS))
def test_an_adapter_says_what_it_can_do(engine: Engine) -> None:
    adapter = adapter_for(engine, ENDPOINT, EngineHttp())
    assert adapter.workloads
    assert adapter.features


@pytest.mark.parametrize("engine", [engine for engine in Engine if engine not in ADAPTERS])
def test_an_engine_without_an_adapter_names_those_that_have_one(engine: Engine) -> None:
    with pytest.raises(EngineError) as caught:
        adapter_for(engine, ENDPOINT, EngineHttp())
    assert caught.value.failure is Failure.INVALID
    assert caught.value.message == f"this version cannot speak to {engine}, only to: llamacpp"
