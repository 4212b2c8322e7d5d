"""The real vLLM, built for CPUs, as a child of a test. It takes half a minute of a whole processor to start.

So share one where you can, and have those that a test or a module needs start at the same time.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.engine_process import ENVIRONMENTS, EngineProcess
from tests.support.ports import free_ports

READY_S = 300.0
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


def hf_models(factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Two tiny Llamas of different weights, made once for all tests of a run."""
    return _made(factory.getbasetemp() / "hf-one", factory.getbasetemp() / "hf-other", layers=2, width=64)


def slow_hf_model(factory: pytest.TempPathFactory) -> Path:
    """A Llama that takes some ten milliseconds for a token. It is 170 MB large, and made once for all tests of a run.

    With a tiny one the worker makes tokens faster than vLLM's own server passes them on, and as that is never without
    one to take, it comes to nothing else: who listens may get the first one when the last has been made.
    """
    return _made(factory.getbasetemp() / "hf-slow", layers=16, width=512)[0]


def _made(*folders: Path, layers: int, width: int) -> tuple[Path, ...]:
    if not folders[-1].exists():
        argv: list[str | Path] = [PYTHON, MAKER, "1", str(layers), str(width), *folders]
        subprocess.run(argv, check=True, capture_output=True, env=ENVIRON)
    return folders


@contextmanager
def real_vllms(home: Path, *starts: tuple[Path, *tuple[str, ...]]) -> Iterator[tuple[RealVllm, ...]]:
    """Servers of these models, with these options, named SERVED_AS; gone with their workers when the block ends.

    Each has a home of its own below ``home``.
    """
    with ExitStack() as stack:
        servers = []
        for number, (port, start) in enumerate(zip(free_ports(len(starts)), starts, strict=True)):
            own = home / f"server-{number}"
            own.mkdir(parents=True)
            servers.append((stack.enter_context(_process(own, port, *start)), port))
        for process, port in servers:
            process.said("Application startup complete", within_s=READY_S)
            process.listens(port, within_s=READY_S)
            process.note_memory()
        yield tuple(RealVllm(process, f"http://127.0.0.1:{port}") for process, port in servers)


def _process(home: Path, port: int, model: Path, *options: str) -> EngineProcess:
    argv: list[str | Path] = ["nice", PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    argv += [f"--served-model-name={SERVED_AS}", "--host=127.0.0.1", f"--port={port}", f"--max-model-len={CONTEXT}"]
    argv += ["--dtype=float32", "--enforce-eager", *options]
    return EngineProcess(argv, {**ENVIRON, "HOME": home}, cwd=home)
