"""Two replicas, 64 seeds, the same bytes: through the adapter of each engine that can be had."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from adapters.base import Adapter
from adapters.drawing import Drawing, drawing
from adapters.http import EngineHttp
from adapters.llamacpp_wire import refusal
from adapters.parameters import SCALARS
from adapters.registry import adapter_for
from contracts.config import Engine
from contracts.pools import Endpoint
from contracts.sampler_profiles import GREEDY, V1, SamplerProfile
from contracts.tasks import Sampling, Workload
from tests.determinism.conftest import Record
from tests.determinism.replicas import MANY, SEEDS, Stream, cut_alike, differing, digest, finding, stream_of, streams
from tests.support.real_llamacpp import real_llamacpp
from tests.support.real_triton import real_triton, write_toy
from tests.support.real_vllm import hf_models, real_vllms
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.req("HP-12", "HP-13"), pytest.mark.timeout(180)]

FEW = 8
"""Seeds that show whether another profile is noticed."""


async def ask(engine: Engine, url: str, http: EngineHttp, *, plus: int = 0) -> dict[int, Stream]:
    """Every seed, under the profile v1."""
    adapter = adapter_for(engine, Endpoint(url=url), http)
    return await streams(adapter, await drawn_under(V1, engine, adapter), plus=plus)


async def some(engine: Engine, url: str, http: EngineHttp, profile: SamplerProfile | None) -> list[bytes]:
    """A few seeds, under a profile or under none."""
    adapter = adapter_for(engine, Endpoint(url=url), http)
    drawn = await drawn_under(profile, engine, adapter)
    return [(await stream_of(adapter, drawn, seed)).data for seed in SEEDS[:FEW]]


async def drawn_under(profile: SamplerProfile | None, engine: Engine, adapter: Adapter) -> Drawing:
    """What the running engine takes of it."""
    features = (await adapter.props()).features
    return drawing(profile, engine, Workload.COMPLETION, Sampling(), features)


def hold_apart(one: dict[int, Stream], greedy: list[bytes]) -> None:
    """Another profile is noticed: it draws one text, whatever the seed, and not those that were drawn."""
    assert len(set(greedy)) == 1
    assert sum(one[seed].data != text for seed, text in zip(SEEDS, greedy, strict=False)) > FEW // 2


def hold(one: dict[int, Stream], again: dict[int, Stream], other_seeds: dict[int, Stream]) -> None:
    """The same seeds give the same bytes, and other seeds do not."""
    assert differing(one, again) == []
    assert digest(one) == digest(again)
    assert len({stream.data for stream in one.values()}) > MANY
    assert len(differing(one, other_seeds)) > MANY
    assert digest(one) != digest(other_seeds)


def test_the_seeds_are_64_and_fixed() -> None:
    assert len(set(SEEDS)) == 64
    assert sum(SEEDS) == 127557046514


async def test_llamacpp(tmp_path: Path, http: EngineHttp, record: Record) -> None:
    model = write_tiny_gguf(tmp_path / "one.gguf")
    changed = write_tiny_gguf(tmp_path / "other.gguf", seed=2)
    async with real_llamacpp(model) as first, real_llamacpp(model) as second, real_llamacpp(changed) as third:
        one, again = await asyncio.gather(ask(Engine.LLAMACPP, first, http), ask(Engine.LLAMACPP, second, http))
        other_seeds = await ask(Engine.LLAMACPP, second, http, plus=1)
        other_model = await ask(Engine.LLAMACPP, third, http)
        greedy = await some(Engine.LLAMACPP, second, http, GREEDY)
        unsaid = await some(Engine.LLAMACPP, second, http, None)
        defaults = await http.get(Endpoint(url=second), "/props", dict[str, Any], refusal)
    apart = len(differing(one, other_model))
    record(finding("llamacpp", "adapter, two servers at a time", one, again, apart=apart))
    hold(one, again, other_seeds)
    assert cut_alike(one, again) == len(SEEDS)
    assert apart == len(SEEDS)
    hold_apart(one, greedy)
    assert unsaid == [one[seed].data for seed in SEEDS[:FEW]]  # so v1 is what this engine does where nothing is said
    own = defaults["default_generation_settings"]["params"]
    v1 = {**{name: getattr(V1, name) for name in SCALARS.values()}, **V1.further[Engine.LLAMACPP]}
    assert {name: own[name] for name in v1 if name != "samplers"} == pytest.approx(
        {name: value for name, value in v1.items() if name != "samplers"}
    )
    assert tuple(own["samplers"]) == v1["samplers"]


@pytest.mark.engine("triton")
async def test_triton(tmp_path: Path, http: EngineHttp, record: Record) -> None:
    models, changed = write_toy(tmp_path / "one"), write_toy(tmp_path / "other", build="2")
    with real_triton(models) as first, real_triton(models) as second, real_triton(changed) as third:
        one, again = await asyncio.gather(ask(Engine.TRITON, first.url, http), ask(Engine.TRITON, second.url, http))
        other_seeds = await ask(Engine.TRITON, second.url, http, plus=1)
        other_build = await ask(Engine.TRITON, third.url, http)
        greedy = await some(Engine.TRITON, second.url, http, GREEDY)
    apart = len(differing(one, other_build))
    record(finding("triton", "adapter, two servers at a time", one, again, apart=apart))
    hold(one, again, other_seeds)
    assert cut_alike(one, again) == len(SEEDS)
    assert apart == len(SEEDS)
    assert all(one[seed].data != text for seed, text in zip(SEEDS, greedy, strict=False))


@pytest.mark.engine("vllm")
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_vllm(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, http: EngineHttp, record: Record) -> None:
    model, changed = hf_models(tmp_path_factory)
    alone = "--max-num-seqs=1"
    with real_vllms(tmp_path, (model, alone), (model, alone), (changed, alone)) as (first, second, third):
        one, again = await asyncio.gather(ask(Engine.VLLM, first.url, http), ask(Engine.VLLM, second.url, http))
        other_seeds = await ask(Engine.VLLM, second.url, http, plus=1)
        other_model = await ask(Engine.VLLM, third.url, http)
        greedy = await some(Engine.VLLM, second.url, http, GREEDY)
    apart = len(differing(one, other_model))
    record(finding("vllm", "adapter, two servers at a time", one, again, apart=apart))
    hold(one, again, other_seeds)
    hold_apart(one, greedy)
    assert apart == len(SEEDS)
