"""Writers that die by SIGKILL, at each step and at any moment, and writers that compete."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from catalog_core.models import FsModelCatalog

ROOT = Path(__file__).parents[3]
HERE = "tests.unit.catalog_core"


def start(module: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"{HERE}.{module}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.req("CAT-01", "CAT-02")
def test_a_change_that_is_killed_at_any_line_happened_or_did_not(tmp_path: Path) -> None:
    with start("killed_writer", tmp_path, "change") as child:
        output, _ = child.communicate()
    found = json.loads(output)
    assert found["wrong"] == []
    # the sweep went through the whole change: before the rename and after it
    assert found["points"] > 50
    assert found["old"] > 40
    assert found["new"] > 3


@pytest.mark.req("CAT-04")
def test_a_recovery_that_is_killed_at_any_line_never_loses_the_damaged_index(tmp_path: Path) -> None:
    with start("killed_writer", tmp_path, "corrupt") as child:
        output, _ = child.communicate()
    found = json.loads(output)
    assert found["wrong"] == []
    assert found["points"] > 80
    assert found["old"] > 60
    assert found["new"] > 3


@pytest.mark.req("CAT-01", "CAT-02")
def test_a_writer_that_is_killed_at_any_moment_leaves_all_that_it_said_was_written(tmp_path: Path) -> None:
    moments = random.Random(7)
    said: set[str] = set()
    for turn in range(12):
        with start("busy_writer", tmp_path, f"turn{turn}", 0) as child:
            assert child.stdout is not None
            for _ in range(moments.randint(1, 40)):
                said.add(child.stdout.readline().strip())
            for _ in range(moments.randint(0, 20_000)):
                pass  # a moment somewhere within the next writes
            child.kill()
            said |= {line.strip() for line in child.stdout if line.endswith("\n")}
        found = {entry.id for entry in FsModelCatalog(tmp_path).list()}
        assert said <= found
        assert len(found - said) <= turn + 1  # one that was on the disk but not yet said, each time
        said = found
    FsModelCatalog(tmp_path).delete("turn0-1")
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.req("CAT-01")
def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    with start("busy_writer", tmp_path, "a", 60) as one, start("busy_writer", tmp_path, "b", 60) as other:
        one.communicate()
        other.communicate()
    assert (one.returncode, other.returncode) == (0, 0)
    expected = {f"{prefix}-{number}" for prefix in "ab" for number in range(1, 61)}
    assert {entry.id for entry in FsModelCatalog(tmp_path).list()} == expected
