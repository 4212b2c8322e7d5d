"""Every adapter says what it asks its engine for: once, before it is sent, and what is really sent."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from adapters.base import EngineError
from adapters.http import Document, EngineHttp, EventStream, StatusError
from contracts.artifacts import canonical
from contracts.pools import Endpoint
from contracts.tasks import Sampling, Workload
from tests.integration.adapters.harness import drain, names
from tests.integration.adapters.subjects import SUBJECTS, Subject
from tests.standin.knobs import HttpError

pytestmark = [
    pytest.mark.req("HP-21", "HP-12"),
    pytest.mark.parametrize("subject", SUBJECTS, ids=names(SUBJECTS)),
]


class Watched(EngineHttp):
    """Keeps the bodies of generations."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []

    @asynccontextmanager
    async def stream(
        self, endpoint: Endpoint, path: str, body: bytes, refusal: StatusError, *, request_id: str | None = None
    ) -> AsyncIterator[EventStream]:
        self.sent.append(json.loads(body))
        async with super().stream(endpoint, path, body, refusal, request_id=request_id) as made:
            yield made

    @asynccontextmanager
    async def document(
        self, endpoint: Endpoint, path: str, body: bytes, refusal: StatusError, *, request_id: str | None = None
    ) -> AsyncIterator[Document]:
        self.sent.append(json.loads(body))
        async with super().document(endpoint, path, body, refusal, request_id=request_id) as made:
            yield made


@asynccontextmanager
async def asking(subject: Subject, **knobs: Any) -> AsyncIterator[tuple[Watched, list[bytes]]]:  # noqa: ANN401 - any knob
    """One generation, to whatever end."""
    told: list[bytes] = []
    sampling = Sampling(temperature=0.5) if subject.workload in {Workload.COMPLETION, Workload.CHAT} else Sampling()
    if not subject.tells:
        sampling = Sampling()
    generation = msgspec.structs.replace(subject.generation, asked=told.append, sampling=sampling)
    async with Watched() as http, subject.serve(subject.knobs(tokens=2, **knobs)) as engine:
        try:
            async with subject.adapter(engine.url, http).submit(generation) as batches:
                await drain(batches)
        except EngineError:
            assert knobs, "a good engine failed"
        yield http, told


async def test_what_is_told_is_what_was_sent_without_its_texts(subject: Subject) -> None:
    async with asking(subject) as (http, [told]):
        settings = json.loads(told)
        assert told == canonical(settings)
        assert settings.items() <= http.sent[0].items()
        left = http.sent[0].keys() - settings.keys()
        assert left
        assert left <= {"prompt", "messages", "inputs", "text_input", "input", "query", "documents", "cache_salt", "id"}


async def test_it_is_told_of_a_request_that_the_engine_refuses_too(subject: Subject) -> None:
    async with asking(subject, http_error=HttpError(400, "{}")) as (http, told):
        assert (len(told), len(http.sent)) == (1, 1)
