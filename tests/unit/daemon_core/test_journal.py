"""The native protocol of systemd's journal, and what happens where the journal does not take an entry at once."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon_core import journal
from daemon_core.journal import Journal, reads
from daemon_core.journal_entry import encoded, field_name, prefixed, priority
from tests.unit.daemon_core.journald import Journald, decoded

LONG = "x" * 200_000
"""More than a datagram takes."""


def about_loss(lines: int) -> bytes:
    return encoded([("MESSAGE", f"{lines} lost")])


def entry(text: str) -> bytes:
    return encoded([("MESSAGE", text)])


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    with Journald(tmp_path) as made:
        yield made


@pytest.fixture
def ours(journald: Journald) -> Iterator[Journal]:
    made = Journal(about_loss, journald.address)
    yield made
    made.close()


def taken(journald: Journald, count: int) -> list[str]:
    return [journald.take()["MESSAGE"][0] for _ in range(count)]


# --- an entry ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["MESSAGE", "A", "B_1"]), st.text(st.characters(codec="utf-8")))))
def test_every_value_comes_back_whatever_is_in_it(fields: list[tuple[str, str]]) -> None:
    back = decoded(encoded(fields))
    for name in {name for name, _ in fields}:
        # Fields of several lines stand behind the others; the order of different values of a field means nothing.
        assert sorted(back[name]) == sorted(value for each, value in fields if each == name)


def test_what_is_no_text_harms_nobody() -> None:
    assert decoded(encoded([("MESSAGE", "a\udcff"), ("MORE", "\udcff\n")])) == {
        "MESSAGE": ["a\\udcff"],
        "MORE": ["\\udcff\n"],
    }


@given(st.text())
def test_the_journal_takes_every_name(name: str) -> None:
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", field_name(name))


def test_what_one_searches_for_has_the_same_name_in_every_line() -> None:
    names = ("pool_id", "correlation_id", "correlation_ids", "task_id", "replica_id", "engine", "source")
    assert [field_name(name).removeprefix("LLAMA_ORCH_") for name in names] == [
        *("POOL", "CORRELATION_ID", "CORRELATION_ID", "TASK_ID", "REPLICA_ID", "ENGINE", "SOURCE")
    ]


def test_a_level_has_the_priority_of_syslog() -> None:
    levels = (logging.DEBUG, logging.INFO, 25, logging.WARNING, logging.ERROR, logging.CRITICAL, 60)
    assert [priority(level) for level in levels] == [7, 6, 6, 4, 3, 2, 2]
    assert prefixed("one\n  two\n", logging.ERROR) == "<3>one\n<3>  two\n"
    assert prefixed("", logging.INFO) == "<6>\n"


# --- the way there ----------------------------------------------------------------------------------------------------


def test_an_entry_arrives_at_once_and_a_long_one_too(journald: Journald, ours: Journal) -> None:
    assert ours.send(encoded([("MESSAGE", "short"), ("TEXT", "of\nlines")]))
    assert journald.has_more()
    assert journald.take() == {"MESSAGE": ["short"], "TEXT": ["of\nlines"]}
    assert ours.send(entry(LONG))
    assert journald.take() == {"MESSAGE": [LONG]}


def test_a_busy_journal_costs_no_time_and_no_order(journald: Journald, ours: Journal) -> None:
    texts = [LONG if number == 5 else str(number) for number in range(3_000)]
    for text in texts:
        assert ours.send(entry(text))
    assert taken(journald, 3_000) == texts
    assert ours.flush(40)
    assert ours.send(entry("later"))
    assert taken(journald, 1) == ["later"]


def test_what_a_journal_does_not_take_for_too_long_is_lost_and_counted(
    journald: Journald, ours: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MAX_WAITING_BYTES", 40 * len(entry("0000")))
    sent = 2_000
    for number in range(sent):
        assert ours.send(entry(f"{number:04}"))
    monkeypatch.undo()
    read = []
    while not (text := journald.take()["MESSAGE"][0]).endswith(" lost"):
        read.append(text)
    assert text == f"{sent - len(read)} lost"
    assert read == [f"{number:04}" for number in range(len(read))]
    assert len(read) >= 40


def test_a_line_that_was_lost_elsewhere_is_told_with_the_next(journald: Journald, ours: Journal) -> None:
    ours.lose()
    ours.lose()
    assert ours.send(entry("here again"))
    assert taken(journald, 2) == ["here again", "2 lost"]


def test_where_there_is_no_journal_the_caller_is_told_and_its_return_is_noticed(tmp_path: Path) -> None:
    ours = Journal(about_loss, tmp_path / "socket")
    assert not ours.send(entry("nobody"))
    assert not ours.send(entry(LONG))
    with Journald(tmp_path) as journald:
        assert ours.send(entry("first"))
        assert taken(journald, 1) == ["first"]
    assert not ours.send(entry("gone"))  # its socket is there, and nobody behind it
    (tmp_path / "socket").unlink()
    with Journald(tmp_path) as journald:
        assert ours.send(entry("second"))
        assert taken(journald, 1) == ["second"]
    ours.close()
    assert not ours.send(entry("closed"))


def test_an_end_does_not_wait_for_a_journal_that_reads_nothing(
    journald: Journald, ours: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2_000):
        ours.send(entry("never read"))
    assert not ours.flush(0)
    monkeypatch.setattr(journal, "PATIENCE_S", 0)
    ours.close()
    assert not ours.send(entry("closed"))


def test_an_end_waits_until_the_last_lines_were_read(
    journald: Journald, ours: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose they are the journal asks then, and a process that is gone has neither a user nor a unit."""
    ours.send(entry("the last"))
    ours.send(entry(LONG))
    read: list[str] = []

    def reads_one(_: float) -> None:
        read.extend(taken(journald, 1))

    monkeypatch.setattr(journal, "PATIENCE_S", 40)
    monkeypatch.setattr("daemon_core.journal.time.sleep", reads_one)
    ours.close()
    assert read == ["the last", LONG]


def test_a_journal_that_vanishes_while_entries_wait_is_counted_as_a_loss(tmp_path: Path) -> None:
    with Journald(tmp_path) as journald:
        ours = Journal(about_loss, journald.address)
        for _ in range(2_000):
            ours.send(entry("of before"))
    assert ours.flush(40)
    (tmp_path / "socket").unlink()
    with Journald(tmp_path) as journald:
        assert ours.send(entry("after"))
        assert journald.take() == {"MESSAGE": ["after"]}
        assert re.fullmatch(r"\d+ lost", journald.take()["MESSAGE"][0])
    ours.close()


def test_only_a_descriptor_that_leads_to_the_journal_is_taken_for_one() -> None:
    one, other = socket.socketpair()
    with one, other:
        found = os.fstat(one.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert reads(one.fileno(), environ)
        assert not reads(other.fileno(), environ)
        assert not reads(one.fileno(), {})
        closed = os.dup(one.fileno())
        os.close(closed)
        assert not reads(closed, environ)
