"""The same through the whole product: two pools of one model, strict determinism, the stream as a client gets it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.determinism.conftest import Record
from tests.determinism.replicas import MANY, PROMPT, SEEDS, TOKENS, Stream, differing, finding
from tests.support.installation import Installation, parse_events
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.req("HP-12", "HP-13"), pytest.mark.slow, pytest.mark.timeout(120)]


def add_pool(installation: Installation, pool_id: str, **changes: object) -> None:
    """Another pool, like the one that is there but for these changes."""
    document = json.loads(installation.config.read_text())
    document["pools"].append({**document["pools"][0], "id": pool_id, **changes})
    installation.config.write_text(json.dumps(document))


async def stream_of(installation: Installation, pool_id: str, seed: int, **asked: object) -> tuple[bytes, Stream, Any]:
    """The bytes of all token events, what they say, and the event at the end."""
    placement = {"mode": "pin", "pool_id": pool_id}
    request = {"prompt": PROMPT, "max_tokens": TOKENS, "seed": seed, "determinism": "strict", "placement": placement}
    async with installation.streaming({**request, **asked}) as answer:
        body = await answer.read()
    tokens = b"\n\n".join(block for block in body.split(b"\n\n") if b"event: token" in block)
    events = parse_events(body)
    name, end = events[-1]
    assert name == "end", end
    stream = Stream(tuple(data["t"] for name, data in events if name == "token"), end["tokens_out"])
    assert end["stream_sha256"] == hashlib.sha256(stream.data).hexdigest()
    return tokens, stream, end


async def test_two_pools_send_the_same_bytes(tmp_path: Path, record: Record) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    async with Installation(tmp_path / "home", model) as installation:
        add_pool(installation, "twin")
        await installation.up()
        await installation.orchestrator.logged("pool twin is ready")
        one: dict[int, Stream] = {}
        other: dict[int, Stream] = {}
        for seed in SEEDS:
            first, one[seed], one_end = await stream_of(installation, "trial", seed)
            second, other[seed], other_end = await stream_of(installation, "twin", seed)
            assert first == second
            assert one_end["stream_sha256"] == other_end["stream_sha256"]
    record(finding("llamacpp", "the whole product, two pools", one, other))
    assert differing(one, other) == []
    assert len({stream.data for stream in one.values()}) > MANY


async def test_another_model_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    """The digest of the stream tells what a comparison of names would not."""
    digests = []
    for number in (1, 2):
        (folder := tmp_path / str(number)).mkdir()
        model = write_tiny_gguf(folder / "tiny.gguf", seed=number)
        async with Installation(tmp_path / f"home{number}", model) as installation:
            await installation.up()
            _, _, end = await stream_of(installation, "trial", SEEDS[3])
            _, _, again = await stream_of(installation, "trial", SEEDS[3])
            digests.append(end["stream_sha256"])
            assert end["stream_sha256"] == again["stream_sha256"]
    assert len(set(digests)) == 2
