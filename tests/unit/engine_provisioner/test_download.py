"""What is refused before anything is fetched, and what is made of what was fetched; no network anywhere."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from contracts.config import Binary, Mode, Outbound, Policy, Pool, Profile, Provisioning
from contracts.engines import PreparedEngine
from contracts.pools import Cause
from engine_provisioner.errors import ProvisionError
from engine_provisioner.registry import provider_for
from tests.unit.engine_provisioner.conftest import MakeHost, MakeServer, a_pool

ALLOWED = Policy(allow_binary_downloads=True)


def download_pool(url: str, digest: str | None) -> Pool:
    return a_pool(provisioning=Provisioning(mode=Mode.BINARY, binary=Binary(url=url, sha256=digest)))


def pool_of(file: Path) -> Pool:
    return download_pool(file.as_uri(), sha256(file.read_bytes()).hexdigest())


async def prepare(pool: Pool, make_host: MakeHost, said: list[str] | None = None) -> PreparedEngine:
    lines = [] if said is None else said
    return await provider_for(pool, Profile.HOME, make_host(policy=ALLOWED)).ensure(pool, lines.append)


async def refusal(pool: Pool, make_host: MakeHost, policy: Policy = ALLOWED) -> ProvisionError:
    """Also sees that the preflight finds the same, where it can know it."""
    provider = provider_for(pool, Profile.HOME, make_host(policy=policy))
    with pytest.raises(ProvisionError) as caught:
        await provider.ensure(pool, lambda _: None)
    if caught.value.findings:
        assert await provider.preflight(pool) == caught.value.findings
    return caught.value


@pytest.fixture
def server(make_server: MakeServer) -> bytes:
    """A program that answers as llama-server does."""
    return make_server("elsewhere/llama-server").read_bytes()


def tar_of(path: Path, **files: bytes) -> Path:
    """A tar.gz; ``__`` in a name is a slash, ``_`` a hyphen."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("_", "-"))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("EP-18")
async def test_everything_that_is_in_the_way_is_found_at_once(make_host: MakeHost, tmp_path: Path) -> None:
    policy = Policy(outbound=Outbound(deny=("*.org",)))
    error = await refusal(download_pool("https://a.org/x?key=sesame", None), make_host, policy)
    assert error.cause is Cause.POLICY_DENIED
    assert [(finding.message, finding.hint.partition(",")[0]) for finding in error.findings] == [
        ("policy does not allow to download https://a.org/x", "set policy.allow_binary_downloads: true"),
        ("https://a.org/x is not downloaded without its digest", "set provisioning.binary.sha256: sha256sum prints it"),
        ("a.org may not be reached: policy.outbound.deny: *.org", "take '*.org' out of policy.outbound.deny"),
    ]
    assert "sesame" not in error.render()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://a.org/x", "ftp://a.org/x is no address that can be fetched"),
        ("/srv/llama-server", "/srv/llama-server is no address that can be fetched"),
        ("http://[", "(no valid url) is no address that can be fetched"),
        ("http://", "http:// names no host"),
        ("https://a b.org/x", "this address may not be reached: it is no valid address"),
        ("https://allowed.org\\@a.org/", "https://a.org/ names no host"),
        ("file://a.org/x", "file://a.org/x is no file of this machine"),
        ("file:x", "file:///x is no file of this machine"),
        ("file:///nowhere/x", "file:///nowhere/x does not exist"),
        ("file:///dev/null", "file:///dev/null is no file that can be read"),
        ("file:///%00", "file:///%00 does not exist"),
    ],
)
async def test_an_address_that_leads_to_no_file_is_refused(url: str, message: str, make_host: MakeHost) -> None:
    error = await refusal(download_pool(url, "0" * 64), make_host)
    assert error.message.startswith(message)
    assert error.findings


# --- used -------------------------------------------------------------------------------------------------------------


@pytest.mark.req("EP-18")
async def test_a_program_is_used_as_it_is(server: bytes, make_host: MakeHost, tmp_path: Path) -> None:
    file = tmp_path / "some file"
    file.write_bytes(server)
    pool = pool_of(file)
    engine = await prepare(pool, make_host)
    path = Path(engine.bin_or_entry or "")
    assert path.name == "llama-server"
    assert path.read_bytes() == server
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    file.unlink()
    assert await prepare(pool, make_host) == engine


@pytest.mark.req("EP-18")
async def test_a_zip_of_another_system_without_modes_is_used(
    server: bytes, make_host: MakeHost, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("build/bin/llama-server")
        info.create_system = 0
        archive.writestr(info, server)
    assert (await prepare(pool_of(tmp_path / "x.zip"), make_host)).engine_version == "0.5.0-dev"


@pytest.mark.req("EP-18")
async def test_an_archive_must_have_exactly_one_server(server: bytes, make_host: MakeHost, tmp_path: Path) -> None:
    none = tar_of(tmp_path / "none.tar.gz", llama__llama_cli=server)
    error = await refusal(pool_of(none), make_host)
    assert (error.cause, error.message) == (Cause.ENGINE_MISSING, f"there is no llama-server in {none.as_uri()}")
    two = tar_of(tmp_path / "two.tar.gz", cpu__llama_server=server, cuda__llama_server=server)
    error = await refusal(pool_of(two), make_host)
    assert error.message == (f"there are 2 llama-server in {two.as_uri()}: cpu/llama-server, cuda/llama-server")
    downloads = tmp_path / "cache" / "llamacpp" / "downloads"
    assert not [path for path in downloads.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>not found</html>", "is neither a program nor an archive that can be opened"),
        (b"\x1f\x8b nonsense", ": it is damaged"),
        (b"\x28\xb5\x2f\xfd", ": a tar.zst cannot be opened here"),
        (b"\x7fELF nonsense", "cannot be started: Exec format error"),
    ],
)
async def test_what_is_no_server_is_said(content: bytes, words: str, make_host: MakeHost, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert words in (await refusal(pool_of(tmp_path / "x"), make_host)).message


@pytest.mark.req("EP-18")
async def test_a_wrong_digest_is_never_unpacked(server: bytes, make_host: MakeHost, tmp_path: Path) -> None:
    file = tar_of(tmp_path / "x.tar.gz", llama_server=server)
    error = await refusal(download_pool(file.as_uri(), "b" * 64), make_host)
    assert sha256(file.read_bytes()).hexdigest() in error.message
    assert "b" * 64 in error.message
    downloads = tmp_path / "cache" / "llamacpp" / "downloads"
    assert [path.name for path in downloads.iterdir()] == [f"{'b' * 64}.lock"]


@pytest.mark.req("EP-18")
async def test_what_was_damaged_since_is_brought_anew(server: bytes, make_host: MakeHost, tmp_path: Path) -> None:
    file = tar_of(tmp_path / "x.tar.gz", llama_server=server)
    pool = pool_of(file)
    engine = await prepare(pool, make_host)
    path = Path(engine.bin_or_entry or "")
    kept = path.parent.with_suffix("")
    kept.write_bytes(b"\x7fELF damaged")
    path.write_bytes(b"damaged")
    said: list[str] = []
    assert await prepare(pool, make_host, said) == engine
    assert f"{kept} is not what was fetched: it is thrown away" in said
    assert path.read_bytes() == server
    path.unlink()
    assert await prepare(pool, make_host) == engine
    assert path.read_bytes() == server
    kept.write_bytes(b"\x7fELF damaged")
    assert (await refusal(pool, make_host, Policy())).cause is Cause.POLICY_DENIED
    assert not kept.exists()


async def test_an_archive_that_the_disk_has_no_room_for_is_not_unpacked(
    server: bytes, make_host: MakeHost, tmp_path: Path
) -> None:
    file = tar_of(tmp_path / "x.tar.gz", llama_server=server, weights=bytes(10 << 20))
    free = iter([1 << 40, (256 << 20) + 1000])  # for the copy, and then for what is in it
    pool = pool_of(file)
    host = make_host(policy=ALLOWED, free_bytes=lambda _: next(free))
    with pytest.raises(ProvisionError, match="with room for 1000 bytes: it holds more than 1000 bytes"):
        await provider_for(pool, Profile.HOME, host).ensure(pool, lambda _: None)


async def test_a_cache_that_cannot_be_written_is_said(server: bytes, make_host: MakeHost, tmp_path: Path) -> None:
    file = tar_of(tmp_path / "x.tar.gz", llama_server=server)
    (tmp_path / "cache").write_text("")
    error = await refusal(pool_of(file), make_host)
    assert error.cause is Cause.ENGINE_FETCH
    assert error.message.startswith(f"cannot keep the download in {tmp_path}/cache/llamacpp/downloads: ")
