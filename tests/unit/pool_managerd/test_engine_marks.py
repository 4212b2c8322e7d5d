# ruff: noqa: E501 - the lines are as they are
"""What engines print when they fail, as they print it, and that nothing else is taken for it."""

import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool_managerd.engine_marks import RECOGNIZERS, Mark, marks_in, may_mark

LINES = [
    # llama.cpp
    (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4403.50 MiB on device 0: cudaMalloc failed: out of memory",
        {Mark.VRAM_OOM},
    ),
    ("alloc_tensor_range: failed to allocate CUDA0 buffer of size 4617418752", {Mark.VRAM_OOM}),
    ("llama_model_load: error loading model: unable to allocate CUDA0 buffer", {Mark.VRAM_OOM, Mark.MODEL_FAILED}),
    ("ggml_gallocr_reserve_n: failed to allocate CUDA1 buffer of size 587202560", {Mark.VRAM_OOM}),
    ("CUDA error: out of memory", {Mark.VRAM_OOM}),
    ("0.12.086.165 E CUDA error: out of memory", {Mark.VRAM_OOM}),
    ("CUDA error: uncorrectable ECC error encountered", {Mark.ECC}),
    ("CUDA error: an illegal memory access was encountered", {Mark.GPU_FAULT}),
    ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", {Mark.DRIVER}),
    ("CUDA error: no kernel image is available for execution on the device", {Mark.NO_KERNEL}),
    (
        "mmq.cu:9: ERROR: CUDA kernel mul_mat_q has no device code compatible with CUDA arch 520. ggml-cuda.cu was compiled for: 860",
        {Mark.NO_KERNEL},
    ),
    ("0.00.086.165 E ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", {Mark.NO_DEVICE}),
    (
        "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version",
        {Mark.DRIVER},
    ),
    ("ggml_cuda_init: failed to initialize CUDA: unknown error", {Mark.DRIVER}),
    ("ggml_aligned_malloc: insufficient memory (attempted to allocate 24576.00 MB)", {Mark.HOST_OOM}),
    ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 25769803776", set()),
    ("alloc_tensor_range: failed to allocate CPU buffer of size 25769803776", {Mark.HOST_OOM}),
    ("llama_model_load: error loading model: mmap failed: Cannot allocate memory", {Mark.HOST_OOM, Mark.MODEL_FAILED}),
    ("0.00.008.167 E srv    load_model: failed to load model, '/models/haiku.gguf'", {Mark.MODEL_FAILED}),
    ("0.05.146.155 E cmn  common_init_: failed to create context with model '/models/haiku.gguf'", {Mark.MODEL_FAILED}),
    ("0.00.005.826 E srv          init: exiting due to model loading error", {Mark.MODEL_FAILED}),
    (
        "0.00.005.509 E llama_model_load: error loading model: unknown model architecture: 'nonsuch'",
        {Mark.BAD_MODEL, Mark.MODEL_FAILED},
    ),
    (
        "llama_model_load: error loading model: check_tensor_dims: tensor 'blk.0.attn_norm.weight' not found",
        {Mark.BAD_MODEL, Mark.MODEL_FAILED},
    ),
    ("error: invalid argument: --nonsuch", {Mark.BAD_FLAG}),
    ("srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080", {Mark.PORT_TAKEN}),
    # vLLM and PyTorch
    (
        "(EngineCore_DP0 pid=123) ERROR 11-21 12:00:00 [core.py:708] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.57 GiB",
        {Mark.VRAM_OOM},
    ),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", {Mark.VRAM_OOM}),
    ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", {Mark.VRAM_OOM}),
    (
        "(EngineCore pid=3709) ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.",
        {Mark.VRAM_SHORT},
    ),
    (
        "ValueError: Free memory on device cuda:0 (3.25/23.43 GiB) on startup is less than desired GPU memory utilization (0.96, 22.49 GiB). Decrease GPU memory",
        {Mark.VRAM_SHORT},
    ),
    (
        "ValueError: Free memory on device (3.27/15.98 GiB) on startup is less than desired GPU memory utilization (0.9, 14.39 GiB).",
        {Mark.VRAM_SHORT},
    ),
    (
        "ValueError: To serve at least one request with the models's max seq len (131072), (4.00 GiB KV cache is needed, which is larger than the available KV cache memory (0.65 GiB).",
        {Mark.VRAM_SHORT},
    ),
    (
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV cache (93760).",
        {Mark.VRAM_SHORT},
    ),
    (
        "(APIServer pid=15) ERROR 01-21 04:15:38 [v1/engine/async_llm.py:546] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.",
        {Mark.WORKER_DIED},
    ),
    (
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        {Mark.WORKER_DIED},
    ),
    ("torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered", {Mark.ECC}),
    ("torch.AcceleratorError: CUDA error: an illegal memory access was encountered", {Mark.GPU_FAULT}),
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12080). Please update your GPU driver",
        {Mark.DRIVER},
    ),
    (
        "torch/cuda/__init__.py:180: UserWarning: CUDA initialization: Found no NVIDIA driver on your system. Please check",
        {Mark.DRIVER},
    ),
    ("RuntimeError: No CUDA GPUs are available", {Mark.NO_DEVICE}),
    ("RuntimeError: Failed to infer device type, please set the environment variable", {Mark.NO_DEVICE}),
    (
        "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error",
        {Mark.NCCL},
    ),
    ("host:12:34 [0] transport/p2p.cc:12 NCCL WARN Cuda failure 2 'out of memory'", {Mark.VRAM_OOM, Mark.NCCL}),
    ("vllm: error: unrecognized arguments: --nonsuch", {Mark.BAD_FLAG}),
    ("error: unrecognized arguments: --nonsuch; --help lists what the trial engine knows", {Mark.BAD_FLAG}),
    ("api_server.py: error: argument --dtype: invalid choice: 'x'", {Mark.BAD_FLAG}),
    ("(APIServer pid=1)   Value error, Model architectures ['X'] are not supported for now.", {Mark.BAD_MODEL}),
    (
        "ValueError: Model architectures ['NonsuchForCausalLM'] are not supported for now. Supported architectures: dict_keys(['A'])",
        {Mark.BAD_MODEL},
    ),
    ("OSError: [Errno 98] Address already in use", {Mark.PORT_TAKEN}),
    (
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
        {Mark.PORT_TAKEN},
    ),
    # TGI
    (
        "RuntimeError: Not enough memory to handle 4096 prefill tokens. You need to decrease `--max-batch-prefill-tokens`",
        {Mark.VRAM_SHORT},
    ),
    (
        "2026-01-08T14:02:49.123Z ERROR text_generation_launcher: Shard process was signaled to shutdown with signal 9",
        {Mark.WORKER_DIED},
    ),
    (
        "Error: NotEnoughCUDADevices: not enough cuda devices: `sharded` is true but only found 1 CUDA devices",
        {Mark.NO_DEVICE},
    ),
    ("error: unexpected argument '--nonsuch' found", {Mark.BAD_FLAG}),
    # Triton
    (
        "E1121 12:00:00.000000 1 model_lifecycle.cc:654] \"failed to load 'vllm' version 1: Internal: torch.OutOfMemoryError: CUDA out of memory.\"",
        {Mark.VRAM_OOM, Mark.MODEL_FAILED},
    ),
    ("tritonserver: unrecognized option '--nonsuch'", {Mark.BAD_FLAG}),
    # the host
    ("terminate called after throwing an instance of 'std::bad_alloc'", {Mark.HOST_OOM}),
    ("OSError: [Errno 12] Cannot allocate memory", {Mark.HOST_OOM}),
    ("MemoryError", {Mark.HOST_OOM}),
    ("Killed", {Mark.HOST_OOM}),
    (
        "./llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file",
        {Mark.LIBRARY},
    ),
    (
        "./llama-server: error while loading shared libraries: libcuda.so.1: cannot open shared object file",
        {Mark.DRIVER},
    ),
    ("NVRM: GPU at PCI:0000:01:00: GPU-1234: GPU has fallen off the bus.", {Mark.GPU_LOST}),
    ("pynvml.NVMLError_GpuIsLost: GPU is lost", {Mark.GPU_LOST}),
    ("Failed to initialize NVML: Driver/library version mismatch", {Mark.DRIVER}),
]


@pytest.mark.req("PM-03")
@pytest.mark.parametrize(
    ("line", "expected"), LINES, ids=[f"{number}: {line[:50]}" for number, (line, _) in enumerate(LINES)]
)
def test_what_engines_print_is_recognized(line: str, expected: set[Mark]) -> None:
    assert marks_in(line) == expected


@pytest.mark.req("PM-03")
def test_every_mark_is_recognized_in_some_line() -> None:
    assert {mark for _, marks in LINES for mark in marks} == set(Mark)


OF_AN_ENGINE_THAT_WORKS = [
    "",
    "llama_context: n_ctx_seq (8192) < n_ctx_train (131072) -- the full capacity of the model will not be utilized",
    "load_tensors:        CUDA0 model buffer size =  4403.49 MiB",
    "ggml_cuda_init: found 1 CUDA devices (Total VRAM: 24126 MiB):",
    "sched_reserve:      CUDA0 compute buffer size =   258.50 MiB",
    "srv  update_slots: all slots are idle",
    "srv  log_server_r: done request: POST /completion 127.0.0.1 200",
    "INFO 11-21 12:00:00 [gpu_worker.py:298] Available KV cache memory: 5.06 GiB",
    "INFO 11-21 12:00:00 [kv_cache_utils.py:864] GPU KV cache size: 41,440 tokens",
    "WARNING 11-21 12:00:00 [scheduler.py:1] Sequence group 7 is preempted because there is not enough KV cache space.",
    'INFO:     127.0.0.1:36422 - "POST /v1/completions HTTP/1.1" 200 OK',
    "I1121 12:00:00.000000 1 server.cc:674] successfully loaded 'vllm'",
    "INFO text_generation_launcher: Shard ready in 12.1s rank=0",
]


@pytest.mark.req("PM-03")
@pytest.mark.parametrize(
    "line",
    [
        *OF_AN_ENGINE_THAT_WORKS,
        "warning: failed to mlock 295501824-byte buffer (after previously locking 0 bytes): Cannot allocate memory",
        "0.01.000.000 W slot update_slots: id  0 | task 7 | failed to find free space in the KV cache, retrying",
        "INFO 11-21 [logger.py:43] Received request cmpl-1: prompt: 'RuntimeError: CUDA error: out of memory', params: x",
        "Received request chat-1: MemoryError",
        'srv  params_from_: {"prompt": "what does torch.OutOfMemoryError: CUDA out of memory. mean?"}',
        '{"messages": [{"role": "user", "content": "[Errno 98] Address already in use: why?"}]}',
        "request: {'text_input': 'error loading model: unable to allocate CUDA0 buffer'}",
        "my CUDA error: out of memory",
        "Killed in action",
    ],
)
def test_ordinary_lines_and_quoted_requests_mark_nothing(line: str) -> None:
    assert marks_in(line) == frozenset()


# Sign by sign: of whole texts hypothesis tries those that stand in our sources, and there "Killed" does.
@given(st.lists(st.characters(), max_size=300).map("".join))
def test_random_text_marks_nothing(text: str) -> None:
    assert marks_in(text) == frozenset()


@pytest.mark.parametrize("pattern", [pattern.pattern for _, pattern in RECOGNIZERS])
@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_whatever_a_pattern_matches_is_looked_at(pattern: str, data: st.DataObject) -> None:
    assert may_mark(data.draw(st.from_regex(pattern)))


@pytest.mark.req("PM-03")
@pytest.mark.parametrize("line", OF_AN_ENGINE_THAT_WORKS)
def test_no_pattern_is_tried_on_the_lines_of_an_engine_that_works(line: str) -> None:
    assert not may_mark(line)


def cost_of(pattern: re.Pattern[str], line: str) -> float:
    """Seconds of this thread; the least of some, so that nobody else's work counts."""
    costs = []
    for _ in range(3):
        before = time.thread_time()
        pattern.search(line)
        costs.append(time.thread_time() - before)
    return min(costs)


@pytest.mark.parametrize(
    "part",
    [
        *(
            "a",
            " ",
            "0.0",
            "a.b.",
            "a: ",
            "Error: ",
            "Error: Model architectures ",
            "CUDA error: ",
            "NCCL WARN ",
            "NVRM: ",
        ),
        *("failed to load '", "Socket '", "allocating 1", "error loading model: ", "Error: Free memory on device "),
        *("Stub process ", "1 E a: ", "ERROR: CUDA kernel "),
    ],
)
def test_a_line_costs_in_proportion_to_its_length(part: str) -> None:
    short, long = ("GPU has fallen" + part * (size // len(part)) for size in (1 << 11, 1 << 15))
    for _, pattern in RECOGNIZERS:  # 16 times; were one quadratic, 256 times
        assert cost_of(pattern, long) < 64 * cost_of(pattern, short) + 0.002, pattern.pattern
