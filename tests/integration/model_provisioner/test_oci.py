"""``oci://`` against a real registry."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from contracts.config import Outbound
from contracts.pools import Cause
from daemon_core.outbound import ruling_on
from model_provisioner.errors import ModelError
from model_provisioner.reference import OciRef
from model_provisioner.sources.oci import OciSource
from tests.support.oci_registry import (
    PASSWORD,
    USER,
    Layer,
    OciRegistry,
    digest_of,
    registry,
    registry_with_password,
    registry_with_tokens,
)

pytestmark = [pytest.mark.needs("docker-registry"), pytest.mark.req("MP-04")]


@pytest.fixture
async def open_registry(tmp_path: Path) -> AsyncIterator[OciRegistry]:
    async with registry(tmp_path / "registry") as opened:
        yield opened


def source(home: Path, require: Callable[[str], None] = lambda _: None) -> OciSource:
    return OciSource(require, environ={"HOME": str(home)})


def log_in(home: Path, address: str, password: str = PASSWORD) -> None:
    import base64

    folder = home / ".docker"
    folder.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))


async def test_a_file_by_its_title(open_registry: OciRegistry, tmp_path: Path) -> None:
    digest = open_registry.push("org/haiku", "v1", [Layer(b"GGUF....", "haiku.gguf")])
    located = await source(tmp_path).locate(OciRef(registry=open_registry.address, repository="org/haiku", tag_name="v1"))
    assert located.entry == "haiku.gguf"
    (file,) = located.files
    assert (file.name, file.size_bytes, file.sha256) == ("haiku.gguf", 8, digest_of(b"GGUF....")[7:])
    assert located.revision == digest[7:]


async def test_password(tmp_path: Path) -> None:
    async with registry_with_password(tmp_path / "r") as opened:
        opened.push("haiku", "v1", [Layer(b"GGUF....", "haiku.gguf")])
        ref = OciRef(registry=opened.address, repository="haiku", tag_name="v1")
        with pytest.raises(ModelError) as caught:
            await source(tmp_path).locate(ref)
        print(caught.value.render())
        log_in(tmp_path, opened.address)
        located = await source(tmp_path).locate(ref)
        print(located.files[0].headers)
        log_in(tmp_path, opened.address, "wrong")
        with pytest.raises(ModelError) as caught:
            await source(tmp_path).locate(ref)
        print(caught.value.render())


async def test_tokens(tmp_path: Path) -> None:
    async with registry_with_tokens(tmp_path / "r") as (opened, tokens):
        opened.headers["Authorization"] = f"Bearer {tokens.token('haiku', ['push', 'pull'])}"
        opened.push("haiku", "v1", [Layer(b"GGUF....", "haiku.gguf")])
        ref = OciRef(registry=opened.address, repository="haiku", tag_name="v1")
        with pytest.raises(ModelError) as caught:
            await source(tmp_path).locate(ref)
        print(caught.value.render())
        tokens.public.add("haiku")
        located = await source(tmp_path).locate(ref)
        print(located.files[0].headers)
        log_in(tmp_path, opened.address, "wrong")
        with pytest.raises(ModelError) as caught:
            await source(tmp_path).locate(ref)
        print(caught.value.render())
        log_in(tmp_path, opened.address)
        located = await source(tmp_path).locate(ref)
        print(tokens.asked)
