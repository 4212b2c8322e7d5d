"""Every adapter finding out what it speaks to: what an engine says of itself, where it listens, what it measures."""

import msgspec
import pytest

from adapters.base import Adapter, EngineError, Failure, Health
from adapters.http import EngineHttp
from contracts.config import Engine
from contracts.tasks import Workload
from tests.integration.adapters.harness import facing, generate, names, outcome, text_of
from tests.integration.adapters.subjects import ONE_EACH, STREAMED, SUBJECTS, Subject
from tests.standin.server import WIRES, StandIn
from tests.support.raw_http import raw

pytestmark = pytest.mark.req("AD-03")

each_engine = pytest.mark.parametrize("subject", ONE_EACH, ids=lambda subject: subject.name)
each_subject = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
LLAMACPP = [each for each in STREAMED if each.engine is Engine.LLAMACPP]
RENAMED = "# TYPE engine_tokens_renamed_total counter\nengine_tokens_renamed_total 7\n"


@each_engine
async def test_an_engine_says_what_it_is(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(slots=3, ctx=777, build="b1234-abc")) as (_, adapter):
        props = await adapter.props()
    expected = {"engine_version": "b1234-abc", "ctx_max": 777, "slots": 3}
    assert {name: getattr(props, name) for name in expected} == {
        name: value if name in subject.manners.tells else None for name, value in expected.items()
    }


@each_subject
async def test_what_a_running_engine_serves_is_found_and_not_assumed(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs()) as (_, adapter):
        served = set((await adapter.props()).workloads)
    drawing = {Workload.COMPLETION, Workload.CHAT}
    assert subject.workload in served
    assert served <= (drawing if subject in STREAMED else {subject.workload})


async def test_tokens_are_counted_as_the_engine_will_count_them(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(tokens=1)) as (_, adapter):
        answer = await generate(adapter, subject)
        assert answer.finished is not None
        counted = await adapter.count_tokens(subject.generation)
        assert counted == (answer.finished.tokens_in if subject.manners.counts else None)


async def test_the_limit_of_a_generation_is_the_engines_own_or_the_rest_of_the_context(
    subject: Subject, http: EngineHttp
) -> None:
    """Engines stop after 16 or 100 tokens where nobody names a limit: that is not what leaving it out means here."""
    async with facing(subject.with_limit(None), http, subject.knobs(ctx=400, tokens=200)) as (_, adapter):
        answer = await generate(adapter, subject.with_limit(None))
    if subject.manners.counts or subject.workload is Workload.CHAT:
        assert answer.text == text_of(200)
    else:  # an engine that does not tell its context cannot be told the rest of it
        assert answer.error is not None
        assert answer.failure is Failure.INVALID
        assert "max_tokens" in answer.error.message


@pytest.mark.trap(4)
async def test_no_request_has_a_priority(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(tokens=1)) as (engine, adapter):
        await adapter.props()
        await generate(adapter, subject)
        bodies = [msgspec.json.decode(request.body) for request in engine.requests if request.body]
    assert bodies
    assert not any("priority" in body or "priority" in (body.get("parameters") or {}) for body in bodies)


@pytest.mark.trap(11)
async def test_an_engine_is_spoken_to_where_it_is_and_nowhere_else(subject: Subject, http: EngineHttp) -> None:
    """Two of a kind, on ports that are nobody's default: each is asked only for what is its own."""
    async with subject.serve(subject.knobs(tokens=3)) as one, subject.serve(subject.knobs(tokens=5)) as other:
        for engine, tokens in ((one, 3), (other, 5)):
            adapter = subject.adapter(engine.url, http)
            assert await adapter.health() is Health.OK
            await adapter.props()
            assert (await generate(adapter, subject)).text == text_of(tokens)
        assert [engine.stats.completed for engine in (one, other)] == [1, 1]


@pytest.mark.trap(12)
@pytest.mark.parametrize("metrics", ["", RENAMED, "not a metric at all {"])
async def test_metrics_decide_nothing(subject: Subject, http: EngineHttp, metrics: str) -> None:
    async with facing(subject, http, subject.knobs(tokens=3, metrics=metrics)) as (engine, adapter):
        props = await adapter.props()
        assert await adapter.health() is Health.OK
        assert (await generate(adapter, subject)).text == text_of(3)
        engine.set(subject.knobs(tokens=3))
        assert await adapter.props() == props


@pytest.mark.trap(10)
@pytest.mark.parametrize("subject", LLAMACPP, ids=names(LLAMACPP))
async def test_what_a_restore_reports_is_no_warmth(subject: Subject, http: EngineHttp) -> None:
    """The restore of a slot that is of no use reports success: what was spared, only the generation itself tells."""
    async with facing(subject, http, subject.knobs(tokens=3)) as (engine, adapter):
        restored = msgspec.json.decode((await raw(engine.url, "/slots/0?action=restore", {"filename": "s"})).body)
        assert restored["n_restored"] > 0
        answer = await generate(adapter, subject)
    assert answer.finished is not None
    assert answer.finished.cached_tokens == 0


async def said_to_serve(adapter: Adapter) -> tuple[Workload, ...]:
    """What a server says that it serves; nothing, where what it says cannot be understood."""
    try:
        return (await adapter.props()).workloads
    except EngineError as error:
        if error.failure not in {Failure.PROTOCOL, Failure.INVALID}:
            raise
        return ()


@each_engine
async def test_a_wrong_key_is_told_as_such(subject: Subject, http: EngineHttp) -> None:
    async with StandIn(subject.knobs(tokens=1), WIRES[subject.engine], key="right") as engine:
        assert (await generate(subject.adapter(engine.url, http, key="right"), subject)).failure is None
        refused = await generate(subject.adapter(engine.url, http, key="wrong"), subject)
        assert refused.failure is Failure.UNAUTHORIZED


@each_engine
async def test_an_engine_that_answers_nonsense_is_told_as_such(subject: Subject, http: EngineHttp) -> None:
    """Behind the address there is some other server."""
    other = next(
        each for each in ONE_EACH if each.engine is (Engine.TGI if subject.engine is Engine.TRITON else Engine.TRITON)
    )
    async with other.serve(other.knobs()) as engine:
        adapter = subject.adapter(engine.url, http)
        answer = await generate(adapter, subject)
        assert answer.failure in {Failure.PROTOCOL, Failure.INVALID}
        assert await said_to_serve(adapter) == ()


async def test_the_outcome_of_a_generation_does_not_hang_on_discovery(subject: Subject, http: EngineHttp) -> None:
    """A generation comes first, before anybody asked what the engine is."""
    assert (await outcome(subject, http, subject.knobs(tokens=2))).text == text_of(2)
