"""What becomes of an index that is newer, damaged or not ours."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog_core.errors import CatalogIoError, CorruptIndexError, SchemaVersionError
from catalog_core.index import Index, Rebuilding
from catalog_core.migrations import Steps
from contracts.base import Message


class Thing(Message, frozen=True, kw_only=True):
    id: str
    size: int = 0


def index(root: Path) -> Index[Thing]:
    return Index(root / "things.json", Thing)


def put(*things: Thing) -> Callable[[dict[str, Thing]], None]:
    return lambda entries: entries.update({thing.id: thing for thing in things})


@pytest.mark.req("CAT-02")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(-(2**63), 2**63 - 1)))
def test_what_was_written_is_read(tmp_path: Path, sizes: dict[str, int]) -> None:
    things = {name: Thing(id=name, size=size) for name, size in sizes.items()}

    def change(entries: dict[str, Thing]) -> None:
        entries.clear()
        entries.update(things)

    assert index(tmp_path).update(change) is None
    assert index(tmp_path).read() == things


@pytest.mark.req("CAT-01")
def test_the_file_says_its_schema_and_is_readable_by_people(tmp_path: Path) -> None:
    index(tmp_path).update(put(Thing(id="b"), Thing(id="a", size=3)))
    text = (tmp_path / "things.json").read_text()
    assert json.loads(text) == {"schema": 1, "entries": {"a": {"id": "a", "size": 3}, "b": {"id": "b", "size": 0}}}
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


def test_a_change_that_raises_or_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    index(tmp_path).update(put(Thing(id="a")))
    before = (tmp_path / "things.json").stat()

    def fail(entries: dict[str, Thing]) -> None:
        entries.clear()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        index(tmp_path).update(fail)
    index(tmp_path).update(put(Thing(id="a")))
    after = (tmp_path / "things.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.req("CAT-04")
def test_reading_never_writes(tmp_path: Path) -> None:
    assert index(tmp_path / "missing").read() == {}
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "things.json").write_text("{")
    with pytest.raises(CorruptIndexError):
        index(tmp_path).read()
    assert [path.name for path in tmp_path.iterdir()] == ["things.json"]


@pytest.mark.req("CAT-02")
def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "things.json"
    text = '{"schema": 7, "entries": ["quite", "different"]}'
    path.write_text(text)
    for act in (index(tmp_path).read, index(tmp_path).recover, lambda: index(tmp_path).update(put(Thing(id="a")))):
        with pytest.raises(SchemaVersionError) as caught:
            act()
        assert caught.value.message == f"{path} has schema 7, but this version reads schema 1"
        assert caught.value.hint.startswith("use the version that wrote it, or move things.json away")
        assert (caught.value.found, caught.value.supported) == (7, 1)
    assert path.read_text() == text
    assert not list(tmp_path.glob("*.corrupt-*"))


def test_fields_of_a_newer_version_with_the_same_schema_are_tolerated(tmp_path: Path) -> None:
    (tmp_path / "things.json").write_text('{"schema": 1, "entries": {"a": {"id": "a", "colour": "red"}}, "more": 1}')
    assert index(tmp_path).read() == {"a": Thing(id="a")}


DAMAGED = [
    b"",
    b"\0" * 40,
    b"\xff\xfe",
    b"[]",
    b'{"schema": 1',
    b'{"schema": 1}',
    b'{"schema": 0, "entries": {}}',
    b'{"schema": "1", "entries": {}}',
    b'{"schema": 1, "entries": []}',
    b'{"schema": 1, "entries": {"\xff": {}}}',
    b'{"schema": 1, "entries": {"a": {"id": "b"}}}',
    b'{"schema": 1, "entries": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    b'{"schema": 1, "entries": ' + b"[" * 100_000,
]


@pytest.mark.req("CAT-04")
@pytest.mark.parametrize("data", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_index_is_moved_aside_reported_and_rebuilt(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "things.json"
    path.write_bytes(data)
    with pytest.raises(CorruptIndexError):
        index(tmp_path).read()
    report = index(tmp_path).update(put(Thing(id="new")))
    assert isinstance(report, Rebuilding)
    assert report.moved_to == tmp_path / "things.json.corrupt-1"
    assert report.moved_to.read_bytes() == data
    assert index(tmp_path).read() == {"new": Thing(id="new")}
    assert index(tmp_path).recover() is None


@pytest.mark.req("CAT-04")
def test_every_damaged_index_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "things.json"
    for number in (1, 2, 3):
        path.write_text(f"damage {number}")
        report = index(tmp_path).recover()
        assert isinstance(report, Rebuilding)
        assert report.moved_to.name == f"things.json.corrupt-{number}"
    assert [(tmp_path / f"things.json.corrupt-{n}").read_text()[-1] for n in (1, 2, 3)] == ["1", "2", "3"]


@pytest.mark.req("CAT-04")
def test_what_is_whole_is_kept_and_what_is_on_the_disk_is_found(tmp_path: Path) -> None:
    things = Index(
        tmp_path / "things.json",
        Thing,
        keep=lambda thing: thing.size < 100,
        discover=lambda: [Thing(id="whole", size=1), Thing(id="found", size=2)],
    )
    entries = {
        "whole": {"id": "whole", "size": 50},
        "unwanted": {"id": "unwanted", "size": 200},
        "broken": {"id": "broken", "size": "large"},
        "other": {"id": "another"},
    }
    (tmp_path / "things.json").write_text(json.dumps({"schema": 1, "entries": entries}))
    report = things.recover()
    assert isinstance(report, Rebuilding)
    assert report.kept == 2
    assert things.read() == {"whole": Thing(id="whole", size=50), "found": Thing(id="found", size=2)}
    assert "broken" in report.moved_to.read_text()


def test_a_report_reads_as_one_line() -> None:
    report = Rebuilding(
        path=Path("/c/models.json"), moved_to=Path("/c/models.json.corrupt-2"), reason="cut off", kept=3
    )
    expected = "/c/models.json could not be read (cut off): kept as models.json.corrupt-2, 3 entries rebuilt"
    assert report.render() == expected


def test_a_directory_in_the_place_of_the_index_is_said(tmp_path: Path) -> None:
    (tmp_path / "things.json").mkdir()
    with pytest.raises(CatalogIoError, match="Is a directory"):
        index(tmp_path).read()


def test_a_file_in_the_place_of_the_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "catalog").touch()
    with pytest.raises(CatalogIoError, match="cannot use"):
        index(tmp_path / "catalog").update(put(Thing(id="a")))


# --- schemas ----------------------------------------------------------------------------------------------------------

STEPS: Steps = {
    1: lambda entry: {**entry, "size": 10},
    2: lambda entry: {name: value for name, value in entry.items() if name != "weight"},
}


def newer(root: Path) -> Index[Thing]:
    return Index(root / "things.json", Thing, steps=STEPS)


@pytest.mark.req("CAT-02")
def test_an_older_schema_is_read_as_if_it_were_converted_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "things.json"
    path.write_text('{"schema": 1, "entries": {"a": {"id": "a", "weight": "much"}}}')
    assert newer(tmp_path).read() == {"a": Thing(id="a", size=10)}
    assert [each.name for each in tmp_path.iterdir()] == ["things.json"]


@pytest.mark.req("CAT-02")
@pytest.mark.parametrize("by", ["recover", "update"])
def test_an_older_index_is_converted_once_and_kept(tmp_path: Path, by: str) -> None:
    path = tmp_path / "things.json"
    text = '{"schema": 1, "entries": {"a": {"id": "a", "weight": "much", "colour": "red"}}, "more": 1}'
    path.write_text(text)
    report = newer(tmp_path).recover() if by == "recover" else newer(tmp_path).update(put(Thing(id="b")))
    assert report is not None
    assert report.render() == (
        f"{path} was converted from schema 1 to 3; for an older version it is kept as things.json.schema-1"
    )
    document = json.loads(path.read_text())
    assert (document["schema"], document["more"]) == (3, 1)
    assert document["entries"]["a"] == {"id": "a", "size": 10, "colour": "red"}
    assert (tmp_path / "things.json.schema-1").read_text() == text
    assert newer(tmp_path).recover() is None


@pytest.mark.req("CAT-02")
def test_the_first_index_that_was_converted_stays_as_it_was_kept(tmp_path: Path) -> None:
    (tmp_path / "things.json.schema-2").write_text("the first")
    (tmp_path / "things.json").write_text('{"schema": 2, "entries": {}}')
    assert newer(tmp_path).recover() is not None
    assert (tmp_path / "things.json.schema-2").read_text() == "the first"


@pytest.mark.req("CAT-02")
def test_an_older_version_is_told_of_the_index_that_was_kept_for_it(tmp_path: Path) -> None:
    (tmp_path / "things.json").write_text('{"schema": 1, "entries": {}}')
    newer(tmp_path).recover()
    with pytest.raises(SchemaVersionError) as caught:
        index(tmp_path).read()
    assert caught.value.hint == (
        "use the version that wrote it, or put things.json.schema-1 in its place: "
        "what it was before a newer version converted it"
    )


@pytest.mark.req("CAT-02")
def test_what_a_newer_version_wrote_of_an_entry_outlives_a_change_by_an_older_one(tmp_path: Path) -> None:
    text = '{"schema": 1, "entries": {"a": {"id": "a", "size": 1, "seen": {"by": ["x"], "n": 1e3}}}, "more": [1]}'
    (tmp_path / "things.json").write_text(text)
    index(tmp_path).update(put(Thing(id="a", size=2), Thing(id="b")))
    document = json.loads((tmp_path / "things.json").read_text())
    assert document["entries"]["a"] == {"id": "a", "size": 2, "seen": {"by": ["x"], "n": 1000}}
    assert document["entries"]["b"] == {"id": "b", "size": 0}
    assert document["more"] == [1]


def test_a_damaged_older_index_is_salvaged_through_the_steps(tmp_path: Path) -> None:
    entries = {"a": {"id": "a", "weight": 1}, "b": {"id": 7}, "c": 3}
    (tmp_path / "things.json").write_text(json.dumps({"schema": 1, "entries": entries}))
    report = newer(tmp_path).recover()
    assert isinstance(report, Rebuilding)
    assert newer(tmp_path).read() == {"a": Thing(id="a", size=10)}
