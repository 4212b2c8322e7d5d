"""Requests made from the API's own documents, right ones and wrong ones, against both real daemons and a real engine.

Schemathesis makes them: no answer may be a mistake of ours, and none may have a status, content type, header or shape
that its document does not have. ``make fuzz-api`` plays more of them. The seed is fixed, so a failure comes again.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llama_orch.trial import haiku_model_path
from tests.plugins.told import Told
from tests.support.installation import TOKEN, Installation

pytestmark = [pytest.mark.req("HP-27"), pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
CASES = int(os.environ.get("LLAMA_ORCH_FUZZ_CASES", "12"))
SEED = "20261130"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "use_after_free",
    "ensure_resource_availability",
)
SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""
CHANGING = r"/(drain|reload|state|verify)$"
"""What takes the model or the engine away from everybody else."""


def events_described(document: dict[str, Any]) -> dict[str, Any]:
    """The document as Schemathesis reads it: for it the schema of a stream is that of one event."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                for content in answer.get("content", {}).values():
                    content["schema"] = content.pop("x-event-schema", content["schema"])
    return document


async def play(
    house: Installation, folder: Path, places: dict[str, list[str]], *options: str, token: str = TOKEN
) -> tuple[int, str]:
    """How many requests were sent, and what Schemathesis says of the answers."""
    (folder / "schemathesis.toml").write_text(SETTINGS)
    (folder / "openapi.json").write_text(json.dumps(events_described(await house.get("/openapi.json"))))
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", str(folder / "schemathesis.toml"), "--no-color", "run", str(folder / "openapi.json")),
        *("--url", f"http://127.0.0.1:{house.port}", "--header", f"Authorization: Bearer {token}"),
        *("--checks", ",".join(CHECKS), "--max-examples", str(CASES), "--seed", SEED, "--workers", "1"),
        *("--generation-deterministic", "--continue-on-failure"),
        *("--request-timeout", "30", "--output-sanitize", "false", "--warnings", "off", *options),
        cwd=folder,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.contract.fuzz_hooks",
            "PYTHONPATH": str(ROOT),
            "LLAMA_ORCH_FUZZ_PLACES": json.dumps(places),
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    report = said.decode()
    played = re.search(r"^\s*(\d+) generated", report, re.MULTILINE)
    assert process.returncode == 0, report
    assert played is not None, report
    return int(played[1]), report


def mistakes_of(house: Installation) -> Sequence[str]:
    """What the daemons logged as their own mistake."""
    lines = [*house.orchestrator.lines, *house.manager.lines]
    return [line for line in lines if "Traceback" in line or '"level":"ERROR"' in line.replace(" ", "")]


async def test_tasks_and_everything_that_is_read(tmp_path: Path, told: Told) -> None:
    async with Installation(tmp_path / "home", haiku_model_path()) as house:
        await house.up()
        events: list[tuple[str, dict[str, Any]]] = await house.run(
            {"task_id": "poem-1", "prompt": "Snow.", "max_tokens": 4}
        )
        assert events[-1][0] == "end"
        places = {"task_id": ["poem-1", "poem-9"], "pool_id": ["trial", "triall"], "model_id": ["haiku", "haikku"]}
        played, _ = await play(house, tmp_path, places, "--exclude-path-regex", CHANGING)
        after = await house.run({"prompt": "Snow.", "max_tokens": 4})
        assert after[-1][0] == "end", "the house still serves"
        assert mistakes_of(house) == []
    told(f"fuzz of the API: {played} requests about tasks and what is read")


async def test_what_an_operator_changes(tmp_path: Path, told: Told) -> None:
    shutil.copy(haiku_model_path(), tmp_path / "epic.gguf")
    policy = {"outbound": {"default": "deny"}}
    async with Installation(tmp_path / "home", haiku_model_path(), policy=policy) as house:
        await house.up()
        async with house.http.post("/v1/catalog/models", json={"model_ref": str(tmp_path / "epic.gguf")}) as answer:
            assert answer.status == 201
        places = {"pool_id": ["trial", "triall"], "model_id": ["haiku", "epic", "haikku"]}
        played, _ = await play(house, tmp_path, places, "--include-path-regex", r"/v1/(pools|catalog)")
        assert mistakes_of(house) == []
        assert (await house.get("/v1/pools"))["managed"] is True
    told(f"fuzz of the API: {played} requests that change pools and models")


async def test_without_the_token_nothing_is_told(tmp_path: Path, told: Told) -> None:
    async with Installation(tmp_path / "home", haiku_model_path()) as house:
        await house.up()
        played, _ = await play(house, tmp_path, {}, "--phases", "coverage,fuzzing", token="wrong")
        assert (await house.get("/v1/tasks"))["tasks"] == []
        assert mistakes_of(house) == []
    told(f"fuzz of the API: {played} requests with a wrong token")
