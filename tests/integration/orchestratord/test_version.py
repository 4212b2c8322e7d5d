"""The version that orchestratord runs: told to who has the token, and to nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon_core.version import version
from orchestratord.http import control
from tests.integration.orchestratord.house import TOKEN, house

pytestmark = pytest.mark.req("OP-02")


async def test_it_is_the_one_that_was_started_and_not_what_is_installed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path) as here:
        monkeypatch.setattr(control, "version", lambda: "9.9.9")  # as after an upgrade
        assert (await here.get("/v1/capabilities"))["version"] == version()


async def test_a_stranger_learns_it_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "version", lambda: "7.7.7-of-this-test")
    async with house(tmp_path, token=TOKEN) as here:
        for path in ("/healthz", "/v1/capabilities", "/openapi.json", "/metrics", "/", "/nowhere"):
            async with here.client.get(path) as answer:
                assert answer.status == (200 if path == "/healthz" else 401)
                assert "7.7.7" not in f"{await answer.text()} {answer.headers}"
                assert version() not in f"{await answer.text()} {answer.headers}"
        async with here.client.get("/v1/capabilities", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert (await answer.json())["version"] == "7.7.7-of-this-test"
