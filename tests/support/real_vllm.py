"""The real vLLM, built for CPUs, as a child of a test. It takes half a minute to start: share one where you can."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.engine_process import ENVIRONMENTS, EngineProcess
from tests.support.ports import free_port

READY_S = 180.0
CONTEXT = 2048
MAKER = Path(__file__).with_name("tiny_hf_llama.py")
SERVED_AS = "tiny"
PYTHON = ENVIRONMENTS / "vllm" / "bin" / "python"
ENVIRON = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
}


class RealVllm:
    """One running server."""

    def __init__(self, process: EngineProcess, url: str) -> None:
        self.process = process
        self.url = url

    def workers(self) -> list[int]:
        """The processes that compute."""
        return self.process.children("EngineCore")


def hf_models(factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two tiny Llamas of different weights, made once for all tests of a run."""
    made = factory.getbasetemp() / "hf-one", factory.getbasetemp() / "hf-other"
    if not made[1].exists():
        argv = [str(PYTHON), str(MAKER), *(f"{folder}={seed}" for seed, folder in enumerate(made, start=1))]
        subprocess.run(argv, check=True, capture_output=True, env=ENVIRON)
    return made


@contextmanager
def real_vllm(model: Path, *options: str, home: Path) -> Iterator[RealVllm]:
    """A server with this model, named SERVED_AS; gone with its workers when the block ends. ``home`` is its."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv: list[str | Path] = ["nice", PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    argv += [f"--served-model-name={SERVED_AS}", "--host=127.0.0.1", f"--port={port}", f"--max-model-len={CONTEXT}"]
    argv += ["--dtype=float32", "--enforce-eager", *options]
    with EngineProcess(argv, {**ENVIRON, "HOME": home}, cwd=home) as process:
        process.said("Application startup complete", within_s=READY_S)
        process.listens(port, within_s=READY_S)
        process.note_memory()
        yield RealVllm(process, f"http://127.0.0.1:{port}")
