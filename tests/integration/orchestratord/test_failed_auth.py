"""Wrong tokens in a flood: the honest client beside them is served, and the log says it once."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contracts.config import Auth
from orchestratord import auth
from orchestratord.http import door
from tests.integration.orchestratord.house import TOKEN, House, house

pytestmark = pytest.mark.req("ORCH-3810", "OP-02")

WRONG = {"Authorization": "Bearer a-token-that-is-wrong-enough"}
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def _the_clock_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long fifty requests take gives nobody a budget back, and the wait that is told is the whole one."""
    still = SimpleNamespace(get_running_loop=lambda: SimpleNamespace(time=lambda: 1000.0))
    monkeypatch.setattr(door, "asyncio", still)


def guess(number: int) -> dict[str, str]:
    """Another wrong token each time."""
    return {"Authorization": f"Bearer guess-{number}"}


async def ask(here: House, headers: dict[str, str], origin: str | None = None) -> tuple[int, dict[str, Any]]:
    sent = headers if origin is None else headers | {"X-Forwarded-For": origin}
    async with here.client.get("/v1/pools", headers=sent) as answer:
        told = await answer.json()
        if answer.status == 429:
            assert answer.headers["Retry-After"] == str(-(-told["retry_after_ms"] // 1000))
        return answer.status, told


async def test_after_its_budget_no_token_of_a_client_is_looked_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0

    def spy(left: bytes, right: bytes) -> bool:
        nonlocal looked_at
        looked_at += 1
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(auth, "hmac", type("Spied", (), {"compare_digest": staticmethod(spy)}))
    async with house(tmp_path, token=TOKEN, auth=Auth(failures_per_minute=5)) as here:
        assert [(await ask(here, guess(number)))[0] for number in range(50)] == [401] * 5 + [429] * 45
        assert looked_at == 5
        status, told = await ask(here, RIGHT)
        assert (status, looked_at) == (429, 5)
        assert (told["code"], told["policy_label"]) == ("ADMISSION_REJECT", "auth_failures")
        assert told["retry_after_ms"] == 12_000
        assert (await ask(here, {}))[1]["code"] == "MISSING_TOKEN", "who sends none is told what is missing"
    (record,) = [each for each in caplog.records if "wrong tokens" in each.getMessage()]
    assert record.levelno == logging.WARNING
    assert "127.0.0.1" in record.getMessage()
    assert guess(0)["Authorization"][7:] not in caplog.text


async def test_one_wrong_token_again_and_again_locks_nobody_out_who_comes_for_the_first_time(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN, auth=Auth(failures_per_minute=5)) as here:
        assert [(await ask(here, WRONG))[0] for _ in range(50)] == [401] * 5 + [429] * 45
        assert (await ask(here, RIGHT))[0] == 200


async def test_a_broken_program_does_not_lock_out_those_beside_it(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN, auth=Auth(failures_per_minute=5)) as here:
        assert (await ask(here, RIGHT))[0] == 200
        for number in range(30):
            assert (await ask(here, guess(number)))[0] == (401 if number < 5 else 429)
            assert (await ask(here, RIGHT))[0] == 200


async def test_no_token_at_all_uses_nothing_up(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN, auth=Auth(failures_per_minute=5)) as here:
        assert {(await ask(here, {}))[0] for _ in range(30)} == {401}
        assert (await ask(here, RIGHT))[0] == 200


async def test_behind_a_trusted_proxy_each_client_has_a_budget_of_its_own(tmp_path: Path) -> None:
    trusting = Auth(failures_per_minute=5, trust_proxy=True)
    async with house(tmp_path, token=TOKEN, auth=trusting) as here:
        for number in range(20):
            assert (await ask(here, guess(number), "10.0.0.66"))[0] == (401 if number < 5 else 429)
        assert (await ask(here, RIGHT, "10.0.0.66"))[0] == 429
        assert (await ask(here, RIGHT, "10.0.0.66, 10.0.0.7"))[0] == 200
        for number in range(10):  # one IPv6 host has a whole network to choose from
            assert (await ask(here, WRONG, f"2001:db8::{number}"))[0] == (401 if number < 5 else 429)


async def test_a_header_of_nobody_in_particular_gives_no_new_budget(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN, auth=Auth(failures_per_minute=5)) as here:
        found = [(await ask(here, WRONG, f"10.0.0.{number}"))[0] for number in range(10)]
        assert found == [401] * 5 + [429] * 5


async def test_where_no_token_is_needed_a_wrong_one_locks_nobody_out(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN, auth=Auth(optional=True, failures_per_minute=5)) as here:
        assert [(await ask(here, WRONG))[0] for _ in range(10)] == [401] * 5 + [429] * 5
        assert (await ask(here, {}))[0] == 200
