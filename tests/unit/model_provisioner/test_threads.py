"""Blocking work beside the event loop, at its end."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from model_provisioner.reference import OciRef, S3Ref
from model_provisioner.sources.oci import OciSource
from model_provisioner.sources.s3 import S3Source
from model_provisioner.threads import left_behind

OF_S3 = S3Ref(bucket="models", key="haiku.gguf")
OF_OCI = OciRef(registry="127.0.0.1:1", repository="haiku")


async def test_what_work_gives_and_what_it_raises_is_ours() -> None:
    assert await left_behind(lambda: 7) == 7
    with pytest.raises(KeyError, match="gone"):
        await left_behind(partial(operator.getitem, {"here": 1}, "gone"))


@pytest.mark.req("OP-01")
@pytest.mark.parametrize(
    "source",
    [lambda ask: S3Source(ask).locate(OF_S3), lambda ask: OciSource(ask).locate(OF_OCI)],
    ids=["s3", "oci"],
)
def test_nobody_waits_at_the_end_for_a_server_that_does_not_answer(
    source: Callable[[Callable[[str], tuple[str, ...]]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    asked, answered, over = threading.Event(), threading.Event(), threading.Event()

    def never(_: str) -> tuple[str, ...]:
        asked.set()
        answered.wait(600)
        over.set()
        return ()

    async def stopped() -> None:
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(source(never))
            await asyncio.to_thread(asked.wait, 50)
            looking.cancel()

    try:
        asyncio.run(stopped())
        assert not over.is_set()
    finally:
        answered.set()
