"""A machine made to order: its PATH, its GPUs and its catalog are the test's, the programs on it are real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from catalog_core.engines import FsEngineCatalog
from contracts.config import Binary, Engine, Mode, Package, Pool, Provisioning
from contracts.pools import Gpu
from engine_provisioner.host import Host
from tests.support.loops import Factories, asyncio_alone, every_loop

HELP = """usage: llama-server [options]

----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-m,    --model FNAME                    model path to load
--list-devices                          print list of available devices and exit
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory
--host HOST                             ip address to listen, see also --not-a-flag
--port PORT                             port to listen (default: 9931)
--cors-origins ORIGINS                  comma-separated list of allowed origins
--ui, --webui, --no-ui, --no-webui      whether to enable the Web UI
--metrics                               enable prometheus compatible metrics endpoint
"""
NEW_VERSION = "version: 0.5.0-dev (build 11549, commit 9a9394a89)\nbuilt with GNU 12.2.0 for Linux x86_64"
OLD_VERSION = "version: 4621 (6eecde3)\nbuilt with cc (Ubuntu 13.3.0) 13.3.0 for x86_64-linux-gnu"
CUDA = "Available devices:\n  CUDA0: NVIDIA GeForce RTX 3090 (24135 MiB, 23860 MiB free)"

GPUS = tuple(
    Gpu(
        index=index,
        uuid=f"GPU-{index}f2c0000-aaaa-bbbb-cccc-000000000000",
        name="NVIDIA GeForce RTX 3090",
        vram_total_bytes=24 << 30,
        vram_used_bytes=0,
        driver="580.1",
    )
    for index in (0, 1)
)


def pytest_asyncio_loop_factories(item: pytest.Item) -> Factories:
    """Commands end differently on uvloop: those of test_host run on every loop that the product runs on."""
    return every_loop() if item.path.name == "test_host.py" else asyncio_alone()


MakeHost = Callable[..., Host]
MakeServer = Callable[..., Path]


@pytest.fixture
def make_host(tmp_path: Path) -> MakeHost:
    """A host with an empty PATH and two GPUs, of a driver that does not tell its CUDA; keywords replace its parts."""

    def make(**parts: object) -> Host:
        chosen: dict[str, object] = {
            "environ": {"PATH": str(tmp_path / "bin")},
            "catalog": FsEngineCatalog(tmp_path / "catalog"),
            "cache": tmp_path / "cache",
            "now_ms": lambda: 1_700_000_000_000,
            "gpus": lambda: GPUS,
            "driver": lambda: None,
            "os_release": tmp_path / "no-os-release",
        }
        return Host(**(chosen | parts))  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_server(tmp_path: Path) -> MakeServer:
    """An executable that answers as llama-server does."""

    def make(
        name: str = "bin/llama-server",
        *,
        version: str = NEW_VERSION,
        help_text: str = HELP,
        devices: str = CUDA,
        script: str | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        answers = {"--version": version, "--help": help_text, "--list-devices": devices}
        arms = "".join(f"{flag}) /bin/cat <<'EOF'\n{text}\nEOF\n;;\n" for flag, text in answers.items())
        path.write_text(script or f"#!/bin/sh\ncase $1 in\n{arms}*) exit 1;;\nesac\n")
        path.chmod(0o755)
        return path

    return make


def wheel_pool(**parts: object) -> Pool:
    """A pool of profile trial."""
    provisioning = Provisioning(mode=Mode.PACKAGE, package=Package(name="xllamacpp"))
    return a_pool(**({"provisioning": provisioning, "devices": ()} | parts))


def binary_pool(path: Path | str | None = None, **parts: object) -> Pool:
    """A pool of profile home with a binary of its own."""
    provisioning = Provisioning(mode=Mode.BINARY, binary=Binary(path=str(path) if path else None))
    return a_pool(**({"provisioning": provisioning} | parts))


def a_pool(**parts: object) -> Pool:
    """A pool with one GPU."""
    chosen: dict[str, object] = {"id": "gpu0", "engine": Engine.LLAMACPP, "model": "m.gguf", "devices": (0,)}
    return Pool(**(chosen | parts))  # type: ignore[arg-type]
