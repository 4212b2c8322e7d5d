"""Tokenizers and chat templates, as the files beside a config.json say them."""

import hashlib
import json

import pytest

from model_provisioner.hf_tokenizer import Tokenizer, config, kind_of_model, template, template_json
from model_provisioner.json_fields import ConfigError


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read(**document: object) -> Tokenizer:
    return config(json.dumps(document).encode())


@pytest.mark.req("MP-05")
def test_what_transformers_writes() -> None:
    found = read(
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=131_072,
        chat_template="{{ bos }}é",
        added_tokens_decoder={"0": {"content": "<unk>"}},
    )
    assert (found.kind, found.limit) == ("PreTrainedTokenizerFast", 131_072)
    assert (found.default, found.templates) == ("default", {"default": sha256("{{ bos }}é")})


@pytest.mark.req("MP-05")
def test_of_several_templates_the_one_called_default_is_used_when_nobody_says_which() -> None:
    both = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    found = read(chat_template=both)
    assert (found.default, found.templates) == ("default", {"default": sha256("d"), "tool_use": sha256("t")})
    assert read(chat_template=both[:1]).default is None
    assert read(chat_template=[]).templates == read(chat_template="").templates == read(chat_template=None).templates
    assert template(b"d") == template_json(b'{"chat_template": "d"}') == {"default": sha256("d")}
    assert template(b"") == template_json(b"{}") == {}


@pytest.mark.parametrize(
    ("said", "limit"),
    [(512, 512), (512.0, 512), (1000000000000000019884624838656, None), (1e30, None), (0, None), ("512", None)],
)
def test_a_limit_that_is_none_does_not_count(said: float | str, limit: int | None) -> None:
    assert read(model_max_length=said).limit == limit


@pytest.mark.parametrize(
    ("front", "kind"),
    [
        (b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "dropout": null, "vocab', "BPE"),
        (b'{"model" : {\n "type":"Unigram"}}', "Unigram"),
        (b'{"model": {"vocab": {}}}', None),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
def test_the_kind_of_a_tokenizer_is_in_the_front_of_its_file(front: bytes, kind: str | None) -> None:
    assert kind_of_model(front) == kind


@pytest.mark.req("MP-05")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is no JSON"),
        (b"[]", "it is no JSON object"),
        (b"[" * 100_000, "it is no JSON"),
        (b'{"tokenizer_class": 7}', "tokenizer_class is 7, which is no text"),
        (b'{"tokenizer_class": "\\ud800"}', "it is no JSON"),
        (b'{"chat_template": 7}', "chat_template is neither a text nor a list of them"),
        (b'{"chat_template": {}}', "chat_template is neither a text nor a list of them"),
        (b'{"chat_template": [7]}', "chat_template lists something without a name and a template"),
        (b'{"chat_template": [{"name": "x"}]}', "chat_template lists something without a name and a template"),
        (b'{"chat_template": [{"name": 7, "template": ""}]}', "chat_template.name is 7, which is no text"),
        (b'{"chat_template": [{"name": "x", "template": 7}]}', "chat_template is 7, which is no text"),
        (b'{"chat_template": "%s"}' % (b"x" * (1 << 20)), "chat_template is longer than 1024 KiB"),
        (b'{"chat_template": "\xff"}', "it is no JSON: it is no UTF-8"),
    ],
    ids=range(13),
)
def test_a_hostile_document_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(data)


def test_a_name_cannot_do_anything_to_a_terminal() -> None:
    found = read(tokenizer_class="\x1b[2J", chat_template=[{"name": "\x1b" + "a" * 500, "template": "x"}])
    assert (found.kind, list(found.templates)) == ("?[2J", ["?" + "a" * 127])
