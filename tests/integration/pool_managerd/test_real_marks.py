"""What the real llama.cpp prints when it fails, against the marks that explain it."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from pool_managerd.engine_marks import Mark, marks_in
from tests.support.real_llamacpp import SERVER
from tests.support.tiny_gguf import write_tiny_gguf
from tests.unit.model_provisioner.heads import STRING, head, key, tensor, text, write_model

pytest.importorskip("xllamacpp")


async def printed(model: Path, *flags: str, address_space: int | None = None) -> frozenset[Mark]:
    """The marks in all that a server prints that cannot start with this model."""
    argv = [sys.executable, str(SERVER), "--model", str(model), "--host", "127.0.0.1", "--port", "0", *flags]
    if address_space is not None:
        argv = ["prlimit", f"--as={address_space}", *argv]
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "LLAMA_API_KEY": "k"},
    )
    output, _ = await process.communicate()
    assert process.returncode != 0
    return frozenset(mark for line in output.decode(errors="replace").splitlines() for mark in marks_in(line))


@pytest.mark.req("PM-03")
async def test_a_model_of_an_unknown_kind(tmp_path: Path) -> None:
    path = tmp_path / "nonsuch.gguf"
    tensors = (tensor("w", [1]),)
    path.write_bytes(head(key("general.architecture", STRING, text("nonsuch")), tensors=tensors) + b"\0" * 64)
    assert await printed(path) == {Mark.BAD_MODEL, Mark.MODEL_FAILED}


@pytest.mark.req("PM-03")
async def test_a_model_that_lacks_tensors(tmp_path: Path) -> None:
    assert await printed(write_model(tmp_path / "partial.gguf")) == {Mark.BAD_MODEL, Mark.MODEL_FAILED}


@pytest.mark.req("PM-03")
@pytest.mark.needs("prlimit")
async def test_too_little_host_memory_for_the_context(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    found = await printed(path, "--ctx-size", str(1 << 21), address_space=1200 << 20)
    assert found == {Mark.HOST_OOM, Mark.MODEL_FAILED}
