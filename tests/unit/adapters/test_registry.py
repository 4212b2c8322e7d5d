import pytest

from adapters.base import EngineError, Failure
from adapters.http import EngineHttp
from adapters.registry import ADAPTERS, adapter_for
from contracts.config import Engine
from contracts.pools import Endpoint

ENDPOINT = Endpoint(url="http://127.0.0.1:1")


def test_every_engine_of_the_configuration_can_be_spoken_to() -> None:
    assert set(ADAPTERS) == set(Engine)


def test_an_engine_without_an_adapter_names_those_that_have_one() -> None:
    with pytest.raises(EngineError) as caught:
        adapter_for("other", ENDPOINT, EngineHttp())  # type: ignore[arg-type]
    assert caught.value.failure is Failure.INVALID
    assert caught.value.message.startswith("this version cannot speak to other, only to: llamacpp, vllm")


@pytest.mark.parametrize("engine", sorted(set(Engine) - {Engine.LLAMACPP}))
async def test_where_slots_cannot_be_chosen_there_is_nothing_to_erase(engine: Engine) -> None:
    async with EngineHttp() as http:
        await adapter_for(engine, ENDPOINT, http, "m").erase(0)  # nobody listens there: nothing was asked
