"""The first configuration of a machine with GPUs.

Decides one pool per GPU and an example model that surely fits it. Never looks at the machine: it is told the GPUs.
"""

from __future__ import annotations

from contracts.pools import Gpu

GIB = 1 << 30
_EXAMPLES = (
    # Least VRAM, model, context. Weights plus cache stay below two thirds of the memory.
    (20 * GIB, "hf:bartowski/Qwen2.5-14B-Instruct-GGUF/Qwen2.5-14B-Instruct-Q4_K_M.gguf", 16384),
    (10 * GIB, "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", 8192),
    (0, "hf:bartowski/Llama-3.2-3B-Instruct-GGUF/Llama-3.2-3B-Instruct-Q4_K_M.gguf", 4096),
)

_HEAD = """\
# yaml-language-server: $schema={schema}
#
# Every key has a default; an editor that knows the line above completes them. `llama-orch doctor` checks this file and
# this machine, `llama-orch ensure` prepares the engines, `llama-orch up` starts both daemons.
profile: home

server:
  bind: "127.0.0.1:8080"  # for the LAN: "0.0.0.0:8080"; the token beside this file is asked for there and here

pools:
"""

_POOL = """\
  - id: gpu{index}
    # {name}, {gib} GiB
    devices: ["{uuid}"]
    engine: llamacpp  # built from source with CUDA, which needs git, cmake, a C++ compiler and the CUDA toolkit
    # An example that fits. Any GGUF does: hf:org/repo/file.gguf, https://..., or a path.
    model: "{model}"
    ctx: {ctx}
    slots: 1
"""


def home_config(gpus: tuple[Gpu, ...], schema: str) -> str:
    """The text of a configuration file with one pool for each of these GPUs."""
    return _HEAD.format(schema=schema) + "\n".join(_pool(gpu) for gpu in gpus)


def _pool(gpu: Gpu) -> str:
    model, ctx = next((model, ctx) for least, model, ctx in _EXAMPLES if gpu.vram_total_bytes >= least)
    gib = round(gpu.vram_total_bytes / GIB)
    # The name stands in a comment: nothing in it may end the line.
    name = "".join(sign for sign in gpu.name if sign.isprintable())
    return _POOL.format(index=gpu.index, name=name, gib=gib, uuid=gpu.uuid, model=model, ctx=ctx)
