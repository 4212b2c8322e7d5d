"""How grave a line is that an engine printed, as far as the line itself shows it.

Decides by the forms that the engines really print: each pattern names who prints it. A word somewhere in a sentence is
no level, and a line that shows none is information. Nothing that an engine prints is below that: whoever had it print
what is for debugging wants to see it.
"""

from __future__ import annotations

import re

from daemon_core.journal_entry import CRITICAL, ERROR, INFO, WARNING

MAX_CHARS = 256
"""Of a line: a level stands at its beginning."""

_LETTERS = {"W": WARNING, "E": ERROR, "F": CRITICAL}
_WORDS = {
    "warn": WARNING,
    "warning": WARNING,
    "error": ERROR,
    "fatal": CRITICAL,
    "critical": CRITICAL,
}
_LETTER = re.compile(
    # llama.cpp with its clock: 0.00.086.165 E srv    load_model: failed to load model
    r"\d[\d.]*\d ([WEF]) "
    # Triton, as glog has it: E1121 12:00:00.000000 1 server.cc:251] ...
    r"|([WEF])\d{4} \d\d:\d\d:\d\d\.\d+ "
)
_WORD = re.compile(
    # vLLM puts its process in front: (EngineCore_DP0 pid=12) ERROR 11-30 12:00:00 [core.py:1]
    r"(?:\([^()]{1,64}\) )?(?:"
    # Python's loggers, and uvicorn: WARNING:  ...
    r"(WARNING|ERROR|CRITICAL|FATAL)[: ]"
    # TGI and Ray: 2026-11-30T12:00:00.000000Z ERROR text_generation_launcher: ...
    r"|\d{4}-\d\d-\d\d[T ][\d:.,]{8,18}(?:Z|[+-]\d\d:?\d\d)? {1,3}\[?(WARN|WARNING|ERROR|CRITICAL|FATAL)\b"
    # What checks llama.cpp's arguments, compilers, linkers: error: invalid argument: --x
    r"|(warning|error|fatal)(?: error)?: "
    # TGI with --json-output: {"timestamp":"...","level":"ERROR", ...
    r'|\{"timestamp":"[^"]{10,40}","level":"(\w{3,8})"'
    # What a Python program dies of: torch.OutOfMemoryError: CUDA out of memory, and its traceback.
    r"|(?:[A-Za-z_]\w{0,40}\.){0,4}[A-Z]\w{0,40}(Error): |(Traceback) \(most recent call last\)"
    r")"
)
# ggml and llama.cpp without a clock name their function: ggml_cuda_init: failed to initialize CUDA: ...
_FUNCTION = re.compile(r"(?:ggml|llama|gguf|alloc_tensor_range|common)\w{0,60}: (?:error|failed|unable)\b")


def level_of(line: str) -> int:
    """The level of ``logging``: information, unless the line says that it is graver."""
    head = line[:MAX_CHARS]
    if (found := _LETTER.match(head)) is not None:
        return _LETTERS[found[1] or found[2]]
    if (found := _WORD.match(head)) is not None:
        word = found[found.lastindex or 0].lower()
        return ERROR if word == "traceback" else _WORDS.get(word, INFO)
    return ERROR if _FUNCTION.match(head) is not None else INFO
