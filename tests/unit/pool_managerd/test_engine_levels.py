"""The level that a line of an engine shows, by lines that the engines really print."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_managerd.engine_levels import level_of

ERRORS = (
    "0.00.008.167 E srv    load_model: failed to load model, '/models/haiku.gguf'",
    "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
    "alloc_tensor_range: failed to allocate CUDA0 buffer of size 4617418752",
    "llama_model_load: error loading model: mmap failed: Cannot allocate memory",
    "error: invalid argument: --no-such-flag",
    "E1121 12:00:00.000000 1 model_lifecycle.cc:654] \"failed to load 'vllm' version 1\"",
    "ERROR 11-30 12:00:00 [core.py:396] EngineCore failed to start.",
    "(EngineCore_DP0 pid=12) ERROR 11-30 12:00:00 [core.py:396] EngineCore failed to start.",
    "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
    "2026-11-30T12:00:00.000000Z ERROR text_generation_launcher: Shard 0 failed to start",
    '{"timestamp":"2026-11-30T12:00:00.000000Z","level":"ERROR","fields":{"message":"Shard 0 failed to start"}}',
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "Traceback (most recent call last):",
    "2026-11-30 12:00:00,123 ERROR controller.py:900 -- Failed to deploy",
)
WARNINGS = (
    "0.01.000.000 W slot update_slots: id  0 | task 7 | failed to find free space in the KV cache, retrying",
    "warning: failed to mlock 295501824-byte buffer (after previously locking 0 bytes): Cannot allocate memory",
    "WARNING 11-30 12:00:00 [arg_utils.py:1] the model is not quantized",
    "(APIServer pid=1) WARNING 11-30 12:00:00 [api_server.py:1] deprecated",
    "2026-11-30T12:00:00.000000Z  WARN text_generation_router: no pipeline tag",
    'W1121 12:00:00.000000 1 metrics.cc:631] "Unable to get power limit for GPU 0"',
)
CRITICAL = ("F1121 12:00:00.000000 1 server.cc:1] abort", "CRITICAL:root:out of ideas")
INFORMATION = (
    "",
    "0.00.011.455 I srv    load_model: loading model '/models/error.gguf'",
    "0.00.011.455 D srv    update_slots: run slots",
    "INFO:     Uvicorn running on http://127.0.0.1:8000",
    "INFO 11-30 12:00:00 [api_server.py:1] errors: 0, warnings: 0",
    '{"timestamp":"2026-11-30T12:00:00.000000Z","level":"INFO","fields":{"message":"\\"level\\":\\"ERROR\\""}}',
    'I1121 12:00:00.000000 1 server.cc:1] "error: 0"',
    "the client asked for: ERROR: what is an error?",
    "slot release: task 3 | prompt was 'error: failed'",
    '{"messages": [{"role": "user"}], "level":"ERROR"}',
    "llama_model_loader: - kv   1: general.name str = failed",
)


@pytest.mark.req("EP-16")
@pytest.mark.parametrize(
    ("level", "line"),
    [
        *((logging.CRITICAL, line) for line in CRITICAL),
        *((logging.ERROR, line) for line in ERRORS),
        *((logging.WARNING, line) for line in WARNINGS),
        *((logging.INFO, line) for line in INFORMATION),
    ],
)
def test_a_line_is_as_grave_as_it_says_itself(level: int, line: str) -> None:
    assert level_of(line) == level


@given(st.text(max_size=600))
def test_whatever_an_engine_prints_has_a_level(line: str) -> None:
    assert level_of(line) in {logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL}
