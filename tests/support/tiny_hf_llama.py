"""Writes random Llamas for the real vLLM, as transformers keeps them: tiny_hf_llama.py SEED LAYERS WIDTH FOLDER...

Of several folders each has the seed after that of the one before.

Runs with the interpreter of vLLM's environment, which has torch. Every character is a token. As in ``tiny_gguf`` the
first dimension of the residual stream is held constant and serves as a bias on the output, so that the end of a text is
never drawn: a generation ends by its limit, a stop word or a grammar.
"""

from __future__ import annotations

import math
import sys

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 4096
CONSTANT, NEVER = 1.0, -40.0
SPECIAL = ["<unk>", "<s>", "</s>"]
CHARACTERS = [*(chr(code) for code in range(32, 127)), "\n", "é", "ß", "雨", "🌧"]
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each character."""
    vocabulary = {text: number for number, text in enumerate([*SPECIAL, *CHARACTERS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def write(folder: str, seed: int, layers: int, width: int) -> None:
    """Another seed is another model."""
    words = tokenizer()
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=CONTEXT,
        initializer_range=1.6 / math.sqrt(width),
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = CONSTANT
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[: len(SPECIAL), 0] = NEVER
    model.save_pretrained(folder)


first, *sizes = (int(number) for number in sys.argv[1:4])
for number, target in enumerate(sys.argv[4:], start=first):
    write(target, number, *sizes)
