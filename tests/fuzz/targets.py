"""What is fuzzed, one function for each kind of bytes that come from elsewhere, and what holds whatever they are.

Each takes bytes and says how they ended, ``read`` or ``refused``. Anything but the documented error, a request for
bytes that the rules forbid, a fact that cannot be, or a text that is unfit for a terminal raises.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import MappingProxyType

import msgspec

from model_provisioner import gguf, gguf_split, hf_config, hf_tokenizer, safetensors
from model_provisioner.errors import GgufError
from model_provisioner.gguf_head import MAX_HEAD_BYTES, MAX_TENSORS, WINDOW
from model_provisioner.gguf_values import MAX_NUMBER
from model_provisioner.json_fields import ConfigError

READ, REFUSED = "read", "refused"
MAX_TEXT = 700
"""Characters of a message."""


class WrongError(Exception):
    """Something that must not be."""


def must(holds: object, what: str) -> None:
    """Raise unless it holds; an assertion would be gone with -O."""
    if not holds:
        raise WrongError(what)


def gguf_facts(data: bytes, size: int | None = None) -> gguf.Facts:
    """The facts of a file of which ``data`` is the front and ``size`` the length. Raises GgufError."""
    size = len(data) if size is None else size
    reading = gguf.read(size)
    reached = 0
    try:
        wanted = next(reading)
        while reached >= 0:
            must(0 <= wanted.size <= WINDOW, "a window too large")
            must(wanted.at >= reached, "a step backwards")
            must(wanted.at + wanted.size <= min(size, MAX_HEAD_BYTES), "bytes past the end")
            must(wanted.size or wanted.at in {size, MAX_HEAD_BYTES}, "nothing asked for")
            reached = wanted.at
            wanted = reading.send(data[wanted.at : wanted.at + wanted.size])
    except StopIteration as done:
        facts: gguf.Facts = done.value
        _believable(facts)
        return facts
    raise WrongError("a walk without end")


def gguf_head(data: bytes) -> str:
    """The head of a GGUF file."""
    try:
        gguf_facts(data)
    except GgufError as error:
        must(0 <= error.offset <= max(len(data), 8), f"an error at {error.offset} of {len(data)} bytes")
        _fit_for_a_terminal(str(error))
        return REFUSED
    return READ


def split(data: bytes) -> str:
    """The heads of all parts of a model, each after its length in two bytes; the first byte is how its name is said."""
    parts: list[bytes] = []
    rest = data[1:]
    while rest and len(parts) < 5:
        length = int.from_bytes(rest[:2], "little")
        parts.append(rest[2 : 2 + length])
        rest = rest[2 + length :]
    try:
        facts = [gguf_facts(part) for part in parts]
        if not facts:
            return REFUSED
        name = gguf_split.part_names("m", max(data[0] & 7, 1))[0]
        names = gguf_split.names_of(name, facts[0])
        if len(names) != len(facts):
            return REFUSED  # as where files are missing
        found = gguf_split.join(names, facts)
    except (GgufError, gguf_split.SplitError) as error:
        _fit_for_a_terminal(str(error))
        return REFUSED
    _believable(found)
    must(found.tensor_count == sum(each.tensor_count for each in facts), "tensors lost")
    return READ


def safetensors_head(data: bytes) -> str:
    """The head of a safetensors file."""
    try:
        end = safetensors.tensors_end(data)
    except ConfigError as error:
        _fit_for_a_terminal(str(error))
        return REFUSED
    must(end >= 0, "an end before the start")
    must(isinstance(json.loads(data), dict), "no JSON")
    return READ


def safetensors_index(data: bytes) -> str:
    """The index over several safetensors files."""
    try:
        names = safetensors.files_in(data)
    except ConfigError as error:
        _fit_for_a_terminal(str(error))
        return REFUSED
    must(all("/" not in name and "\0" not in name and name not in {".", ".."} for name in names), "a way out")
    # Of a name that is there twice JSON has the last one; both are looked for.
    must(set(names) >= set(json.loads(data)["weight_map"].values()), "fewer names than JSON says")
    return READ


def config_json(data: bytes) -> str:
    """A ``config.json``."""
    try:
        facts = hf_config.parse(data, 4096 if data[-1:] == b" " else None)
    except ConfigError as error:
        _fit_for_a_terminal(str(error))
        return REFUSED
    for name in ("arch", "quant"):
        _fit_for_a_terminal(getattr(facts, name) or "")
    for name in ("ctx_max", "layers", "heads", "kv_heads", "embedding", "vocabulary", "experts", "dense_layers"):
        must(0 <= (getattr(facts, name) or 0) <= MAX_NUMBER, name)
    if facts.kv is not None:
        must(min(msgspec.structs.astuple(facts.kv)) >= 0, "less than nothing in the cache")
    return READ


def tokenizer_config(data: bytes) -> str:
    """A ``tokenizer_config.json``, and the other files beside it with the same bytes."""
    hf_tokenizer.kind_of_model(data)
    hf_tokenizer.template(data)
    outcomes = set()
    for parse in (hf_tokenizer.config, hf_tokenizer.template_json):
        try:
            found = parse(data)
        except ConfigError as error:
            _fit_for_a_terminal(str(error))
            outcomes.add(REFUSED)
            continue
        outcomes.add(READ)
        if isinstance(found, hf_tokenizer.Tokenizer):
            _fit_for_a_terminal(found.kind or "")
            must(found.limit is None or 0 < found.limit <= MAX_NUMBER, "a limit that is none")
            must(found.default is None or found.default in found.templates, "a default that is not there")
    return READ if READ in outcomes else REFUSED


TARGETS: MappingProxyType[str, Callable[[bytes], str]] = MappingProxyType(
    {
        each.__name__: each
        for each in (gguf_head, split, safetensors_head, safetensors_index, config_json, tokenizer_config)
    }
)


def _believable(facts: gguf.Facts) -> None:
    must(0 <= facts.tensor_count <= 5 * MAX_TENSORS, "tensors")
    must(facts.min_file_size >= 24, "a size smaller than a header")
    must(facts.parameters >= 0, "parameters")
    for text in (facts.arch, facts.name, facts.tokenizer, facts.chat_template, *facts.chat_templates):
        must((text or "").isprintable() and len(text or "") <= 3 * 4096, "a text that is none")
    for number in (facts.ctx_max, facts.layers, facts.heads, facts.kv_heads, facts.embedding, facts.experts):
        must(0 <= (number or 0) <= MAX_NUMBER, "a number")
    if facts.kv is not None:
        must(min(msgspec.structs.astuple(facts.kv)) >= 0, "less than nothing in the cache")
    if facts.weights is not None:
        must(min(msgspec.structs.astuple(facts.weights)) >= 0, "less than nothing in the weights")
        must(facts.weights.experts <= facts.weights.layers, "more experts than layers")


def _fit_for_a_terminal(text: str) -> None:
    must(text.isprintable(), f"a message with something unprintable: {text!r}")
    must(len(text) <= MAX_TEXT, "a message without end")
