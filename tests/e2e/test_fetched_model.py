"""A model that is named by its reference alone: fetched when its pool starts, and then used without the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_orch.trial import haiku_model_path, haiku_prompt
from tests.support.hub import hub
from tests.support.installation import Installation, text_of

HERE = {"outbound": {"default": "deny", "allow": ["127.0.0.1"]}}


@pytest.mark.req("EP-10", "MP-01", "MP-04", "OP-06")
async def test_a_pool_fetches_its_model_and_the_next_start_needs_no_network(tmp_path: Path) -> None:
    async with hub() as the_hub, Installation(tmp_path / "home", "hf:org/poems", policy=HERE) as installation:
        data = haiku_model_path().read_bytes()
        repository = the_hub.add("org/poems", {"haiku.gguf": data, "README.md": b"#"})
        installation.environ["HF_ENDPOINT"] = the_hub.endpoint
        await installation.up()
        (model,) = (tmp_path / "home").rglob("haiku.gguf")
        assert model == tmp_path / f"home/.cache/llama-orch/models/hf/org/poems/{repository.main}/haiku.gguf"
        assert sum(the_hub.cdn.sent.values()) == len(data)
        events = await installation.run({"prompt": haiku_prompt("rain"), "seed": 11})
        assert "rain" in text_of(events).lower()
        asked = len(the_hub.server.asked)
        await installation.manager.close()
        seen = len(installation.orchestrator.lines)
        await installation.manager.start()
        await installation.orchestrator.logged("pool trial is ready", since=seen)
        events = await installation.run({"prompt": haiku_prompt("rain"), "seed": 11})
        assert events[-1][0] == "end"
        assert len(the_hub.server.asked) == asked


@pytest.mark.req("MP-02", "HP-23")
async def test_a_model_that_may_not_be_fetched_is_the_last_error_of_its_pool(tmp_path: Path) -> None:
    policy = {"outbound": {"deny": ["hf:"]}}
    async with Installation(tmp_path / "home", "hf:org/poems", policy=policy) as installation:
        await installation.manager.start()
        await installation.orchestrator.start()
        await installation.orchestrator.logged("pool trial is broken: ", "policy.outbound.deny: hf:")
        health = await installation.get("/v1/pools/trial/health")
        assert health["last_error"]["cause"] == "policy_denied"
        assert "policy.outbound.deny: hf:" in health["last_error"]["message"]
