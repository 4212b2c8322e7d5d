"""How full a KV cache is, by each engine's own word; and nothing where it does not say."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.base import Adapter
from adapters.http import EngineHttp
from adapters.llamacpp_wire import CACHE_USAGE, cache_usage
from adapters.prometheus import ratio
from adapters.registry import adapter_for
from contracts.config import Engine
from contracts.pools import Endpoint
from llama_orch.trial import haiku_model_path
from orchestratord import usage as usage_module
from orchestratord.pools import LinkState
from orchestratord.usage import CacheUsage
from tests.integration.orchestratord.house import house
from tests.standin.knobs import Knobs
from tests.standin.server import WIRES, StandIn
from tests.support.real_llamacpp import real_llamacpp


def adapter_at(url: str, engine: str, http: EngineHttp) -> Adapter:
    return adapter_for(Engine(engine), Endpoint(url=url), http, Knobs().model)


VLLM = "vllm:kv_cache_usage_perc"


@pytest.mark.req("HP-24")
@pytest.mark.parametrize(
    ("engine", "page", "usage"),
    [
        ("vllm", None, 0.25),
        ("vllm", f'{VLLM}{{engine="0"}} 0.1\n{VLLM}{{engine="1"}} 0.75\n', 0.75),
        ("vllm", 'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n', 0.5),
        ("vllm", "vllm:cache_usage_renamed 0.5\n", None),
        ("vllm", f"{VLLM} 75\n", None),
        ("vllm", f"{VLLM} NaN\n", None),
        ("vllm", "<html>", None),
        ("vllm", "", None),
        ("tgi", None, None),
        ("openai", None, None),
    ],
)
async def test_a_figure_that_is_absent_renamed_or_absurd_has_not_been_told(
    engine: str, page: str | None, usage: float | None
) -> None:
    async with StandIn(Knobs(metrics=page), WIRES[engine]) as standin, EngineHttp() as http:
        assert await adapter_at(standin.url, engine, http).usage() == usage


async def test_the_real_llamacpp_tells_it_by_its_slots() -> None:
    async with real_llamacpp(haiku_model_path(), slots=2) as url, EngineHttp() as http:
        adapter = adapter_at(url, "llamacpp", http)
        assert await adapter.usage() == 0.0
        body = msgspec.json.encode({"prompt": "Once upon a time", "n_predict": 8})
        await http.post(Endpoint(url=url), "/completion", body, dict[str, Any], lambda *_: AssertionError)  # type: ignore[arg-type]
        told = await adapter.usage()
        assert told is not None
        assert 0 < told < 0.2


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        (
            '[{"is_processing":false,"n_ctx":100,"id_task":1,"n_prompt_tokens":25},{"is_processing":true,"n_ctx":100}]',
            0.125,
        ),
        ('[{"is_processing":true,"n_ctx":100,"id_task":7}]', None),
        ('[{"is_processing":true,"n_ctx":0}]', None),
        ('[{"is_processing":true,"n_ctx":10,"id_task":1,"n_prompt_tokens":11}]', None),
        ("[]", None),
        ("{}", None),
    ],
)
def test_slots_that_say_what_cannot_be_say_nothing(said: str, usage: float | None) -> None:
    assert cache_usage(said) == usage


def test_an_older_llamacpp_had_a_figure_for_it() -> None:
    assert ratio("llamacpp:kv_cache_usage_ratio 0.125\n", CACHE_USAGE) == 0.125
    assert ratio("llamacpp:requests_processing 1\n", CACHE_USAGE) is None


def test_a_label_may_hold_anything() -> None:
    assert ratio('x{name="a} 7"} 0.5 1700000000\n', ["x"]) == 0.5


async def test_engines_are_asked_now_and_then_and_a_scrape_does_not_wait_for_a_slow_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with StandIn(Knobs(), WIRES["vllm"]) as engine, house(tmp_path) as here:
        asked = []

        class Counting:
            async def usage(self) -> float | None:
                asked.append(1)
                return 0.5

        class Hanging:
            async def usage(self) -> float | None:
                await engine.until(lambda _: False)
                return 0.5

        entry = here.pools["p"]
        here.pools.linked(LinkState.UP)
        monkeypatch.setattr(type(entry), "usable", True)
        entry.adapter = Counting()  # type: ignore[assignment]
        usage = CacheUsage(here.pools)
        await usage.refresh()
        await usage.refresh()
        assert (len(asked), dict(usage.told)) == (1, {"p": 0.5})
        monkeypatch.setattr(usage_module, "PATIENCE_S", 0.01)
        monkeypatch.setattr(usage_module, "ASK_EVERY_S", 0.0)
        entry.adapter = Hanging()  # type: ignore[assignment]
        await usage.refresh()
        assert dict(usage.told) == {}
