"""Archives as releases have them, and archives with every trick."""

from __future__ import annotations

import gzip
import io
import lzma
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from engine_provisioner.archive import ArchiveError, Kind, Limits, Stopped, kind_of, unpack

COMPRESS: dict[Kind, Callable[[bytes], bytes]] = {
    Kind.TAR: bytes,
    Kind.GZIP: gzip.compress,
    Kind.XZ: lzma.compress,
}
FORMATS = [*COMPRESS, Kind.ZIP]
LINK, HARD = "link", "hard"


class Entry(NamedTuple):
    name: str
    content: bytes = b""
    mode: int = 0o644
    link: str | None = None
    type: bytes = tarfile.REGTYPE


def tar(*entries: Entry, compress: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.size = entry.type, entry.mode, len(entry.content)
            if entry.link is not None:
                info.type = entry.type if entry.type == tarfile.LNKTYPE else tarfile.SYMTYPE
                info.linkname = entry.link
            archive.addfile(info, io.BytesIO(entry.content))
    return compress(buffer.getvalue())


def zipped(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            info = zipfile.ZipInfo(entry.name)
            kind = stat.S_IFLNK if entry.link is not None else stat.S_IFREG
            info.external_attr = (entry.mode | (0 if entry.mode > 0o7777 else kind)) << 16
            archive.writestr(info, entry.link if entry.link is not None else entry.content)
    return buffer.getvalue()


def archive(kind: Kind, *entries: Entry) -> bytes:
    return zipped(*entries) if kind is Kind.ZIP else tar(*entries, compress=COMPRESS[kind])


RELEASE = (
    Entry("llama-b1/libllama.so", link="libllama.so.0"),
    Entry("llama-b1/libllama.so.0", link="libllama.so.0.1"),
    Entry("./llama-b1/bin/llama-server", b"\x7fELF server", 0o6755),
    Entry("llama-b1/libllama.so.0.1", b"\x7fELF library"),
    Entry("llama-b1/bin/lib", link="../libllama.so.0.1"),
)


def opened(
    tmp_path: Path, data: bytes, *, limits: Limits | None = None, stop: Callable[[], bool] = lambda: False
) -> Path:
    path, into = tmp_path / "archive", tmp_path / "into" / "tree"
    tmp_path.mkdir(exist_ok=True)
    path.write_bytes(data)
    into.mkdir(parents=True)
    kind = kind_of(path)
    assert kind is not None
    unpack(path, kind, into, limits=limits, stop=stop)
    return into


def refusal(tmp_path: Path, data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(ArchiveError) as caught:
        opened(tmp_path, data, limits=limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "into"]
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["tree"]  # nothing was written beside it
    text = str(caught.value)
    assert text.isprintable()
    return text


@pytest.mark.req("EP-18")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_release_is_unpacked_with_its_links_and_without_its_modes(kind: Kind, tmp_path: Path) -> None:
    tree = opened(tmp_path, archive(kind, *RELEASE))
    assert kind_of(tmp_path / "archive") is kind
    server = tree / "llama-b1" / "bin" / "llama-server"
    assert server.read_bytes() == b"\x7fELF server"
    assert stat.S_IMODE(server.stat().st_mode) == 0o755
    library = tree / "llama-b1" / "libllama.so"
    assert library.read_bytes() == (tree / "llama-b1" / "bin" / "lib").read_bytes() == b"\x7fELF library"
    assert str(library.readlink()) == "libllama.so.0.1"
    assert stat.S_IMODE(library.stat().st_mode) == 0o644


def test_a_hard_link_reaches_its_file_from_the_root(tmp_path: Path) -> None:
    entries = (Entry("a/x", b"1"), Entry("b/y", link="a/x", type=tarfile.LNKTYPE))
    assert (opened(tmp_path, tar(*entries)) / "b" / "y").read_bytes() == b"1"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ((Entry("/etc/x"),), "an absolute path"),
        ((Entry("../x"),), "leads out of it"),
        ((Entry("a/../../x"),), "leads out of it"),
        ((Entry("a/../x"),), "leads out of it"),
        ((Entry("a\\..\\x"),), "a backslash or a control character"),
        ((Entry("a\nb"),), "a backslash or a control character"),
        ((Entry("x", b"1"), Entry("./x", b"2")), "is in it twice"),
        ((Entry("x", b"1"), Entry("x/y", b"2")), "both a file and a directory"),
        ((Entry("x/y", b"1"), Entry("x", b"2")), "both a file and a directory"),
        ((Entry("x", link="/etc/passwd"),), "'x' links to '/etc/passwd', an absolute path"),
        ((Entry("a/x", link="../../y"),), "'a/x' links to 'a/../../y', which leads out of it"),
        ((Entry("x", link="."),), "no file of this archive"),
        ((Entry("x", link="nowhere"),), "no file of this archive"),
        ((Entry("x", link="y"), Entry("y", link="x")), "no file of this archive"),
        ((Entry("a/f"), Entry("x", link="a")), "no file of this archive"),
        ((Entry("x", link=".."), Entry("x/evil", b"1")), "leads out of it"),
        ((Entry("a/f"), Entry("x", link="a/f"), Entry("x/evil", b"1")), "is in it twice"),
        ((Entry("a/f"), Entry("x", link="a/f"), Entry("./x", b"1")), "is in it twice"),
    ],
)
def test_a_trick_refuses_the_whole_archive(kind: Kind, entries: tuple[Entry, ...], words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, archive(kind, *entries))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_a_device_in_a_tar_is_refused(kind: bytes, tmp_path: Path) -> None:
    assert "neither a file, a directory nor a link" in refusal(tmp_path, tar(Entry("x", type=kind)))


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_device_in_a_zip_is_refused(kind: int, tmp_path: Path) -> None:
    assert "neither a file, a directory nor a link" in refusal(tmp_path, zipped(Entry("x", mode=kind | 0o644)))


@pytest.mark.parametrize("kind", FORMATS)
def test_more_than_its_bytes_and_its_entries_is_refused(kind: Kind, tmp_path: Path) -> None:
    bomb = archive(kind, Entry("a", bytes(600_000)), Entry("b", bytes(600_000)))
    assert refusal(tmp_path / "1", bomb, Limits(total_bytes=1_000_000)) == "it holds more than 1000000 bytes"
    assert not (tmp_path / "1" / "into" / "tree" / "b").exists()
    many = archive(kind, *(Entry(str(number)) for number in range(5)))
    assert refusal(tmp_path / "2", many, Limits(entries=4)) == "it holds more than 4 entries"


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(Entry("x", bytes(1000))))
    at = data.rfind((1000).to_bytes(4, "little"))  # in the directory at its end
    data[at : at + 4] = (10).to_bytes(4, "little")
    assert refusal(tmp_path, bytes(data)) == "it is damaged, or no zip archive (BadZipFile)"


def test_no_number_in_a_header_decides_how_much_memory_is_used(tmp_path: Path) -> None:
    header = tarfile.TarInfo("long name")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    data = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert refusal(tmp_path, data) == "it holds a header of more than 1048576 bytes"


def test_headers_without_end_are_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 512
    block = header.tobuf(tarfile.USTAR_FORMAT) + b"9 a=b\n\n\n\n".ljust(512, b"\0")
    assert "it is damaged" in refusal(tmp_path, gzip.compress(block * 5000))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_archive_is_refused_wherever_it_is_damaged(kind: Kind, tmp_path: Path) -> None:
    whole = archive(kind, *RELEASE)
    dice = random.Random(11)
    for turn in range(40):
        folder = tmp_path / f"turn{turn}"
        folder.mkdir()
        data = bytearray(whole[: dice.randrange(512, len(whole))] if turn % 2 and len(whole) > 512 else whole)
        for _ in range(3):
            data[dice.randrange(6, len(data))] = dice.randrange(256)
        (folder / "archive").write_bytes(data)
        (folder / "tree").mkdir()
        with suppress(ArchiveError):
            unpack(folder / "archive", kind, folder / "tree")
        assert {path.name for path in folder.iterdir()} == {"archive", "tree"}


def test_what_is_compressed_and_no_tar_is_refused(tmp_path: Path) -> None:
    assert "no tar.gz archive" in refusal(tmp_path, gzip.compress(b"\x7fELF server"))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(Entry("x", b"1")))
    data[data.find(b"PK\x01\x02") + 8] |= 1
    assert refusal(tmp_path, bytes(data)) == "'x' is encrypted"


def test_a_format_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"\x28\xb5\x2f\xfd") == "a tar.zst cannot be opened here: use tar.gz, tar.xz, tar or zip"


def test_it_stops_when_it_is_told_to(tmp_path: Path) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Stopped):
        opened(tmp_path, tar(Entry("x", bytes(8 << 20))), stop=stop)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("head", "kind"), [(b"\x7fELF", Kind.PROGRAM), (b"#!/bin/sh", Kind.PROGRAM), (b"<html>", None), (b"", None)]
)
def test_what_a_file_is_its_first_bytes_say(head: bytes, kind: Kind | None, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(head)
    assert kind_of(tmp_path / "file") is kind
