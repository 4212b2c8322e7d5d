"""An answer is asked again and proved, with both daemons and a real engine, as an operator does it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from contracts.engines import PreparedEngine
from llama_orch.proof import manifest as names
from llama_orch.proof.archive import pack, unpack
from tests.support.installation import Installation
from tests.support.tiny_gguf import slow_model, write_tiny_gguf

pytestmark = pytest.mark.timeout(90)

ASKED = {"prompt": "once upon a time", "max_tokens": 24, "seed": 5}


class Done(NamedTuple):
    status: int
    stdout: str
    stderr: str


async def cli(house: Installation, *arguments: str) -> Done:
    """A command on this house's machine."""
    return await cli_away(house, *arguments, "--config", str(house.config))


async def cli_away(house: Installation, *arguments: str) -> Done:
    """A command that needs no daemon."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llama_orch", *arguments),
        env=house.environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=house.root,
    )
    stdout, stderr = await process.communicate()
    return Done(process.returncode or 0, stdout.decode(), stderr.decode())


async def restarted(house: Installation) -> None:
    """Both daemons end and start again."""
    await house.orchestrator.close()
    await house.manager.close()
    seen = len(house.orchestrator.lines)
    await house.manager.start()
    await house.orchestrator.start()
    await house.orchestrator.logged("pool trial is ready", since=seen)


@pytest.mark.req("HP-21", "HP-12")
async def test_a_replay_is_bit_exact_until_the_model_is_another_one_under_the_same_name(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf", seed=1)
    async with Installation(tmp_path / "home", model) as house:
        await house.up()
        before = (await house.get("/v1/capabilities"))["pools"][0]["model_digest"]
        events = await house.run({**ASKED, "task_id": "once", "determinism": "strict"})
        pieces = [data["t"] for name, data in events if name == "token"]
        assert len(pieces) == 24

        same = await cli(house, "replay", "once")
        assert same.status == 0, same.stdout + same.stderr
        assert f"identical: 24 tokens, sha256 {events[-1][1]['stream_sha256']}\n" in same.stdout
        assert "nothing of what the receipt tells of the engine has changed\n" in same.stdout
        assert "class: bit-exact" in same.stdout

        write_tiny_gguf(model, seed=2)
        await restarted(house)
        after = (await house.get("/v1/capabilities"))["pools"][0]["model_digest"]
        assert before != after
        other = await cli(house, "replay", "once")
        assert other.status == 1, other.stdout + other.stderr
        report = json.loads((await cli(house, "replay", "once", "--json")).stdout)
        assert report["grade"] == "best effort"
        assert {"fact": "model_digest", "recorded": before, "now": after} in report["changes"]
        place = report["difference"]
        again = await house.run({**ASKED, "determinism": "strict"})
        now = [data["t"] for name, data in again if name == "token"]
        first = next(number for number, (one, two) in enumerate(zip(pieces, now, strict=True)) if one != two)
        assert (place["unit"], place["number"]) == ("token", first)
        assert place["recorded"] == "".join(pieces[first:])
        assert place["now"] == "".join(now[first:])
        assert f"the first differing token is number {first}, as the recorded stream counts from 0\n" in other.stdout
        assert f"  model digest  {before} -> {after}\n" in other.stdout
        assert "class: best effort" in other.stdout


@pytest.mark.req("HP-21")
async def test_what_was_canceled_and_what_gives_results_are_replayed_too(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = slow_model(tmp_path_factory)
    flags = ["--embeddings", "--pooling", "mean"]
    async with Installation(tmp_path / "home", model, flags=flags) as house:
        await house.up()
        asked = {"prompt": "once", "task_id": "left", "seed": 3, "max_tokens": 400, "determinism": "strict"}
        async with house.streaming(asked) as response:
            async for line in response.content:
                if line.startswith(b"id: 4"):
                    break
            async with house.http.post("/v1/tasks/left/cancel") as canceled:
                assert canceled.status in {202, 204}
            await response.read()
        broken_off = await cli(house, "replay", "left")
        assert broken_off.status == 0, broken_off.stdout + broken_off.stderr
        assert "identical as far as it was recorded: " in broken_off.stdout
        assert "then it ended: canceled\n" in broken_off.stdout
        await house.run({"workload": "embedding", "inputs": ["once", "twice"], "task_id": "vectors"})
        results = await cli(house, "replay", "vectors")
        assert (results.status, "class: bit-exact" in results.stdout) == (0, True), results.stdout + results.stderr


@pytest.mark.req("OP-03")
async def test_a_proof_of_a_real_answer_holds_until_somebody_changes_it(tmp_path: Path) -> None:
    async with Installation(tmp_path / "home", write_tiny_gguf(tmp_path / "m.gguf")) as house:
        await house.up()
        await house.run({"prompt": "before", "max_tokens": 2})
        events = await house.run({**ASKED, "task_id": "once"})
        await house.run({"prompt": "after", "max_tokens": 2})
        made = await cli(house, "proof", "once", "-o", "once.tar.gz", "--keep", "--json")
        assert made.status == 0, made.stdout + made.stderr
        told = json.loads(made.stdout)
        assert told["verdict"]["receipt_id"] == events[-1][1]["artifact_id"]
        kept = await house.get(f"/v1/artifacts/{told['kept']['id']}")
        assert (kept["kind"], told["kept"]["id"]) == ("proof", told["verdict"]["manifest_id"])

        path = house.root / "once.tar.gz"
        with path.open("rb") as file:
            files = unpack(file)
        assert set(files) == {*names.NAMES, names.MANIFEST}
        assert len(files[names.CHAIN].splitlines()) == 3
        prepared = json.loads(files[names.PREPARED_ENGINE])
        assert PreparedEngine.__struct_fields__ == tuple(prepared)
        assert prepared["engine_version"] == events[0][1]["engine_version"]
        assert json.loads(files[names.ENGINE_ENTRY])["digest"] == prepared["engine_digest"]
        assert json.loads(files[names.MODEL])["digest"] == events[0][1]["model_digest"]
        assert json.loads(files[names.CAPABILITIES])["pools"][0]["engine_version"] == prepared["engine_version"]
        assert files[names.PREFLIGHT] == b"trial: nothing is in the way\n"
        assert house.environ["LLORCH_API_TOKEN"].encode() not in b"".join(files.values())

        for house_is in ("up", "down"):
            whole = await cli_away(house, "proof", "verify", "once.tar.gz")
            assert whole.status == 0, (house_is, whole.stdout)
            await house.orchestrator.close()
        path.write_bytes(pack(files | {names.TRANSCRIPT: b"something else"}))
        tampered = await cli_away(house, "proof", "verify", "once.tar.gz")
        assert tampered.status == 1
        assert "wrong: transcript.txt: it was changed" in tampered.stdout
