"""The first thing a newcomer sees: the demo, on the model that comes with the product."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llama_orch.trial import haiku_model_path, haiku_prompt, subjects
from tests.support.installation import Installation, text_of


@pytest.mark.req("OP-06", "MP-07", "HP-18")
async def test_a_haiku_from_a_real_engine_contains_its_subject(tmp_path: Path) -> None:
    async with Installation(tmp_path / "home", haiku_model_path()) as installation:
        await installation.up()
        for subject in subjects()[:: len(subjects()) // 5]:
            events = await installation.run({"prompt": haiku_prompt(subject), "seed": 11})
            names = [name for name, _ in events]
            assert names == ["started", *["token"] * (len(names) - 2), "end"]
            poem = text_of(events)
            assert len(poem.strip().splitlines()) == 3
            assert subject in poem.lower()
            assert events[0][1]["profile"] == "trial"


@pytest.mark.req("OP-06")
def test_the_demo_streams_a_haiku_twice_and_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llama_orch.demo", "--word", "rain"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rain" in done.stdout.lower()
    assert "identical" in done.stdout
    assert re.search(r"[0-9a-f]{12,}", done.stdout)
