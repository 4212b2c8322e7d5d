"""A long stream is looked at while it grows: what was looked at is not looked at again, and no secret gets by."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon_core.redaction import Redactor
from daemon_core.secret_shapes import REACH
from orchestratord import kept
from orchestratord.fair_copy import PART_BYTES, FairCopy, Reading
from orchestratord.records import MAX_TEXT_BYTES
from orchestratord.stream_log import StreamLog, text_of
from orchestratord.task import Admission, Caller, Task
from tests.unit.daemon_core.test_secret_shapes import FRAGMENTS
from tests.unit.orchestratord.world import request

SECRET = "sesame-" * 100
"""Longer than anything that only looks like a secret has to be."""
WORD = "moon key, "


class Counting(Redactor):
    """Counts the characters that it was given to look at."""

    looked = 0

    def text(self, text: str) -> str:
        self.looked += len(text)
        return super().text(text)


def task() -> Task:
    return Task(
        Admission(
            task_id="t",
            job_id="j",
            request=request(),
            seed=1,
            caller=Caller("c", "localhost"),
            created_ms=1,
            at_ms=0.0,
            queue_position=0,
            predicted_start_ms=0,
            backoff_ms=0,
        )
    )


def grown(fair: FairCopy, texts: list[str], times: int) -> Task:
    """A task whose stream has so many times these pieces, and was told of as it grew."""
    made, due = task(), 0
    for _ in range(times):
        made.log.texts(texts)
        if len(made.log) >= due:
            due = fair.grows(made)
    return made


PIECE = st.sampled_from([*FRAGMENTS, SECRET, SECRET[:400], SECRET[400:], "." * (REACH - 5), "." * (REACH + 20)])


@pytest.mark.req("ORCH-3811")
@given(st.lists(st.lists(PIECE | st.text(max_size=4), max_size=4), max_size=6))
@example([["Bear"], ["er abc"], ["def"]])
@example([["." * REACH + "AKIA"], ["ABCDEFGHIJKLMNOP"]])
@example([["password: " + "." * REACH], ["sesame"]])
@example([["https://user:"], ["x" * 255], ["@"]])
@example([[SECRET[:650]], [SECRET[650:]]])
def test_what_was_read_as_clean_part_by_part_is_clean_as_a_whole(parts: list[list[str]]) -> None:
    redactor, log = Redactor((SECRET,)), StreamLog()
    reading, clean = Reading(redactor), True
    for part in parts:
        log.texts(part)
        clean = reading.rest(log)
    text = text_of(log.read(0))
    assert not clean or redactor.text(text) == text


@pytest.mark.req("ORCH-3811")
def test_the_end_of_a_long_stream_looks_at_its_last_part_alone() -> None:
    redactor = Counting((SECRET,))
    fair = FairCopy(redactor)
    long = grown(fair, [WORD] * 8, 4000)
    assert len(long.log) > 4 * MAX_TEXT_BYTES
    before = redactor.looked
    assert fair.stream(long, None) == long.log.read(0)
    assert redactor.looked - before < PART_BYTES
    assert redactor.looked < len(text_of(long.log.read(0))) * 1.5


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize("where", ["early", "late", "registered later"])
def test_a_long_stream_is_written_without_a_secret_wherever_it_stands(where: str) -> None:
    redactor = Redactor(("something else",))
    fair = FairCopy(redactor)
    long = task()
    secret = "open-sesame" if where == "registered later" else "hf_ABCDEFGHIJKLMNOPQRSTUV"
    long.log.texts(["The word is ", secret[:5], secret[5:], ". "] if where != "late" else ["The word. "])
    for _ in range(3000):
        long.log.texts([WORD] * 4)
        fair.grows(long)
    if where == "late":
        long.log.texts([secret])
    redactor.register(secret if where == "registered later" else "whatever")
    written = fair.stream(long, None)
    assert secret not in text_of(written)
    assert written == kept.without_secrets(long.log.read(0), redactor)


def test_a_short_stream_is_looked_at_by_nobody_before_its_end() -> None:
    redactor = Counting()
    fair = FairCopy(redactor)
    assert fair.grows(grown(fair, [WORD], 100)) > MAX_TEXT_BYTES
    assert redactor.looked == 0
