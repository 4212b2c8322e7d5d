"""``llama-orch replay`` against a stand-in for the daemon, whose answers are known."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from contracts.artifacts import canonical
from contracts.errors import ErrorCode
from contracts.events import FinishReason, StreamError
from contracts.examples.receipts import RECEIPT
from contracts.tasks import Placement, PlacementMode, Sampling, TaskRequest, TaskState
from tests.integration.llama_orch.conftest import Cli, Outcome
from tests.integration.llama_orch.test_receipts import leave
from tests.unit.llama_orch.fake import PIECES, TEXT, FakeDaemon, end

pytestmark = [
    pytest.mark.req("HP-21", "HP-12"),
    pytest.mark.timeout(120),
]  # programs start one after the other

ASKED = TaskRequest(model_ref="/haiku.gguf", prompt="rain", sampling=Sampling(temperature=0.5))


def record(fake: FakeDaemon, text: str = TEXT, task_id: str = "poem-1", **more: Any) -> str:  # noqa: ANN401 - any field
    """A task of this daemon gave this text, of which no stream is kept; its id in the chain is the answer."""
    fake.kept = fake.kept or {}
    known: dict[str, Any] = {
        "request": msgspec.Raw(canonical(ASKED)),
        "transcript": text,
        "stream_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "end": end(text),
        "pieces": len(PIECES),
    }
    return leave(fake, task_id, **(known | more)).id


def answers(fake: FakeDaemon, *pieces: str) -> None:
    """From now on the daemon says this."""
    fake.pieces = pieces


async def replayed(cli: Cli, *arguments: str) -> tuple[Outcome, dict[str, Any]]:
    done = await cli("replay", *arguments, "--json")
    assert done.stdout, done.stderr
    return done, json.loads(done.stdout)


# --- what is asked ----------------------------------------------------------------------------------------------------


async def test_the_recorded_request_is_asked_with_the_recorded_seed_in_the_recorded_pool(
    fake: FakeDaemon, cli: Cli
) -> None:
    record(fake, seed=99, request=msgspec.Raw(canonical(replace(ASKED, session_id="moon", deadline_ms=5))))
    done = await cli("replay", "poem-1")
    assert done.status == 0, done.stdout + done.stderr
    (sent,) = fake.requests
    pinned = Placement(mode=PlacementMode.PIN, pool_id="trial")
    assert sent == replace(ASKED, task_id=sent.task_id, seed=99, placement=pinned, on_disconnect=sent.on_disconnect)
    assert (sent.task_id or "").startswith("cli-")


async def test_a_pool_that_is_not_there_is_refused_with_those_that_are(fake: FakeDaemon, cli: Cli) -> None:
    record(fake)
    done = await cli("replay", "poem-1", "--pool", "nope")
    assert (done.status, done.stderr) == (
        1,
        "llama-orch: INVALID_PARAMS: there is no pool 'nope'\n  hint: pools: trial\n",
    )
    assert fake.requests == []


# --- what is found ----------------------------------------------------------------------------------------------------


async def test_an_identical_answer_is_bit_exact(fake: FakeDaemon, cli: Cli) -> None:
    for name in ("poem-1", record(fake), "1", RECEIPT.job_id):
        done, report = await replayed(cli, name)
        assert (done.status, report["grade"], report["same"]) == (0, "bit-exact", "identical")
    shown = await cli("replay", "poem-1")
    assert f"identical: 4 tokens, sha256 {hashlib.sha256(TEXT.encode()).hexdigest()}\n" in shown.stdout


async def test_another_answer_is_told_by_its_first_differing_token(fake: FakeDaemon, cli: Cli) -> None:
    record(fake)
    fake.kept = {"poem-1": PIECES}
    answers(fake, " rain on", " the new", " roof")
    done, report = await replayed(cli, "poem-1")
    assert (done.status, report["same"]) == (1, "different")
    assert report["difference"] == {
        "unit": "token",
        "number": 1,
        "character": len(" rain on the "),
        "before": " rain on",
        "recorded": " the old roof\nstill ünd warm",
        "now": " the new roof",
    }
    assert (report["recorded"]["pieces"], report["now"]["pieces"]) == (4, 3)


async def test_where_the_stream_is_gone_or_another_one_characters_are_counted(fake: FakeDaemon, cli: Cli) -> None:
    record(fake)
    answers(fake, " rain on the new roof")
    streams: tuple[dict[str, tuple[str, ...]], ...] = ({}, {"poem-1": ("something", " else")})
    for kept in streams:
        fake.kept = kept
        _, report = await replayed(cli, "poem-1")
        assert (report["difference"]["unit"], report["difference"]["number"]) == ("character", len(" rain on the "))


async def test_the_engine_that_changed_is_named_and_makes_it_best_effort(fake: FakeDaemon, cli: Cli) -> None:
    record(fake)
    answers(fake, "no rain")
    _, report = await replayed(cli, "poem-1")
    changed = {each["fact"]: (each["recorded"], each["now"]) for each in report["changes"]}
    assert RECEIPT.engine is not None
    assert changed["engine_version"] == (RECEIPT.engine.engine_version, "b1")
    assert report["grade"] == "best effort"
    assert set(report["unknown"]) == {"engine_digest", "model_digest"}
    assert any("left no receipt" in note for note in report["notes"])


async def test_the_same_engine_with_another_text_is_same_engine(fake: FakeDaemon, cli: Cli) -> None:
    record(fake)
    fake.leaves = lambda task_id: leave(fake, task_id, transcript="no rain").id
    answers(fake, "no rain")
    done, report = await replayed(cli, "poem-1")
    assert (done.status, report["grade"], report["changes"], report["unknown"]) == (1, "same engine", [], [])
    assert report["now"]["artifact_id"] == fake.left[report["now"]["task_id"]]


# --- receipts that do not tell all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["canceled", "interrupted", "failed"])
async def test_an_answer_that_broke_off_is_compared_as_far_as_it_goes(fake: FakeDaemon, cli: Cli, how: str) -> None:
    beginning = "".join(PIECES[:2])
    error = StreamError(code=ErrorCode.WORKER_RESET, message="it ended", retriable=True)
    more: dict[str, dict[str, Any]] = {
        "canceled": {"end": replace(end(beginning), finish_reason=FinishReason.CANCELED)},
        "interrupted": {"end": None, "error": error, "interrupted": True, "state": TaskState.FAILED},
        "failed": {"end": None, "error": error, "state": TaskState.FAILED},
    }
    record(fake, beginning, pieces=2, **more[how])
    done = await cli("replay", "poem-1")
    ended = {"canceled": "canceled", "interrupted": "interrupted", "failed": "WORKER_RESET"}[how]
    assert done.status == 0, done.stdout + done.stderr
    assert f"identical as far as it was recorded: 2 tokens, then it ended: {ended}\n" in done.stdout
    assert fake.canceled.is_set()  # what comes behind it is of no use to anybody


async def test_an_answer_of_which_nothing_came_cannot_be_compared(fake: FakeDaemon, cli: Cli) -> None:
    error = StreamError(code=ErrorCode.ADMISSION_REJECT, message="too late", retriable=False)
    record(fake, "", end=None, error=error, engine=None, slot=None, sent=None, pieces=0, state=TaskState.FAILED)
    done = await cli("replay", "poem-1")
    assert done.status == 1
    assert "it cannot be compared: nothing had come when it broke off\n" in done.stdout


async def test_of_a_transcript_that_was_cut_the_hash_is_compared(fake: FakeDaemon, cli: Cli) -> None:
    record(fake, transcript=None, cut=True)
    done, report = await replayed(cli, "poem-1")
    assert (done.status, report["same"]) == (0, "identical")
    answers(fake, "no rain")
    done, report = await replayed(cli, "poem-1")
    assert (done.status, report["difference"]) == (1, None)
    assert "too long to be kept" in report["why"]


async def test_a_request_that_was_cut_cannot_be_asked(fake: FakeDaemon, cli: Cli) -> None:
    record(fake, request=msgspec.Raw(canonical(replace(ASKED, prompt=None))), cut=True)
    done = await cli("replay", "poem-1")
    assert done.status == 1
    assert "the receipt does not have the texts of its request" in done.stderr


async def test_what_stands_before_a_secret_is_compared(fake: FakeDaemon, cli: Cli) -> None:
    masked = TEXT.replace("roof", "***")
    record(fake, redacted=True, transcript=masked, stream_sha256="0" * 64)
    _, report = await replayed(cli, "poem-1")
    assert (report["same"], report["difference"]) == ("different", None)
    assert "a secret was taken out" in report["why"]


# --- a receipt from elsewhere -----------------------------------------------------------------------------------------


async def test_a_receipt_of_another_machine_is_read_from_a_file(fake: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    record(fake)
    record(fake, "no rain", "poem-2")
    await cli("receipts", "export", "-o", "chain.jsonl")
    shown = await cli("receipts", "show", "poem-1", "--json")
    (tmp_path / "one.json").write_text(shown.stdout)
    fake.ledger.forget(2)
    fake.left = {"poem-9": None}
    fake.requests.clear()
    done, report = await replayed(cli, "poem-1", "--file", "chain.jsonl")
    assert (done.status, report["recorded"]["task_id"]) == (0, "poem-1")
    assert (await cli("replay", "--file", "one.json", "--pool", "trial")).status == 0
    assert (await replayed(cli, "poem-2", "--file", "chain.jsonl"))[0].status == 1
    several = await cli("replay", "--file", "chain.jsonl")
    assert (several.status, "there are 2 receipts in chain.jsonl" in several.stderr) == (1, True)


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_nothing_that_is_named_is_wrong_usage(cli: Cli) -> None:
    assert (await cli("replay")).status == 2


async def test_a_receipt_that_is_not_there_or_was_changed_is_refused(fake: FakeDaemon, cli: Cli) -> None:
    fake.left = {"poem-9": None}
    assert "NOT_FOUND: there is no task 'poem-1'" in (await cli("replay", "poem-1")).stderr
    fake.left = {}
    record(fake)
    [made] = fake.ledger.read(0, 1)
    fake.ledger.tamper(0, replace(made, content=made.content.replace(b"rain", b"snow")))
    done = await cli("replay", "1")
    assert (done.status, "it was changed" in done.stderr) == (1, True)
    assert fake.requests == []


async def test_a_second_run_that_fails_is_told_with_its_own_error(fake: FakeDaemon, cli: Cli) -> None:
    record(fake)
    fake.error = StreamError(code=ErrorCode.WORKER_RESET, message="the engine is gone", retriable=True)
    done = await cli("replay", "poem-1")
    assert (done.status, "WORKER_RESET: the engine is gone" in done.stderr) == (75, True)
