"""What a model is read to say of itself, against what the real llama.cpp makes of the same file."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from model_provisioner import gguf, local
from model_provisioner.errors import ModelError
from model_provisioner.gguf_split import part_names
from tests.support.raw_http import raw
from tests.support.real_llamacpp import real_llamacpp
from tests.support.tiny_gguf import CHAT_TEMPLATE, write_tiny_gguf

pytest.importorskip("xllamacpp")

TASK = {"prompt": "a split model", "n_predict": 48, "temperature": 0.8, "seed": 7, "cache_prompt": False}


async def asked(url: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
    return msgspec.json.decode((await raw(url, path, body)).body)


def facts(path: Path) -> gguf.Facts:
    found = local.inspect(str(path)).facts
    assert isinstance(found, gguf.Facts)
    return found


@pytest.mark.req("MP-04", "MP-05")
async def test_a_split_model_loads_by_its_first_part_and_answers_as_the_whole(tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf")
    write_tiny_gguf(tmp_path / "tiny.gguf", split=6)
    parts = [tmp_path / name for name in part_names("tiny", 4)]
    found = local.inspect(str(parts[0]))
    assert [file.path for file in found.files] == parts
    assert found.weights == local.inspect(str(whole)).weights
    answers, counts = [], []
    for path in (whole, parts[0]):
        async with real_llamacpp(path) as url:
            answer = await asked(url, "/completion", TASK)
            answers.append((answer["content"].encode(), answer["tokens_predicted"]))
            counts.append((await asked(url, "/v1/models"))["data"][0]["meta"]["n_params"])
    assert answers[0] == answers[1]
    assert answers[0][1] == 48
    assert counts == [facts(whole).parameters, facts(parts[0]).parameters]


@pytest.mark.req("MP-04", "MP-05")
@pytest.mark.parametrize("damage", ["second part", "missing", "of another", "the first again", "unnamed"])
async def test_a_split_that_is_refused_is_one_that_the_engine_refuses(tmp_path: Path, damage: str) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", split=6)
    parts = [tmp_path / name for name in part_names("tiny", 4)]
    given = parts[1] if damage == "second part" else parts[0]
    if damage == "missing":
        parts[2].unlink()
    elif damage == "of another":
        write_tiny_gguf(tmp_path / "other.gguf", split=8)
        (tmp_path / "other-00003-of-00003.gguf").rename(parts[2])
    elif damage == "the first again":
        parts[1].write_bytes(parts[0].read_bytes())
    elif damage == "unnamed":
        given = parts[0].rename(tmp_path / "tiny.gguf")
    with pytest.raises(ModelError):
        local.inspect(str(given))
    with pytest.raises(RuntimeError, match="the server did not start"):
        async with real_llamacpp(given):
            pass


@pytest.mark.req("MP-05")
@pytest.mark.parametrize("yarn", [0, 4])
async def test_the_context_is_the_most_that_the_engine_gives(tmp_path: Path, yarn: int) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", ctx=1024, yarn=yarn)
    async with real_llamacpp(path, ctx=4096) as url:
        meta = (await asked(url, "/v1/models"))["data"][0]["meta"]
        given = (await asked(url, "/props"))["default_generation_settings"]["n_ctx"]
    found = facts(path)
    assert found.ctx_max == 1024 == given == meta["n_ctx_train"]
    assert (found.vocabulary, found.embedding) == (meta["n_vocab"], meta["n_embd"])
    assert found.quant == meta["ftype"].removeprefix("all ")


@pytest.mark.req("MP-05")
@pytest.mark.parametrize("names", [("default",), ("default", "tool_use", "rag"), ("rag", "tool_use")], ids=str)
async def test_the_chat_template_is_the_one_that_the_engine_uses(tmp_path: Path, names: tuple[str, ...]) -> None:
    templates = [{"name": name, "template": f"{{# {name} #}}{CHAT_TEMPLATE}"} for name in names]
    path = write_tiny_gguf(tmp_path / "tiny.gguf", template=templates)
    async with real_llamacpp(path) as url:
        used = (await asked(url, "/props"))["chat_template"]
    found = facts(path)
    assert found.chat_template_sha256 == hashlib.sha256(used.encode()).hexdigest()
    assert found.chat_template == next(name for name in ("default", "tool_use") if name in names)
    assert found.chat_templates == tuple(sorted(names))
