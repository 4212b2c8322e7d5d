"""A model directory from its path into the catalog, with real files."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from contracts.config import Engine
from contracts.engines import ModelFormat, WeightSizes
from contracts.pools import Cause
from model_provisioner import digest, hf_directory
from model_provisioner.errors import ModelError
from model_provisioner.provisioner import ModelProvisioner
from tests.unit.model_provisioner.heads import LLAMA_8B, safetensors, write_directory, write_model
from tests.unit.model_provisioner.place import Place


@pytest.mark.req("MP-01", "MP-05")
async def test_a_directory_is_resolved_catalogued_and_recorded(place: Place) -> None:
    path = write_directory(place.models / "Llama-3.1-8B")
    model = await place.ensure("Llama-3.1-8B")
    size = len(safetensors(100)) + len(safetensors(101))
    assert (model.id, model.local_path, model.size_bytes) == ("Llama-3.1-8B", str(path), size)
    assert (model.arch, model.quant, model.ctx_max) == ("LlamaForCausalLM", "bfloat16", 131_072)
    assert (model.layers, model.heads, model.kv_heads, model.embedding) == (32, 32, 8, 4096)
    assert (model.format, model.key_length) == (ModelFormat.HF_DIRECTORY, 128)
    assert model.weights == WeightSizes(layers=size)
    assert model.kv is not None
    entry = place.catalog.get("Llama-3.1-8B")
    assert (entry.digest, entry.local_path, entry.size_bytes) == (model.digest, str(path), size)
    assert [line["digest"] for line in place.journal()] == [model.digest]


@pytest.mark.req("MP-03")
async def test_the_digest_is_that_of_the_list_of_files_and_anybody_can_compute_it(place: Place) -> None:
    path = write_directory(place.models / "llama")
    model = await place.ensure("llama")
    covered = sorted(each.name for each in path.iterdir() if each.name != "README.md")
    lines = "".join(f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in covered)
    assert model.digest == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    await place.ensure("llama", model.digest)
    assert place.catalog.get("llama").verified_ms is not None
    (path / "README.md").write_text("Not a part of the model, whatever it says.")
    assert (await place.ensure("llama")).digest == model.digest
    (path / "tokenizer.json").write_text('{"another": "one"}')
    assert (await place.ensure("llama")).digest != model.digest
    assert (await place.refuse("llama", model.digest)).cause is Cause.MODEL_DIGEST


@pytest.mark.req("MP-05")
async def test_tokenizer_and_chat_template_come_from_the_files_beside_it(place: Place) -> None:
    path = write_directory(place.models / "llama")
    (path / "tokenizer.json").write_text('{"added_tokens": [], "model": {"type": "BPE", "vocab": {}}}')
    assert read(path) == ("BPE", None, ())
    (path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert read(path) == ("BPE", "json", ("default",))
    settings = {"tokenizer_class": "LlamaTokenizerFast", "chat_template": "settings", "model_max_length": 4096}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read(path) == ("LlamaTokenizerFast", "settings", ("default",))
    assert hf_directory.inspect(path).facts.ctx_max == 4096
    (path / "chat_template.jinja").write_text("file")
    assert read(path) == ("LlamaTokenizerFast", "file", ("default",))
    model, entry = await place.ensure("llama"), place.catalog.get("llama")
    assert model.chat_template_sha256 == hashlib.sha256(b"file").hexdigest()
    for shown in (model, entry):
        assert (shown.tokenizer, shown.layers, shown.heads) == ("LlamaTokenizerFast", 32, 32)
        assert (shown.format, shown.chat_template_sha256) == (ModelFormat.HF_DIRECTORY, model.chat_template_sha256)
    (path / "tokenizer_config.json").write_text("{")
    error = await place.refuse("llama")
    assert error.message.startswith(f"{path / 'tokenizer_config.json'} cannot be used: it is no JSON")
    (path / "tokenizer_config.json").write_bytes(b" " * (9 << 20))
    assert "cannot be used: it is longer than 8 MiB" in (await place.refuse("llama")).message


def read(path: Path) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The tokenizer, which of the texts of the test above is the template, and the names of all templates."""
    facts = hf_directory.inspect(path).facts
    texts = {hashlib.sha256(text.encode()).hexdigest(): text for text in ("json", "settings", "file")}
    return facts.tokenizer, texts.get(facts.chat_template_sha256 or ""), facts.chat_templates


@pytest.mark.req("MP-01")
async def test_a_second_start_reads_no_weights(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    write_directory(place.models / "llama", shards=1)
    first = await place.ensure("llama")
    monkeypatch.setattr(digest, "_hash", lambda *_: pytest.fail("a file was read again"))
    assert await place.ensure("llama") == first


@pytest.mark.req("MP-02")
async def test_a_model_that_the_engine_cannot_load_is_refused(place: Place) -> None:
    write_directory(place.models / "llama")
    write_model(place.models / "haiku.gguf")
    provisioner: ModelProvisioner = place.provisioner()
    for engine in (Engine.VLLM, Engine.TGI, Engine.TRITON):
        with pytest.raises(ModelError) as caught:
            await provisioner.ensure_present("haiku.gguf", engine=engine)
        assert caught.value.cause is Cause.MODEL_INVALID
        assert f"haiku.gguf is a GGUF file, and {engine} loads a directory" in caught.value.message
        assert (await provisioner.ensure_present("llama", engine=engine)).id == "llama"
    with pytest.raises(ModelError, match="is a directory, and llamacpp loads one GGUF file"):
        await provisioner.ensure_present("llama", engine=Engine.LLAMACPP)
    assert (await provisioner.ensure_present("haiku.gguf", engine=Engine.LLAMACPP)).format is ModelFormat.GGUF
    assert (await provisioner.ensure_present("haiku.gguf", engine=Engine.OPENAI)).id == "haiku"


@pytest.mark.req("MP-02", "MP-05")
async def test_what_is_no_model_directory_is_refused(place: Place) -> None:
    path = write_directory(place.models / "llama")
    shard = path / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()

    async def refused(message: str, hint: str = "download or copy") -> None:
        error = await place.refuse("llama")
        assert error.cause is Cause.MODEL_INVALID
        assert message in error.message, error.message
        assert hint in error.hint, error.hint

    shard.write_bytes(whole[:-1])
    await refused(f"{shard} was cut off: it has {len(whole) - 1} bytes, and its tensors need {len(whole)}")
    shard.write_bytes(whole + b"!")
    await refused(f"{shard} goes on after its tensors: it has {len(whole) + 1} bytes, and they need {len(whole)}")
    shard.write_bytes(whole[:30])
    await refused("was cut off")
    shard.write_bytes(b"<!DOCTYPE html>" * 9)
    await refused(f"{shard} is no safetensors file")
    shard.write_bytes(b"\x02\0\0\0\0\0\0\0[]")
    await refused(f"{shard} is no safetensors file: ")
    shard.unlink()
    await refused("lacks 1 of the 2 files that model.safetensors.index.json names: model-00002-of-00002")
    for index in ("", "{}", '{"weight_map": {}}', '{"weight_map": {"w": "../../etc/passwd"}}', '{"weight_map": 1}'):
        (path / "model.safetensors.index.json").write_text(index)
        await refused("model.safetensors.index.json cannot be used", "from where the model is")
    (path / "model.safetensors.index.json").unlink()
    (path / "model-00001-of-00002.safetensors").rename(path / "pytorch_model.bin")
    await refused("has no weights: there is no *.safetensors in it", "pytorch_model.bin cannot be used")
    (path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": "many"}')
    await refused('config.json cannot be used: num_hidden_layers is "many"', "from where the model is")
    (path / "config.json").write_bytes(b" " * (5 << 20))
    await refused("config.json cannot be used: it is longer than 4 MiB", "from where the model is")
    (path / "config.json").unlink()
    await refused("is a directory without config.json, so it is no model", "pytorch_model.bin cannot be used")
    (path / "pytorch_model.bin").unlink()
    await refused("is a directory without config.json, so it is no model", "a directory with config.json and")


@pytest.mark.req("MP-02")
async def test_a_directory_of_too_many_files_is_no_model(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_directory, "MAX_FILES", 4)
    write_directory(place.models / "llama")
    assert "has more files than the 4" in (await place.refuse("llama")).message


@pytest.mark.req("MP-02")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
async def test_a_link_out_of_the_directory_is_refused(place: Place, name: str) -> None:
    path = write_directory(place.models / "llama", shards=1)
    (path / name).rename(place.root / name)
    (path / name).symlink_to(place.root / name)
    error = await place.refuse("llama")
    assert (
        error.message
        == f"{path / name} is a link that leads out of the model's directory, where an engine may not see it"
    )
    assert error.hint == f"copy the directory with its files: cp -rL {path} COPY"


async def test_links_within_the_directory_and_to_it_are_fine(place: Place) -> None:
    path = write_directory(place.root / "elsewhere/llama", shards=1)
    (path / "blobs").mkdir()
    (path / "model.safetensors").rename(path / "blobs/1234")
    (path / "model.safetensors").symlink_to("blobs/1234")
    (place.models / "Llama-3.1-8B").symlink_to(path)
    model = await place.ensure("Llama-3.1-8B")
    assert (model.id, model.size_bytes) == ("Llama-3.1-8B", len(safetensors(100)))


async def test_a_second_copy_of_the_weights_does_not_count(place: Place) -> None:
    path = write_directory(place.models / "mistral", shards=1)
    (path / "consolidated.safetensors").write_bytes(safetensors(100))
    (path / "adapter_model.safetensors").write_bytes(safetensors(9))
    (path / ".cache").mkdir()
    assert (await place.ensure("mistral")).size_bytes == len(safetensors(100))
    (path / "model.safetensors").unlink()
    assert (await place.ensure("mistral")).size_bytes == len(safetensors(100)) + len(safetensors(9))


@pytest.mark.req("MP-02")
async def test_special_and_unreadable_files_are_named(place: Place) -> None:
    path = write_directory(place.models / "llama", shards=1)
    (path / "tokenizer.json").unlink()
    os.mkfifo(path / "tokenizer.json")
    assert (await place.refuse("llama")).message == f"{path / 'tokenizer.json'} is not a regular file"
    (path / "tokenizer.json").unlink()
    (path / "tokenizer.json").symlink_to("missing.json")
    error = await place.refuse("llama")
    assert (error.cause, error.message) == (Cause.MODEL_MISSING, f"there is no model file {path / 'tokenizer.json'}")


async def test_the_same_name_in_two_places_is_two_models(place: Place) -> None:
    write_directory(place.models / "a/llama")
    write_directory(place.models / "b/llama", {**LLAMA_8B, "num_hidden_layers": 16})
    first, second = await place.ensure("a/llama"), await place.ensure("b/llama")
    assert (first.id, second.id) == ("llama", f"llama-{second.digest[7:15]}")


def test_the_layout_of_what_transformers_writes(tmp_path: Path) -> None:
    """A config.json with everything that the library puts there."""
    config = {
        **LLAMA_8B,
        "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
        "eos_token_id": [1, 2],
        "head_dim": None,
    }
    found = hf_directory.inspect(write_directory(tmp_path / "llama", json.loads(json.dumps(config))))
    assert found.facts.key_length == 128


@pytest.mark.req("MP-03")
async def test_a_name_that_is_no_text_is_said_where_the_digest_would_cover_it(place: Place) -> None:
    path = write_directory(place.models / "llama")
    (path / "caf\udce9.md").touch()  # no part of the model
    await place.ensure("llama")
    (path / "caf\udce9.txt").touch()
    error = await place.refuse("llama")
    assert error.cause is Cause.MODEL_INVALID
    assert error.message == f"{path} has a file whose name is no UTF-8 text: caf\\udce9.txt"
    assert "rename it" in (error.hint or "")
