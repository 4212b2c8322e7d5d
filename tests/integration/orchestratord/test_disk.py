"""What waits for a disk, and how long the log of the database becomes."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestratord.database import Database
from orchestratord.disk import LOG_PAGES, Disk

PAGE = 4096
PROMPT = b"x" * 3000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.opened(tmp_path / "tasks.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def log(database: Database) -> Path:
    assert database.path is not None
    return database.path.with_name(f"{database.path.name}-wal")


@pytest.fixture
def disk(database: Database) -> Iterator[Disk]:
    assert database.path is not None
    made = Disk(database.path, lambda: database.writes)
    yield made
    made.close()


def run_of(log: Path) -> bytes:
    """What tells one run of a log from the next: its salts."""
    return log.read_bytes()[16:24]


@pytest.mark.req("HP-21")
async def test_the_first_write_after_a_checkpoint_does_not_wait_for_the_disk(
    database: Database, disk: Disk, log: Path
) -> None:
    database.admit("before", PROMPT)
    begun = run_of(log)
    await disk.tidied()
    anew = run_of(log)
    database.admit("after", PROMPT)
    assert begun != anew == run_of(log), "whoever begins the log anew flushes its first page"


@pytest.mark.req("HP-21")
async def test_the_log_stays_short_while_writers_never_pause(database: Database, disk: Disk, log: Path) -> None:
    async def write(first: int) -> None:
        for number in range(first, first + 60):
            database.admit(f"t{number}", PROMPT)
            await asyncio.sleep(0)

    longest = 0
    for first in range(0, 60 * 40, 60):
        async with asyncio.TaskGroup() as group:
            group.create_task(disk.tidied())
            group.create_task(write(first))
        longest = max(longest, log.stat().st_size)
    assert longest < 1.5 * LOG_PAGES * PAGE


async def test_a_checkpoint_while_somebody_writes_leaves_the_log_as_it_is(
    database: Database, disk: Disk, log: Path
) -> None:
    database.admit("t", PROMPT)
    begun = run_of(log)
    writer = sqlite3.connect(log.with_name("tasks.sqlite3"), isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    await disk.tidied()
    assert run_of(log) == begun
    writer.close()
    assert database.task("t") is not None
