"""The record that a task leaves: what stands in it, and what never does."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Finished
from contracts.artifacts import ArtifactKind, canonical
from contracts.config import Profile
from contracts.errors import ErrorCode
from contracts.events import End, FinishReason, Metrics, StreamError
from contracts.receipts import Link, Receipt, SlotUse
from contracts.tasks import ChatMessage, Role, Sampling, TaskRequest, Workload
from daemon_core.redaction import Redactor
from orchestratord.records import MAX_TEXT_BYTES, record_of
from orchestratord.shelf import Sealed
from orchestratord.stream_log import StreamLog, text_of
from orchestratord.task import Admission, Keeps, Run, Task
from tests.unit.orchestratord.test_task import STARTED
from tests.unit.orchestratord.world import CALLER, request, snapshot

SECRET = "s3cr3t-value-0123456789"
RUN = Run(
    pool_id="p",
    replica_id="p-0",
    engine="llamacpp",
    engine_version="b1",
    at_ms=1_250.0,
    served=snapshot(devices=("0",), driver_version="560.35", argv=("A=1", "/llama-server", "--port", "{port}")),
    use=SlotUse(slot=3, cache_prompt=True, cached_tokens=None),
)
SENT = b'{"id_slot":3,"seed":7,"stream":true}'


class Sealing:
    """Makes the record of a task, and keeps it."""

    def __init__(self) -> None:
        self.made: list[Sealed] = []

    def speaks(self, task: Task) -> None:
        """Nothing is written here before the end."""

    def sends(self, task: Task) -> None:
        """And nothing ahead."""

    def grows(self, task: Task) -> int:
        """And nothing is looked at before."""
        return 1 << 60

    def told(self, tell: Callable[[], None]) -> None:
        tell()

    async def settled(self) -> None:
        """It is at once."""

    def freed(self, task: Task) -> None: ...

    def ends(self, task: Task, event: End | StreamError) -> str:
        record = record_of(
            task,
            event,
            link=Link(number=1, previous=None),
            profile=Profile.TRIAL,
            redactor=Redactor((SECRET,)),
            ended_ms=1_700_000_000_900,
        )
        self.made.append(record)
        return record.id


def new(
    run: Run | None = RUN,
    texts: tuple[str, ...] = ("Hel", "lo"),
    keeps: Keeps | None = None,
    sent: bytes = SENT,
    **changes: Any,  # noqa: ANN401 - any field of the request
) -> Task:
    task = Task(
        Admission(
            task_id="task-1",
            job_id="j",
            request=request(**changes),
            seed=7,
            caller=CALLER,
            created_ms=1_700_000_000_000,
            at_ms=1_000.0,
            queue_position=2,
            predicted_start_ms=300,
            backoff_ms=0,
        ),
        keeps,
    )
    if run is not None:
        task.start(run, STARTED)
        task.asked(sent)
        if texts:
            task.texts(list(texts), 1_400.0)
    return task


class Ended:
    """A task that ended, its record as it was sealed, and the JSON that stands in it."""

    def __init__(self, cached_tokens: int | None = 2, **changes: Any) -> None:  # noqa: ANN401 - what a new task takes
        sealing = Sealing()
        self.task = new(keeps=sealing, **changes)
        if self.task.run is None:
            self.task.cancel(1_900.0)
        else:
            finished = Finished(
                reason=FinishReason.STOP, tokens_in=3, tokens_out=2, decode_ms=5.0, cached_tokens=cached_tokens
            )
            self.task.done(finished, 1_900.0)
        [self.sealed] = sealing.made
        self.record = msgspec.json.decode(self.sealed.content, type=Receipt)
        self.plain: dict[str, Any] = msgspec.json.decode(self.sealed.content)


@pytest.mark.req("HP-21")
def test_a_record_says_what_was_asked_who_served_it_how_long_it_took_and_what_came() -> None:
    one = Ended(seed=7, sampling=Sampling(temperature=0.5))
    task, sealed, record, plain = one.task, one.sealed, one.record, one.plain
    assert sealed.id == f"sha256:{hashlib.sha256(sealed.content).hexdigest()}"
    assert sealed.content == canonical(plain)
    assert sealed.head.kind is ArtifactKind.TRACE
    assert plain["request"]["prompt"] == "hello"
    assert msgspec.convert(plain["request"], TaskRequest) == task.request
    assert plain["engine"] == {
        "engine": "llamacpp",
        "engine_version": "b1",
        "engine_digest": "sha256:e",
        "provisioning_mode": "package",
        "pool_id": "p",
        "replica_id": "p-0",
        "devices": ["0"],
        "model_ref": "file:/models/m.gguf",
        "model_id": "m",
        "model_digest": "sha256:0",
        "sampler_profile_version": "v1",
        "driver_version": "560.35",
        "argv": ["A=1", "/llama-server", "--port", "{port}"],
        "slots": 1,
        "ctx_max": 4096,
    }
    assert (record.task_id, record.job_id, record.correlation_id, record.identity) == (
        "task-1",
        "j",
        "corr-1",
        "localhost",
    )
    assert (record.queue_time_ms, record.first_token_ms, record.created_ms) == (250, 400, 1_700_000_000_000)
    assert (record.transcript, record.pieces, record.state) == ("Hello", 2, "done")
    assert record.stream_sha256 == hashlib.sha256(b"Hello").hexdigest()
    assert (record.redacted, record.cut, record.error) == (False, False, None)


@pytest.mark.req("HP-21", "HP-12")
def test_a_record_says_what_the_engine_was_really_asked_in_which_slot_and_what_was_there_already() -> None:
    one = Ended()
    assert one.plain["sent"] == one.record.sent == {"id_slot": 3, "seed": 7, "stream": True}
    assert one.record.slot == SlotUse(slot=3, cache_prompt=True, cached_tokens=2)
    assert Ended(cached_tokens=None).record.slot == RUN.use
    assert (one.record.attempts, one.record.interrupted) == (1, False)


@pytest.mark.req("HP-21", "HP-12")
def test_of_several_runs_the_last_is_told() -> None:
    sealing = Sealing()
    task = new(keeps=sealing, texts=())
    task.wait_again()
    task.start_again(msgspec.structs.replace(RUN, replica_id="q-0", use=None), Metrics(pool_id="q"))
    task.cancel(1_900.0)
    record = msgspec.json.decode(sealing.made[0].content, type=Receipt)
    assert (record.sent, record.slot, record.attempts) == (None, None, 2)
    assert record.engine is not None
    assert record.engine.replica_id == "q-0"


@pytest.mark.req("HP-21")
def test_one_that_was_cut_off_by_our_own_end_says_so() -> None:
    sealing = Sealing()
    task = new(keeps=sealing)
    task.interrupted = True
    task.fail(ErrorCode.WORKER_RESET, "orchestratord ended while it ran")
    assert msgspec.json.decode(sealing.made[0].content, type=Receipt).interrupted


@pytest.mark.req("HP-21", "HP-12")
def test_a_schema_is_kept_in_the_order_in_which_it_was_sent_too() -> None:
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"default": "hunter"}}}
    text = msgspec.json.encode(schema).decode()
    one = Ended(sampling=Sampling(json_schema=schema), sent=b'{"json_schema":%b,"seed":7}' % text.encode())
    assert one.sealed.content == canonical(one.plain)
    assert one.record.json_schema == text
    assert one.plain["sent"]["json_schema"] == schema
    assert Ended().record.json_schema is None


@pytest.mark.req("HP-21")
def test_the_end_and_the_status_name_the_record_which_cannot_name_itself() -> None:
    one = Ended()
    task, sealed, record = one.task, one.sealed, one.record
    assert isinstance(task.outcome, End)
    assert task.outcome.artifact_id == task.status.artifact_id == sealed.id
    assert record.end == msgspec.structs.replace(task.outcome, artifact_id=msgspec.UNSET)
    assert f'"artifact_id":"{sealed.id}"'.encode() in task.log.read(0)


@pytest.mark.req("HP-21")
def test_a_task_that_failed_leaves_one_too() -> None:
    sealing = Sealing()
    task = new(keeps=sealing)
    task.fail(ErrorCode.WORKER_RESET, "the engine is gone", "send the task again")
    record = msgspec.json.decode(sealing.made[0].content, type=Receipt)
    assert (record.state, record.transcript, record.end) == ("failed", "Hello", None)
    assert record.error is not None
    assert (record.error.code, record.error.message) == (ErrorCode.WORKER_RESET, "the engine is gone")
    assert task.status.artifact_id == sealing.made[0].id


def test_one_that_never_started_names_no_engine() -> None:
    record = Ended(run=None).record
    assert (record.engine, record.state, record.transcript, record.queue_time_ms) == (None, "canceled", "", None)


@pytest.mark.req("ORCH-3811", "EP-13")
@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": f"my token is {SECRET}."},
        {"prompt": "line\nhf_abcdefghijklmnopqrstuvwxyz"},
        {"prompt": None, "messages": (ChatMessage(role=Role.USER, content=f"x{SECRET}"),)},
        {"prompt": "q", "inputs": ("a", SECRET), "workload": Workload.RERANK},
        {"model_ref": f"https://user:{SECRET}@host/m.gguf"},
        {"sampling": Sampling(stop=(SECRET,))},
        {"sampling": Sampling(grammar=f'root ::= "{SECRET}"')},
        {"sampling": Sampling(json_schema={"password": "hunter2", "default": SECRET})},
        {"output_mode": SECRET},
        {"sent": b'{"model":"%b"}' % SECRET.encode()},
        {"sent": b'{"model":"https://me:hunter2@host/m"}'},
        {"run": msgspec.structs.replace(RUN, served=snapshot(argv=("serve", f"--key={SECRET}")))},
        {"session_id": SECRET},
    ],
)
def test_a_secret_of_the_request_is_not_recorded(changes: dict[str, Any]) -> None:
    one = Ended(**changes)
    sealed, record = one.sealed, one.record
    assert record.redacted
    assert sealed.info.redacted
    for secret in (SECRET, "hf_abc", "hunter2"):
        assert secret not in sealed.content.decode()
    assert b"***" in sealed.content


@pytest.mark.req("ORCH-3811", "EP-13")
@given(st.integers(1, len(SECRET) - 1))
def test_a_secret_that_an_answer_repeats_is_not_recorded_however_it_was_cut(place: int) -> None:
    one = Ended(texts=("it is ", SECRET[:place], SECRET[place:], "!"))
    sealed, record = one.sealed, one.record
    assert (record.transcript, record.redacted) == ("it is ***!", True)
    assert SECRET.encode() not in sealed.content
    assert record.stream_sha256 == hashlib.sha256(f"it is {SECRET}!".encode()).hexdigest()


def test_ordinary_words_are_kept_as_they_are() -> None:
    text = "a monkey asks: task-7 is the key to risk-free turkeys, at https://example.org/a?b=c&d=e"
    one = Ended(prompt=text, texts=(text,))
    record, plain = one.record, one.plain
    assert (plain["request"]["prompt"], record.transcript, record.redacted) == (text, text, False)


def test_texts_that_are_too_long_are_left_out_and_the_record_says_so() -> None:
    one = Ended(prompt="a" * (MAX_TEXT_BYTES + 1))
    assert (one.plain["request"]["prompt"], one.record.transcript, one.record.cut) == (None, "Hello", True)
    one = Ended(texts=("a" * (MAX_TEXT_BYTES + 1),))
    assert (one.plain["request"]["prompt"], one.record.transcript, one.record.cut) == ("hello", None, True)


@given(st.lists(st.text(), max_size=8))
def test_the_text_of_a_stream_is_what_was_put_in(texts: list[str]) -> None:
    log = StreamLog()
    log.started(STARTED)
    texts = [text.encode(errors="ignore").decode() for text in texts]
    log.texts(texts)
    assert text_of(log.read(0)) == "".join(texts)


@pytest.mark.parametrize("text", ['","i":5}\n\n', '\ndata: {"t":"x","i":1}', "\\", '"', '\\","i":'])
def test_text_that_looks_like_framing_is_text(text: str) -> None:
    log = StreamLog()
    log.texts([text, text])
    assert text_of(log.read(0)) == text * 2
