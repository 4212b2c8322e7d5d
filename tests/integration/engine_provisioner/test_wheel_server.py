"""The engine of profile trial, as it is prepared, started and spoken to."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.engine_provisioner.conftest import KEY, Running, Start, prepared, spawn, trial_pool

pytest.importorskip("xllamacpp", reason="profile trial's engine is the extra 'trial'")

AUTH = {"Authorization": f"Bearer {KEY}"}


async def get(engine: Running, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, dict[str, str]]:
    async with engine.client.get(path, headers=headers or AUTH) as response:
        text = await response.text()
        body = json.loads(text) if response.content_type == "application/json" else text
        return response.status, body, dict(response.headers)


async def post(engine: Running, path: str, body: dict[str, Any]) -> tuple[int, str]:
    async with engine.client.post(path, json=body, headers=AUTH) as response:
        return response.status, await response.text()


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.req("ORCH-3805")
async def test_the_prepared_engine_starts_and_its_probes_succeed(start: Start, tiny_model: Path) -> None:
    async with start(trial_pool(tiny_model)) as running:
        engine = running.engine
        assert engine.generation is not None
        assert engine.generation.body is not None
        status, body, _ = await get(running, engine.health.path)
        assert (status, body) == (200, {"status": "ok"})
        status, text = await post(running, engine.generation.path, json.loads(engine.generation.body))
        assert status == 200
        assert json.loads(text)["tokens_predicted"] == 1


async def test_everything_an_adapter_asks_for_answers(start: Start, tiny_model: Path) -> None:
    async with start(trial_pool(tiny_model)) as running:
        assert (await get(running, "/props"))[1]["total_slots"] == 1
        assert [slot["is_processing"] for slot in (await get(running, "/slots"))[1]] == [False]
        assert "llamacpp:tokens_predicted_total" in (await get(running, "/metrics"))[1]
        assert (await get(running, "/v1/models"))[0] == 200
        status, text = await post(running, "/tokenize", {"content": "a b"})
        assert status == 200
        assert json.loads(text)["tokens"]
        status, text = await post(running, "/apply-template", {"messages": [{"role": "user", "content": "hi"}]})
        assert status == 200
        assert "hi" in json.loads(text)["prompt"]
        status, text = await post(running, "/completion", {"prompt": "a", "n_predict": 3, "stream": True})
        assert status == 200
        assert events(text)[-1]["stop"] is True
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True}
        status, text = await post(running, "/v1/chat/completions", chat)
        assert status == 200
        assert events(text)[-1] == "[DONE]"


async def test_the_same_seed_gives_the_same_text(start: Start, tiny_model: Path) -> None:
    request = {"prompt": "a", "n_predict": 16, "seed": 7, "temperature": 0.8, "cache_prompt": False}
    texts = set()
    for _ in range(2):
        async with start(trial_pool(tiny_model)) as running:
            texts.add(json.loads((await post(running, "/completion", request))[1])["content"])
    assert len(texts) == 1


@pytest.mark.parametrize(("ctx", "slots"), [(256, 1), (512, 3), (300, 2)])
async def test_every_slot_has_at_least_the_context_of_the_pool(
    ctx: int, slots: int, start: Start, tiny_model: Path
) -> None:
    async with start(trial_pool(tiny_model, ctx=ctx, slots=slots)) as running:
        found = [slot["n_ctx"] for slot in (await get(running, "/slots"))[1]]
        assert len(found) == slots
        assert all(ctx <= each < ctx + 256 for each in found)


@pytest.mark.req("EP-14")
async def test_there_is_no_web_ui_and_no_other_origin_is_allowed(start: Start, tiny_model: Path) -> None:
    async with start(trial_pool(tiny_model)) as running:
        assert (await get(running, "/"))[0] == 404
        for origin in ("http://evil.example", "http://localhost:3000", "null"):
            _, _, headers = await get(running, "/props", AUTH | {"Origin": origin})
            assert headers.get("Access-Control-Allow-Origin") == "http://llama-orch.invalid"


@pytest.mark.req("EP-13")
async def test_the_key_is_required_and_stands_in_no_argument(start: Start, tiny_model: Path) -> None:
    async with start(trial_pool(tiny_model)) as running:
        for path in ("/props", "/slots", "/metrics"):
            assert (await get(running, path, {"Authorization": "Bearer wrong"}))[0] == 401
            assert (await get(running, path, {"X": "no key at all"}))[0] == 401
        async with running.client.post("/completion", json={"prompt": "a", "n_predict": 1}) as response:
            assert response.status == 401
        argv = (Path("/proc") / str(running.process.pid) / "cmdline").read_bytes()
        assert str(tiny_model).encode() in argv
        assert KEY.encode() not in argv


async def test_the_engine_sees_no_gpu(start: Start, tiny_model: Path) -> None:
    async with start(trial_pool(tiny_model)) as running:
        environ = (Path("/proc") / str(running.process.pid) / "environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=" in environ


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_at_once_even_with_a_stream_open(
    number: signal.Signals, start: Start, tiny_model: Path
) -> None:
    async with start(trial_pool(tiny_model)) as running:
        request = {"prompt": "a", "n_predict": 100_000, "stream": True, "ignore_eos": True}
        async with running.client.post("/completion", json=request, headers=AUTH) as response:
            assert await response.content.readline()
            running.process.send_signal(number)
            async with asyncio.timeout(40):  # its answer takes minutes
                assert await running.process.wait() == -number


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "is no GGUF model: it starts with b''"),
        (b"<html>404</html>", "is no GGUF model: it starts with b'<htm'"),
        (b"GGUF" + bytes(64), "cannot serve"),
    ],
)
async def test_a_model_that_is_none_ends_it_with_one_line_and_status_1(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    if content is not None:
        model.write_bytes(content)
    process = await spawn(await prepared(trial_pool(model), tmp_path), str(model))
    async with asyncio.timeout(40):
        _, said = await process.communicate()
    text = said.decode()
    assert process.returncode == 1
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert str(model) in line
    assert reason in line
    assert "Traceback" not in text


async def test_a_taken_port_ends_it_with_one_line_and_status_1(start: Start, tiny_model: Path, tmp_path: Path) -> None:
    async with start(trial_pool(tiny_model)) as running:
        port = running.url.rpartition(":")[2]
        engine = running.engine
        assert engine.bin_or_entry is not None
        flags = engine.args[: engine.args.index("--model")]
        process = await asyncio.create_subprocess_exec(
            engine.bin_or_entry,
            *flags,
            *("--model", str(tiny_model), "--host", "127.0.0.1", "--port", port),
            env={},
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(40):
            _, said = await process.communicate()
        assert process.returncode == 1
        assert f"error: cannot serve {tiny_model} on 127.0.0.1:{port}" in said.decode()
        assert "Traceback" not in said.decode()


async def test_a_flag_that_the_trial_engine_does_not_know_is_named(tmp_path: Path, tiny_model: Path) -> None:
    pool = trial_pool(tiny_model, flags=("--lora", "x.gguf"))
    process = await spawn(await prepared(pool, tmp_path), pool.model)
    async with asyncio.timeout(40):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().startswith("error: unrecognized arguments: --lora x.gguf")


async def test_without_a_key_it_serves_without_one(tmp_path: Path, tiny_model: Path) -> None:
    """For whoever starts it by hand; a pool manager always sets one."""
    process = await spawn(await prepared(trial_pool(tiny_model), tmp_path), str(tiny_model), key=None)
    assert process.stderr is not None
    async with asyncio.timeout(40):
        while line := await process.stderr.readline():
            if line.startswith(b"listening on http://127.0.0.1:"):
                break
    process.terminate()
    await process.communicate()
    assert process.returncode == -signal.SIGTERM
