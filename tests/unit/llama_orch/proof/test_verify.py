from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from contracts.examples.receipts import RECEIPT
from llama_orch.proof import manifest as names
from llama_orch.proof.manifest import Missing
from llama_orch.proof.verify import Fault, verify
from tests.unit.llama_orch.proof.sample import contents, id_of, line, sealed, stream_of

pytestmark = pytest.mark.req("OP-03")

FILES = sealed(contents())


def faults(files: dict[str, bytes], expected: str | None = None) -> list[tuple[str, str]]:
    return [(each.name, each.message) for each in verify(files, expected).faults]


def test_a_whole_proof_has_no_fault() -> None:
    seen = verify(FILES)
    assert (seen.faults, seen.missing, seen.files) == ((), (), len(names.NAMES))
    assert (seen.task_id, seen.receipt_id) == (RECEIPT.task_id, id_of(RECEIPT))
    assert seen.manifest_id == names.id_of(FILES[names.MANIFEST])


# --- what anybody might change ----------------------------------------------------------------------------------------


@given(st.sampled_from(names.NAMES), st.data())
def test_a_byte_that_was_changed_added_or_taken_is_told_by_the_name_of_its_file(name: str, data: st.DataObject) -> None:
    content = FILES[name]
    at = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    changed = data.draw(
        st.sampled_from(
            [content[:at] + bytes([other]) + content[at + 1 :], content[:at] + content[at + 1 :], content + b"\n"]
        )
    )
    found = verify({**FILES, name: changed}).faults
    assert any(each.name == name and "it was changed" in each.message for each in found)


@pytest.mark.parametrize("name", names.NAMES)
def test_a_file_that_was_taken_out_is_named(name: str) -> None:
    files = {each: data for each, data in FILES.items() if each != name}
    assert faults(files) == [(name, "it is missing")]


def test_a_file_that_was_put_in_is_named() -> None:
    assert faults({**FILES, "more.txt": b""}) == [("more.txt", "it is extra: the manifest does not know it")]


@given(st.binary(max_size=200))
def test_any_bytes_may_stand_for_any_file(data: bytes) -> None:
    for name in FILES:
        if data != FILES[name]:
            assert verify({**FILES, name: data}).faults


def test_without_a_manifest_nothing_is_known() -> None:
    files = {name: data for name, data in FILES.items() if name != names.MANIFEST}
    (fault,) = verify(files).faults
    assert fault.name == names.MANIFEST
    assert fault.message.startswith("it is missing")
    (fault,) = verify({**FILES, names.MANIFEST: b"[]"}).faults
    assert fault.message.startswith("it cannot be read")


def test_a_manifest_has_one_form_and_one_version() -> None:
    spaced = FILES[names.MANIFEST].replace(b":", b": ", 1)
    assert faults({**FILES, names.MANIFEST: spaced}) == [(names.MANIFEST, "its JSON is not written as a manifest's is")]
    newer = FILES[names.MANIFEST].replace(b'"version":1', b'"version":2')
    assert faults({**FILES, names.MANIFEST: newer}) == [
        (names.MANIFEST, "it is of version 2, and this program knows 1")
    ]


def test_an_id_that_was_kept_elsewhere_shows_a_proof_that_was_made_anew() -> None:
    manifest_id = names.id_of(FILES[names.MANIFEST])
    for kept in (id_of(RECEIPT), manifest_id):
        assert faults(FILES, kept) == []
    anew = sealed({**contents(), names.LOG: b"another\n"})
    assert faults(anew) == []
    assert faults(anew, manifest_id) == [(names.MANIFEST, f"neither it nor the receipt has the id {manifest_id}")]


# --- what a forger with the manifest in hand would have to make agree -------------------------------------------------


def forged(name: str, data: bytes) -> dict[str, bytes]:
    """One file is another, and the manifest says so."""
    return sealed({**contents(), name: data})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (names.RECEIPT, FILES[names.RECEIPT].replace(b"My mind", b"My mint"), "its bytes have the id sha256:"),
        (names.REQUEST, b"{}", "it is not the request of the receipt"),
        (names.TRANSCRIPT, b"My mint is", "it is not the transcript of the receipt"),
        (names.STREAM, stream_of("My", " mint", " is"), "its text does not have the stream_sha256"),
        (names.STREAM, stream_of("My mind", " is"), "its tokens are not the 3 of the receipt"),
        (names.STREAM, b"event: token\ndata: {\n\n", "it is no stream"),
        (names.TASK, b'{"task_id":"poem-9"}', "it is of another task: poem-9"),
        (names.TASK, b"[]", "it is no task's status"),
        (names.CHAIN, line(replace(RECEIPT, task_id="poem-9")), "is not in this chain"),
        (names.CHAIN, FILES[names.CHAIN].replace(b"poem-2", b"poem-3"), "its bytes have the id"),
        (names.CHAIN, b"", "is not in this chain"),
    ],
)
def test_what_does_not_agree_with_the_receipt_is_named(name: str, data: bytes, message: str) -> None:
    assert data != FILES[name]
    found = faults(forged(name, data))
    assert len(found) == 1
    assert found[0][0] == name
    assert message in found[0][1]


def test_a_manifest_of_another_task_and_one_that_keeps_silent_are_told() -> None:
    other = sealed(contents(), job_id="job-9")
    assert faults(other) == [(names.MANIFEST, f"it names another task than the receipt: {RECEIPT.task_id}")]
    less = {name: data for name, data in contents().items() if name != names.PLAN}
    assert faults(sealed(less)) == [(names.PLAN, "the manifest says neither what it is nor why not")]
    assert faults(sealed(less, missing=(Missing(name=names.PLAN, why="far away"),))) == []


def test_without_a_receipt_nothing_holds_the_others() -> None:
    less = {name: data for name, data in contents().items() if name != names.RECEIPT}
    found = faults(sealed(less, missing=(Missing(name=names.RECEIPT, why="why not"),)))
    assert found == [(names.RECEIPT, "the manifest does not list it, and nothing holds the others without it")]


@pytest.mark.parametrize("data", [b"[]", b"{}", b"\xff"])
def test_a_receipt_that_is_none_is_told(data: bytes) -> None:
    files = {**contents(), names.RECEIPT: data}
    manifest = msgspec.json.decode(sealed(files)[names.MANIFEST])
    manifest["receipt_id"] = names.id_of(data)
    found = verify({**files, names.MANIFEST: msgspec.json.encode(manifest, order="sorted")}).faults
    assert [each.name for each in found] == [names.RECEIPT]


# --- what is another one by right -------------------------------------------------------------------------------------

MASKED = replace(RECEIPT, transcript="My *** is", redacted=True)


def variant(receipt: Any, leave_out: tuple[str, ...] = ()) -> dict[str, bytes]:  # noqa: ANN401 - a receipt
    files = {name: data for name, data in contents(receipt).items() if name not in leave_out}
    return sealed(files, receipt, tuple(Missing(name=name, why="not kept") for name in leave_out))


def test_a_transcript_without_its_secrets_need_not_have_the_hash_of_the_stream() -> None:
    assert faults(variant(MASKED)) == []


def test_a_transcript_that_was_too_long_is_left_out() -> None:
    assert faults(variant(replace(RECEIPT, transcript=None, cut=True), (names.TRANSCRIPT,))) == []


def test_an_empty_answer_is_one_too() -> None:
    empty = replace(RECEIPT, transcript="", pieces=0, stream_sha256=names.id_of(b"").removeprefix("sha256:"))
    files = contents(empty) | {names.STREAM: stream_of()}
    assert faults(sealed(files, empty)) == []


def test_a_file_is_told_by_what_changed_and_by_what_it_disagrees_with() -> None:
    assert verify({**FILES, names.STREAM: b""}).faults == (
        Fault(
            name=names.STREAM,
            message=f"it was changed: its sha256 is not {names.id_of(FILES[names.STREAM]).removeprefix('sha256:')}",
        ),
        Fault(
            name=names.STREAM,
            message=f"its text does not have the stream_sha256 of the receipt, {RECEIPT.stream_sha256}",
        ),
    )
