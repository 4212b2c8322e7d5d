"""Write a trained decoder as a GGUF file that llama.cpp loads."""

from pathlib import Path
from typing import Final

import gguf
import numpy as np
from corpus import words
from gguf.quants import quantize
from model import Decoder
from tokenizer import BOS, EOS, UNK, Kind, Tokenizer, forms
from torch import Tensor

# The last message alone is the prompt: the model knows nothing of roles or of earlier turns.  The template reads a
# system message without writing it, else llama.cpp would put the system text in front of the prompt.
CHAT_TEMPLATE: Final = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set unused = m['content'] | length %}{% endif %}"
    "{% if loop.last %}{{ m['content'] }}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
)

SHARPEN: Final = 1.3  # scores are scaled by this, so that sampling at a usual temperature seldom leaves the subject


def _describe(writer: gguf.GGUFWriter, model: Decoder, record: dict[str, int]) -> None:
    """Write the keys that say what the model is."""
    shape = model.shape
    writer.add_name("llama-orch trial haiku")
    writer.add_description("A toy that writes haiku on a few hundred subjects.")
    writer.add_license("Apache-2.0")
    writer.add_languages(["en"])
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for key, value in record.items():
        writer.add_uint32(f"haiku.{key}", value)


def _tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Write the vocabulary and the chat template."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokenizer.tokens])
    writer.add_token_scores([-1000.0 if kind == Kind.NORMAL else 0.0 for _, kind in tokenizer.tokens])
    writer.add_token_types([int(kind) for _, kind in tokenizer.tokens])
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)  # noqa: FBT003
    writer.add_add_eos_token(False)  # noqa: FBT003
    writer.add_add_space_prefix(False)  # noqa: FBT003
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensors(model: Decoder, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """The weights by name, with the embedding taken apart into its two uses.

    A prompt may name a subject with or without a space before it, and capitalised.  To read, these forms all take the
    row of the form that stands inside a line, which training sees most often; to write, each keeps its own row.
    The last norm carries the scale of the scores.
    """
    tensors = dict(model.state_dict())
    tensors["output.weight"] = tensors["token_embd.weight"]
    reading = tensors["token_embd.weight"].clone()
    for word in words():
        inside, _, bare, title = (tokenizer.ids[form] for form in forms(word))
        reading[bare] = reading[title] = reading[inside]
    sharp = tensors["output_norm.weight"] * SHARPEN
    return {**tensors, "token_embd.weight": reading, "output_norm.weight": sharp}


def write(path: Path, model: Decoder, tokenizer: Tokenizer, record: dict[str, int]) -> None:
    """Write the file: matrices as Q8_0, norms as float32."""
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, model, record)
    _tokenizer(writer, tokenizer)
    for name, weight in _tensors(model, tokenizer).items():
        data = weight.detach().numpy().astype(np.float32)
        if data.ndim == 1:
            writer.add_tensor(name, data)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
