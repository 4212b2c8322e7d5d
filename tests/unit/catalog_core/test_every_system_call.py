"""A writer that is killed before every system call that it makes, and one whose disk is full whenever it writes."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog_core.engines import FsEngineCatalog
from catalog_core.errors import CatalogError, CorruptIndexError
from catalog_core.journal import read_lines
from catalog_core.lock import locked
from catalog_core.models import FsModelCatalog
from model_provisioner.provenance import FILE, Provenance
from tests.support import syscalls
from tests.unit.catalog_core.conftest import Tally
from tests.unit.catalog_core.traced_writer import Order, engine, line, model, older_engines

pytestmark = [
    pytest.mark.skipif(not syscalls.SUPPORTED, reason="ptrace is spoken for Linux on x86-64 only"),
    pytest.mark.timeout(300),
    pytest.mark.slow,
]
ROOT = Path(__file__).parents[3]
OLD = {"schema": 1, "entries": {"a": {"id": "a", "ref": "a", "local_path": "/a.gguf", "size_bytes": 1, "digest": "d"}}}
DAMAGED = b'{"schema": 1'


class Writer:
    """A program that makes changes, or is killed while it makes them."""

    def __init__(self, process: subprocess.Popen[str], tally: Tally) -> None:
        self._process = process
        self._tally = tally

    def do(self, order: Order) -> syscalls.Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._process.stdin.flush()
        outcome = syscalls.Outcome(*json.loads(self._process.stdout.readline()))
        assert outcome.ended != "defect", order
        self._tally.count(order, outcome)
        return outcome


@pytest.fixture(scope="module")
def writer(tally: Tally) -> Iterator[Writer]:
    command = [sys.executable, "-m", "tests.unit.catalog_core.traced_writer"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Writer(process, tally)
        assert process.stdin is not None
        process.stdin.close()


Content = tuple[object, ...] | str


def content(root: Path, kind: str, act: str = "") -> Content:
    """What a reader finds."""
    try:
        match kind:
            case "models":
                return FsModelCatalog(root).list()
            case "engines" if act == "convert":
                return tuple(older_engines(root).read().values())
            case "engines":
                return FsEngineCatalog(root).list()
            case _:
                return tuple(read_lines(root / FILE, Provenance))
    except CorruptIndexError:
        return "damaged"


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def nothing_is_left(root: Path, writer: Writer, kind: str) -> None:
    """The lock is free, the next change works and no temporary file stays."""
    if kind != "provenance" and (root / f"{kind}.json.lock").exists():
        with locked(root / f"{kind}.json.lock", wait_s=0):
            pass
    if kind == "engines" and list(root.glob("engines.json.schema-*")):
        older_engines(root).recover()
        assert older_engines(root).recover() is None
    else:
        assert writer.do(Order(root=str(root), kind=kind, act="put", name="next", number=99)).ended == "done"
        assert any(getattr(each, "id", "") == "next" for each in content(root, kind))
    assert not [name for name in names(root) if name.endswith(".tmp")]


def at(order: Order, fault: str, point: int) -> Order:
    """The same, but the writer dies or the disk is full at this call."""
    return msgspec.structs.replace(order, **{fault: point})


def had_ended(outcome: syscalls.Outcome, fault: str, point: int) -> bool:
    """It ended before this call, so all were tried: another run may have asked for memory more often, or less."""
    return point > (outcome.calls if fault == "kill_at" else outcome.writes)


CASES = {
    "put-first": ("models", "put", None),
    "put-more": ("models", "put", "filled"),
    "set-state": ("models", "set_state", "filled"),
    "delete": ("models", "delete", "filled"),
    "recover": ("models", "recover", "damaged"),
    "convert": ("models", "convert", "older"),
    "after-a-killed-writer": ("models", "put", "leftover"),
    "engine-put": ("engines", "put", "filled"),
    "engine-delete": ("engines", "delete", "filled"),
    "engine-recover": ("engines", "recover", "damaged"),
    "engine-convert": ("engines", "convert", "filled"),
    "provenance-first": ("provenance", "put", None),
    "provenance-more": ("provenance", "put", "filled"),
    "provenance-torn": ("provenance", "put", "torn"),
}


def prepare(root: Path, kind: str, state: str | None) -> None:
    root.mkdir(parents=True)
    index = root / f"{kind}.json"
    if state in {"filled", "leftover", "torn"}:
        FsModelCatalog(root).put(model("a", 1), now_ms=1)
        FsEngineCatalog(root).put(engine("a", 1), now_ms=1)
        (root / FILE).write_bytes(msgspec.json.encode(line("a", 1)) + b"\n" + (b'{"at' if state == "torn" else b""))
    if state == "damaged":
        index.write_bytes(DAMAGED)
    if state == "older":
        index.write_text(json.dumps(OLD))
    if state == "leftover":
        (root / ".models.json.abc123.tmp").write_bytes(b"half of an ind")


@pytest.mark.req("CAT-01", "CAT-02", "CAT-04", "MP-02")
@pytest.mark.parametrize("fault", ["kill_at", "full_at"])
@pytest.mark.parametrize("case", CASES)
def test_at_every_system_call_a_change_is_made_or_not(tmp_path: Path, writer: Writer, case: str, fault: str) -> None:
    kind, act, state = CASES[case]
    template = tmp_path / "template"
    prepare(template, kind, state)
    before = content(template, kind, act)

    def order(root: Path) -> Order:
        return Order(root=str(root), kind=kind, act=act, name="a", number=7)

    whole = tmp_path / "whole"
    shutil.copytree(template, whole)
    assert writer.do(order(whole)).ended == "done"
    after = content(whole, kind, act)
    assert after != before or act == "convert"
    seen = set()
    for point in count(1):
        root = tmp_path / str(point)
        shutil.copytree(template, root)
        outcome = writer.do(at(order(root), fault, point))
        ended, found = outcome.ended, content(root, kind, act)
        if had_ended(outcome, fault, point):
            assert (ended, found) == ("done", after), point
            break
        assert ended == "killed" if fault == "kill_at" else ended in {"raised", "done"}, point
        assert found in (before, after), point
        assert (ended == "done") <= (found == after), "what reported success has happened"
        seen.add(found == after)
        if state == "damaged":
            kept = [path.read_bytes() for path in root.glob(f"{kind}.json.corrupt-*")]
            assert kept == [DAMAGED] or (found == "damaged" and kept == []), point
        if state == "older" and json.loads((root / "models.json").read_bytes())["schema"] == 2:
            assert json.loads((root / "models.json.schema-1").read_bytes()) == OLD, point
        nothing_is_left(root, writer, kind)
        shutil.rmtree(root)
    assert seen == {False, True} or fault == "full_at" or act == "convert", "it was killed before and after the change"


@pytest.mark.req("MP-06", "CAT-04")
@pytest.mark.parametrize("fault", ["kill_at", "full_at"])
def test_an_eviction_that_dies_leaves_no_entry_without_its_files_and_no_file_for_good(
    tmp_path: Path, writer: Writer, fault: str
) -> None:
    template = tmp_path / "template"
    for name, size in (("a", 40), ("b", 40), ("c", 10)):
        for part in ("1", "2"):
            path = template / f"cache/hf/{name}/{name}-0000{part}-of-00002.gguf"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * (size // 2))

    def fill(root: Path) -> None:
        for name in "abc":
            path = str(root / f"cache/hf/{name}/{name}-00001-of-00002.gguf")
            entry = msgspec.structs.replace(model(name, 1), local_path=path, fetched=True)
            FsModelCatalog(root / "catalog").put(entry, now_ms=ord(name))

    def order(root: Path) -> Order:
        return Order(root=str(root), kind="cache", act="make_room", number=80)

    def files(root: Path) -> set[str]:
        return {path.name for path in (root / "cache/hf").rglob("*.gguf")}

    whole = tmp_path / "whole"
    shutil.copytree(template, whole)
    fill(whole)
    assert writer.do(order(whole)).ended == "done"
    assert files(whole) == {"c-00001-of-00002.gguf", "c-00002-of-00002.gguf"}
    for point in count(1):
        root = tmp_path / str(point)
        shutil.copytree(template, root)
        fill(root)
        outcome = writer.do(at(order(root), fault, point))
        if had_ended(outcome, fault, point):
            assert (outcome.ended, files(root)) == ("done", files(whole)), point
            break
        entries = FsModelCatalog(root / "catalog").list()
        for entry in entries:
            assert files(root) >= {f"{entry.id}-0000{part}-of-00002.gguf" for part in "12"}, point
        assert {"c"} <= {entry.id for entry in entries}
        assert writer.do(order(root)).ended == "done"
        assert files(root) == files(whole), point
        shutil.rmtree(root)


ACTS = {
    "models": {"put", "set_state", "delete", "recover", "damage"},
    "engines": {"put", "delete", "recover", "damage"},
    "provenance": {"put"},
}
STEP = st.tuples(
    st.sampled_from(["put", "put", "set_state", "delete", "recover", "damage"]),
    st.sampled_from("abc"),
    st.integers(0, 9),
    st.sampled_from(["kill_at", "kill_at", "full_at", None]),
    st.floats(0, 1, exclude_max=True),
)


@pytest.mark.req("CAT-01", "CAT-02", "CAT-04")
@pytest.mark.parametrize("kind", ["models", "engines", "provenance"])
@settings(suppress_health_check=list(HealthCheck), max_examples=40, deadline=None)
@given(steps=st.lists(STEP, min_size=1, max_size=6))
def test_whatever_is_done_and_wherever_it_dies_the_index_is_the_one_before_or_after(
    writer: Writer, kind: str, steps: list[tuple[str, str, int, str | None, float]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "catalog"
        root.mkdir()
        for act, name, number, fault, where in steps:
            possible = act if act in ACTS[kind] else "put"
            if possible == "damage":
                (root / f"{kind}.json").write_bytes(DAMAGED)
                continue
            order = Order(root=str(root), kind=kind, act=possible, name=name, number=number)
            before = content(root, kind)
            whole = Path(folder) / "whole"
            shutil.copytree(root, whole)
            counted = writer.do(msgspec.structs.replace(order, root=str(whole)))
            after = content(whole, kind)
            shutil.rmtree(whole)
            between = before
            if before == "damaged":  # it is rebuilt, and then changed
                shutil.copytree(root, whole)
                writer.do(Order(root=str(whole), kind=kind, act="recover"))
                between = content(whole, kind)
                shutil.rmtree(whole)
            if fault is not None and (calls := counted.calls if fault == "kill_at" else counted.writes):
                order = at(order, fault, 1 + int(where * calls))
            writer.do(order)
            found = content(root, kind)
            assert found in (before, between, after)
            if fault is None:
                assert found == after
        nothing_is_left(root, writer, kind)


def test_the_check_sees_a_writer_that_is_not_atomic(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text(json.dumps(OLD))
    before = FsModelCatalog(tmp_path).list()
    code = f"from tests.support import syscalls; from pathlib import Path; p = Path({str(path)!r})\n"
    code += "print(*(syscalls.run(lambda: p.write_bytes(b'{}' * 9), OSError, kill_at=n).ended for n in range(1, 9)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("killed ")
    with pytest.raises(CatalogError):
        assert FsModelCatalog(tmp_path).list() == before
