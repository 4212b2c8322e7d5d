from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from contracts.artifacts import Artifact, ArtifactKind, canonical
from contracts.examples.receipts import RECEIPT
from daemon_core.errors import StartupError
from llama_orch.errors import ApiError
from llama_orch.replay.finding import receipt_in
from tests.unit.llama_orch.proof.sample import id_of, line

pytestmark = pytest.mark.req("HP-21")

OTHER = replace(RECEIPT, number=2, previous=id_of(RECEIPT), task_id="poem-2", job_id="job-2")


def printed() -> bytes:
    content = canonical(RECEIPT)
    artifact = Artifact(
        id=id_of(RECEIPT), kind=ArtifactKind.TRACE, created_ms=0, size_bytes=1, content=msgspec.Raw(content)
    )
    return msgspec.json.format(msgspec.json.encode(artifact), indent=2) + b"\n"


@pytest.mark.parametrize(
    "data", [line(RECEIPT), printed(), canonical(RECEIPT), canonical(RECEIPT) + b"\n"], ids=range(4)
)
def test_a_receipt_is_read_in_each_form_in_which_one_is_handed_on(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r").write_bytes(data)
    found = receipt_in(tmp_path / "r", None)
    assert (found.id, bytes(found.content)) == (id_of(RECEIPT), canonical(RECEIPT))


@pytest.mark.parametrize("name", ["poem-2", "job-2", "2", id_of(OTHER), id_of(OTHER).removeprefix("sha256:")])
def test_among_several_one_is_chosen_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "r").write_bytes(line(RECEIPT) + b"\nno receipt\n" + line(OTHER))
    assert receipt_in(tmp_path / "r", name).id == id_of(OTHER)


def test_several_without_a_name_none_of_that_name_and_none_at_all_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r"
    file.write_bytes(line(RECEIPT) + line(OTHER))
    with pytest.raises(StartupError, match="there are 2 receipts"):
        receipt_in(file, None)
    with pytest.raises(StartupError, match="there is no receipt of 'poem-9'"):
        receipt_in(file, "poem-9")
    for data in (b"", b"{}", b"[]", b"no receipt\n"):
        file.write_bytes(data)
        with pytest.raises(StartupError, match="there is no receipt in"):
            receipt_in(file, None)


def test_one_that_was_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(line(RECEIPT).replace(b"My mind", b"My mint"))
    with pytest.raises(ApiError, match="it was changed"):
        receipt_in(tmp_path / "r", None)
