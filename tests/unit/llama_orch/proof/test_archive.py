import gzip
import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_orch.proof import archive
from llama_orch.proof.archive import ArchiveError, pack, unpack

pytestmark = pytest.mark.req("OP-03")

FILES = {"b.json": b"{}", "a.txt": b"text\n", "empty": b""}
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)


def opened(data: bytes) -> dict[str, bytes]:
    return unpack(io.BytesIO(data))


def packed(make: Callable[[tarfile.TarFile], None], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive as somebody else would make it."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=kind) as tar:
        make(tar)
    return gzip.compress(plain.getvalue())


def entry(name: str, data: bytes = b"x", **more: object) -> Callable[[tarfile.TarFile], None]:
    def make(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in more.items():
            setattr(info, field, value)
        tar.addfile(info, io.BytesIO(data))

    return make


@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=10))
def test_what_was_packed_comes_out_and_the_same_files_make_the_same_bytes(files: dict[str, bytes]) -> None:
    data = pack(files)
    assert opened(data) == files
    assert pack(dict(reversed(files.items()))) == data


def test_an_archive_is_of_nobody_and_of_no_time() -> None:
    data = pack(FILES)
    assert data[3:9] == bytes(5) + b"\x02"  # no name, no time, the slowest compression
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        seen = tar.getmembers()
    assert [each.name for each in seen] == ["proof/a.txt", "proof/b.json", "proof/empty"]
    assert {(each.mode, each.mtime, each.uid, each.gid, each.uname, each.gname) for each in seen} == {
        (0o600, 0, 0, 0, "", "")
    }


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../evil", "proof/../evil", "proof/a/b", "proof/", "proof", "evil", "proof/.hidden", "proof/a\nb"],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError, match=r"is no name of a file in proof/|is no plain file"):
        opened(packed(entry(name)))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_only_plain_files_are_taken(kind: bytes) -> None:
    with pytest.raises(ArchiveError, match="'proof/a' is no plain file"):
        opened(packed(entry("proof/a", b"", type=kind, linkname="/etc/passwd")))


def test_a_file_that_is_there_twice_is_refused() -> None:
    def twice(tar: tarfile.TarFile) -> None:
        entry("proof/a")(tar)
        entry("proof/a", b"another")(tar)

    with pytest.raises(ArchiveError, match="twice"):
        opened(packed(twice))


def test_too_many_files_are_refused() -> None:
    with pytest.raises(ArchiveError, match="more than 64 files"):
        opened(pack({f"f{number}": b"" for number in range(65)}))


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    bomb = pack({"bomb": bytes(2 << 20)})
    assert len(bomb) < 1 << 14
    with pytest.raises(ArchiveError, match="unpacks to more than 1 MiB"):
        opened(bomb)


def test_a_header_that_is_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    long = packed(entry("proof/a", pax_headers={"comment": "x" * (2 << 20)}), tarfile.PAX_FORMAT)
    with pytest.raises(ArchiveError, match="unpacks to more than 1 MiB"):
        opened(long)


def test_a_file_that_claims_to_be_longer_than_it_is_is_refused() -> None:
    plain = bytearray(gzip.decompress(pack({"a": b"x" * 600})))
    with pytest.raises(ArchiveError, match="no whole"):
        opened(gzip.compress(bytes(plain[:700])))


@pytest.mark.parametrize(
    "data", [b"", b"no archive", gzip.compress(b""), gzip.compress(b"no tar" * 200), pack(FILES)[:-20]]
)
def test_what_is_no_archive_or_not_whole_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="no whole"):
        opened(data)


def test_what_stands_behind_the_end_is_refused() -> None:
    behind = gzip.compress(gzip.decompress(pack(FILES)) + bytes(20_480) + b"more")
    with pytest.raises(ArchiveError, match="behind its end"):
        opened(behind)
    with pytest.raises(ArchiveError, match="no whole"):
        opened(pack(FILES) + b"more")


@given(st.binary(max_size=300), st.integers(0, 200))
def test_any_damage_is_an_error_of_ours_or_none(noise: bytes, at: int) -> None:
    data = pack(FILES)
    damaged = data[:at] + noise + data[at + len(noise) :]
    try:
        opened(damaged)
    except ArchiveError:
        return
