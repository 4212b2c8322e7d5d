"""No secret reaches the log of orchestratord, not even one that a client sends back as something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon_core.token import create_token_file
from llama_orch.trial import haiku_model_path
from tests.support.installation import Installation


@pytest.mark.req("ORCH-3811", "EP-13")
async def test_neither_the_token_of_a_file_nor_an_engines_key_is_logged(tmp_path: Path) -> None:
    async with Installation(tmp_path / "home", haiku_model_path()) as home:
        token = create_token_file(home.root / "api-token").value
        del home.environ["LLORCH_API_TOKEN"]
        home.http.headers["Authorization"] = f"Bearer {token}"
        await home.up()
        environ = Path(f"/proc/{home.engine_pid()}/environ").read_bytes().split(b"\0")
        key = next(entry for entry in environ if entry.startswith(b"LLAMA_API_KEY=")).partition(b"=")[2].decode()
        for secret in (token, key):
            seen = len(home.orchestrator.lines)
            async with home.http.post("/v1/tasks", json={"model_ref": secret, "prompt": "hi"}) as response:
                assert (await response.json())["code"] == "MODEL_UNAVAILABLE"
            await home.orchestrator.logged("no pool serves the model", since=seen)
        lines = home.orchestrator.lines + home.manager.lines
        assert [line for line in lines if token in line or key in line] == []
