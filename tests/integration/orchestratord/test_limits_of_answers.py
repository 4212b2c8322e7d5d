"""A server that takes no notice of ``max_tokens`` is held to it."""

from pathlib import Path

import pytest

from tests.integration.adapters.subjects import STREAMED, Subject
from tests.integration.orchestratord.house import tokens_in
from tests.integration.orchestratord.test_every_adapter import checked, serving, submitted


@pytest.mark.req("HP-05", "AD-01")
@pytest.mark.parametrize("subject", STREAMED, ids=lambda subject: subject.name)
async def test_an_engine_that_does_not_stop_is_left(tmp_path: Path, subject: Subject) -> None:
    knobs = subject.knobs(heeds_limit=False, tokens=100_000, token_delay_ms=1, tokens_per_write=1)
    async with serving(tmp_path, subject, knobs) as (engine, here):
        stream = await here.stream(await submitted(here, subject, max_tokens=4))
        end = checked(stream, "length")[-1].data
        assert tokens_in(stream) == end["tokens_out"] == 4
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)
