"""The real tritonserver as a child of a test, with the models of ``triton_toy``."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from tests.support.engine_process import ENVIRONMENTS, EngineProcess
from tests.support.ports import free_ports

READY_S = 60.0
SHARED_MEMORY = Path("/dev/shm")
MODEL = Path(__file__).with_name("triton_toy.py")
STUB = "triton_python_backend_stub"
PLAIN = {
    "max_tokens": "TYPE_INT32",
    "temperature": "TYPE_FP32",
    "seed": "TYPE_UINT64",
    "stop": "TYPE_STRING",
    "stream": "TYPE_BOOL",
}
"""A model of somebody's own: every parameter is an input."""
VLLM_BACKEND = {
    "stream": "TYPE_BOOL",
    "sampling_parameters": "TYPE_STRING",
    "exclude_input_in_output": "TYPE_BOOL",
    "return_finish_reason": "TYPE_BOOL",
    "return_num_input_tokens": "TYPE_BOOL",
    "return_num_output_tokens": "TYPE_BOOL",
}
"""The inputs of Triton's vLLM backend."""
COUNTS = {"finish_reason": "TYPE_STRING", "num_input_tokens": "TYPE_UINT32", "num_output_tokens": "TYPE_UINT32"}
"""The outputs that go with them."""


class RealTriton:
    """One running server."""

    def __init__(self, process: EngineProcess, url: str) -> None:
        self.process = process
        self.url = url

    def stubs(self) -> list[int]:
        """The processes in which the models run."""
        return self.process.children(STUB)


@contextmanager
def real_triton(repository: Path, *options: str) -> Iterator[RealTriton]:
    """A server that serves what is in the folder; gone with its stubs and its shared memory when the block ends."""
    home = ENVIRONMENTS / "triton"
    packages = next(home.glob("lib/python*/site-packages"))
    server = packages / "pytriton" / "tritonserver"
    ports = free_ports(2)
    region = f"llama-orch-test-{uuid.uuid4().hex[:12]}"
    argv: list[str | Path] = [
        server / "bin" / "tritonserver",
        f"--backend-directory={server / 'backends'}",
        f"--model-repository={repository}",
        f"--backend-config=python,shm-region-prefix-name={region}",
        "--allow-grpc=false",
        "--http-address=127.0.0.1",
        f"--http-port={ports[0]}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports[1]}",
        *options,
    ]
    environ = {
        # The stub asks the first python3 of PATH where its packages are.
        "PATH": f"{home / 'bin'}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{(home / 'libpython').read_text().strip()}",
    }
    try:
        with EngineProcess(argv, environ, cwd=repository) as process:
            process.said("Started Metrics Service", within_s=READY_S)
            yield RealTriton(process, f"http://127.0.0.1:{ports[0]}")
    finally:
        for left in SHARED_MEMORY.glob(f"*{region}*"):
            left.unlink()


def write_toy(
    repository: Path,
    name: str = "toy",
    *,
    build: str = "1",
    inputs: Mapping[str, str] = PLAIN,
    outputs: Mapping[str, str] = MappingProxyType({}),
    gate: Path | None = None,
) -> Path:
    """Adds a model to the folder, and answers with the folder.

    Another ``build`` draws other words. One with a ``gate`` is not loaded before that file is there.
    """
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    shutil.copy(MODEL, folder / "model.py")
    lines = [
        f'name: "{name}"',
        'backend: "python"',
        "model_transaction_policy { decoupled: True }",
        "instance_group [ { kind: KIND_CPU count: 1 } ]",
        f'parameters {{ key: "build" value {{ string_value: "{build}" }} }}',
        f'parameters {{ key: "gate" value {{ string_value: "{gate or ""}" }} }}',
        'input { name: "text_input" data_type: TYPE_STRING dims: [1] }',
        'output { name: "text_output" data_type: TYPE_STRING dims: [1] }',
    ]
    for key, kind in inputs.items():
        dims = "-1" if key == "stop" else "1"
        lines.append(f'input {{ name: "{key}" data_type: {kind} dims: [{dims}] optional: true }}')
    lines += [f'output {{ name: "{key}" data_type: {kind} dims: [1] }}' for key, kind in outputs.items()]
    (repository / name / "config.pbtxt").write_text("\n".join(lines) + "\n")
    return repository
