"""Recognizes in what an engine prints why it fails.

Decides which lines mean something, by the texts that the engines really print: each pattern names the project whose
source or runtime has it. A mark is a hint, never a verdict: some engines print one and go on, so what counts is decided
by ``diagnosis``, once an engine has failed. A line that quotes a client's request marks nothing.
"""

from __future__ import annotations

import re
from enum import StrEnum
from types import MappingProxyType

MAX_CHARS = 4096
"""Of a line; what an engine says of itself comes first."""


class Mark(StrEnum):
    """What a line of an engine's output shows."""

    GPU_LOST = "gpu_lost"
    ECC = "ecc"
    DRIVER = "driver"
    """The driver does not work, or is too old for the engine."""
    NO_KERNEL = "no_kernel"
    """The engine was not built for this GPU."""
    NO_DEVICE = "no_device"
    VRAM_OOM = "vram_oom"
    VRAM_SHORT = "vram_short"
    """The engine itself refuses to start, because what is free does not do."""
    HOST_OOM = "host_oom"
    GPU_FAULT = "gpu_fault"
    """The engine did on the GPU what it must not, or the GPU miscalculated."""
    BAD_FLAG = "bad_flag"
    BAD_MODEL = "bad_model"
    """The engine does not know this kind of model, or finds it damaged."""
    MODEL_FAILED = "model_failed"
    """The model was not loaded; why is another mark's to say."""
    LIBRARY = "library"
    """A shared library is missing."""
    PORT_TAKEN = "port_taken"
    NCCL = "nccl"
    """The GPUs, or the processes on them, cannot talk to each other."""
    WORKER_DIED = "worker_died"
    """A process of the engine ended; why is another mark's to say."""


# llama.cpp begins a line with its clock and a letter for the level, where it is told to (0.00.086.165 E); ggml with the
# name of a function.
_BEGIN = r"^(?:\d[\d.]* [DIWE] )?"
# Python programs say the class of what was raised; loggers and Triton put their own in front.
_RAISED = r"(?:Error|Exception): "
# CUDA's runtime has one text for each error; ggml, PyTorch and Triton each put their words in front.
_CUDA = rf"(?:{_BEGIN}(?:\w+: failed to initialize CUDA: |CUDA error: )|{_RAISED}CUDA (?:driver )?error: )"

_PATTERNS: MappingProxyType[Mark, tuple[str, ...]] = MappingProxyType(
    {
        Mark.GPU_LOST: (
            _CUDA + r"GPU is lost",
            r"NVRM: .{0,200}GPU has fallen off the bus",  # the driver, in the kernel's log
            r"(?:NVMLError_GpuIsLost|NVML_ERROR_GPU_IS_LOST)",  # NVML
        ),
        Mark.ECC: (
            _CUDA + r"uncorrectable (?:ECC|NVLink) error",
            _CUDA + r"Invalid access of peer GPU memory over nvlink or a hardware error",
        ),
        Mark.DRIVER: (
            _CUDA + r"CUDA driver version is insufficient for CUDA runtime version",
            _CUDA + r"CUDA driver is a stub library",
            _CUDA + r"API call is not supported in the installed CUDA driver",
            _CUDA + r"the provided PTX was compiled with an unsupported toolchain",
            _CUDA + r"system has unsupported display driver / cuda driver combination",
            _CUDA + r"forward compatibility was attempted on non supported HW",
            _CUDA + r"(?:system not yet initialized|initialization error|unknown error)",
            rf"{_RAISED}(?:CUDA initialization: )?The NVIDIA driver on your system is too old",  # PyTorch
            rf"{_RAISED}(?:CUDA initialization: )?Found no NVIDIA driver on your system",  # PyTorch
            r"UserWarning: CUDA initialization: (?:The NVIDIA driver on your system is too old|Found no NVIDIA driver)",
            r"error while loading shared libraries: libcuda\.so",  # the dynamic linker
            r"Driver/library version mismatch",  # NVML
        ),
        Mark.NO_KERNEL: (
            _CUDA + r"no kernel image is available for execution on the device",
            _CUDA + r"device kernel image is invalid",
            r"ERROR: CUDA kernel \S+ has no device code compatible with CUDA arch",  # ggml
        ),
        Mark.NO_DEVICE: (
            _CUDA + r"no CUDA-capable device is detected",
            _CUDA + r"invalid device ordinal",
            rf"{_RAISED}No CUDA GPUs are available",  # PyTorch
            rf"{_RAISED}Failed to infer device type",  # vLLM
            r"not enough cuda devices: ",  # TGI's launcher
        ),
        Mark.VRAM_OOM: (
            _CUDA + r"out of memory",
            _CUDA + r"CUBLAS_STATUS_ALLOC_FAILED",
            r"allocating [\d.]+ MiB on device \d+: cudaMalloc failed: out of memory",  # ggml
            r"failed to allocate CUDA\d+ buffer of size",  # ggml
            r"error loading model: unable to allocate CUDA\d+ buffer",  # llama.cpp
            rf"{_RAISED}CUDA out of memory",  # PyTorch
            r"Cuda failure (?:\d+ )?'out of memory'",  # NCCL
        ),
        Mark.VRAM_SHORT: (
            rf"{_RAISED}No available memory for the cache blocks",  # vLLM
            rf"{_RAISED}Free memory on device .{{0,60}}is less than desired GPU memory utilization",  # vLLM
            rf"{_RAISED}To serve at least one request with the models?'s max seq len",  # vLLM
            rf"{_RAISED}The model's max seq len \(\d+\) is larger than the maximum number of tokens",  # older vLLM
            rf"{_RAISED}Not enough memory to handle ",  # TGI
        ),
        Mark.HOST_OOM: (
            r"terminate called after throwing an instance of 'std::bad_alloc'",  # C++'s runtime
            rf"{_RAISED}std::bad_alloc",
            rf"{_BEGIN}\w+: error loading model: std::bad_alloc",  # llama.cpp
            rf"{_BEGIN}\w+: insufficient memory \(attempted to allocate",  # ggml
            r"failed to allocate CPU buffer of size",  # ggml
            r"error loading model: unable to allocate CPU buffer",  # llama.cpp
            r"mmap failed: Cannot allocate memory",  # llama.cpp
            rf"{_RAISED}\[Errno 12\] Cannot allocate memory",  # Python
            r"(?:^|[\s\]])MemoryError(?:$|: )",  # Python
            r"^Killed$",  # a shell
        ),
        Mark.GPU_FAULT: (
            _CUDA + r"an illegal (?:memory access|instruction) was encountered",
            _CUDA + r"(?:unspecified launch failure|misaligned address|invalid program counter)",
            _CUDA + r"(?:device-side assert triggered|the launch timed out and was terminated)",
            _CUDA + r"CUBLAS_STATUS_EXECUTION_FAILED",
        ),
        Mark.BAD_FLAG: (
            rf"{_BEGIN}error: (?:invalid|unknown) argument",  # llama.cpp
            rf"{_BEGIN}error while handling argument ",  # llama.cpp
            r"^(?:[\w.-]+(?: \w+)?: )?error: (?:unrecognized arguments|argument )",  # argparse: vLLM, the trial engine
            r"^error: (?:unexpected argument|invalid value) ",  # clap: TGI
            r"^tritonserver: unrecognized option",  # getopt: Triton
        ),
        Mark.BAD_MODEL: (
            r"error loading model: (?:unknown model architecture|error loading model (?:architecture|vocabulary))",
            r"error loading model: .{0,80}(?:tensor|corrupted|not within the file bounds|missing)",  # llama.cpp
            rf"(?:{_RAISED}|Value error, )Model architectures .{{0,200}}are not supported",  # vLLM
        ),
        Mark.MODEL_FAILED: (
            rf"{_BEGIN}(?:\w{{3,4}} +)?\w+: (?:error loading model: |failed to load model)",  # llama.cpp
            rf"{_BEGIN}(?:\w{{3,4}} +)?\w+: failed to create.context",  # llama.cpp
            rf"{_BEGIN}.{{0,80}}exiting due to model loading error",  # llama-server
            r"failed to load '[^']+' version \d+: ",  # Triton
        ),
        Mark.LIBRARY: (r"error while loading shared libraries: (?!libcuda\.so)",),  # the dynamic linker
        Mark.PORT_TAKEN: (
            r"couldn't bind HTTP server socket",  # llama-server
            r"\[Errno 98\] (?:error while attempting to bind|Address already in use)",  # Python
            r"Socket '[^']+' already in use",  # Triton
        ),
        Mark.NCCL: (rf"{_RAISED}NCCL error", r"NCCL WARN .{0,200}(?:failure|failed)"),  # PyTorch, NCCL
        Mark.WORKER_DIED: (
            r"EngineDeadError: ",  # vLLM
            rf"{_RAISED}Engine core initialization failed",  # vLLM
            r"Shard process was signaled to shutdown with signal",  # TGI's launcher
            r"(?:Shard \d+ failed to start|Error: ShardCannotStart)",  # TGI's launcher
            r"Stub process .{0,80}is not healthy",  # Triton's Python backend
        ),
    }
)
# Each by itself: alternatives of one pattern would all be tried at every character.
RECOGNIZERS = tuple((mark, re.compile(pattern)) for mark, patterns in _PATTERNS.items() for pattern in patterns)
_TELLING = (
    *("rror", "ailed", "Exception: ", "UserWarning: CUDA", "Cuda failure", "not enough cuda devices", "ERROR: CUDA"),
    *("NVRM: ", "NVML_ERROR", "NCCL WARN ", "Driver/library version mismatch"),
    *("std::bad_alloc", "insufficient memory", "Killed", "unrecognized option"),
    *("couldn't bind", "[Errno 98]", "already in use", "Shard process", "is not healthy"),
)
"""What no line lacks that a pattern matches: the lines of an engine that works have none of it, and cost no more."""
# vLLM, TGI and llama.cpp print requests only when they are told to: what a client wrote is not the engine's.
_QUOTES_A_REQUEST = re.compile(
    r"""Received request |prompt(?:_text)?['"]?\s*[:=]|inputs['"]?\s*[:=]\s*['"]"""
    r"""|["'](?:content|messages|text_input)["']\s*:"""
)


def may_mark(line: str) -> bool:
    """Whether the patterns are worth trying."""
    return any(text in line for text in _TELLING)


def marks_in(line: str) -> frozenset[Mark]:
    """What a line of an engine's output shows; as a rule nothing."""
    line = line[:MAX_CHARS]
    if not may_mark(line):
        return frozenset()
    found = frozenset(mark for mark, pattern in RECOGNIZERS if pattern.search(line))
    if not found or _QUOTES_A_REQUEST.search(line):
        return frozenset()
    return found
