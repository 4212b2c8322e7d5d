"""A process that pulls one model, to be killed in the middle.

As a program (``python -m``): has the model of ``--ref`` in the cache below ``--root``, where addresses of the loopback
are allowed, and prints each line of progress as it comes. With ``--measured`` it ends with the
memory that it took.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from catalog_core.models import FsModelCatalog
from contracts.config import Outbound, Policy
from contracts.engines import ResolvedModel
from model_provisioner.errors import ModelError
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.provenance import known_models
from model_provisioner.provisioner import ModelProvisioner

LOOPBACK = Policy(outbound=Outbound(allow=("127.0.0.1",)))


def catalog_at(root: Path) -> FsModelCatalog:
    return FsModelCatalog(root / "catalog", discover=functools.partial(known_models, root / "provenance"))


def provisioner_at(root: Path, policy: Policy = LOOPBACK) -> ModelProvisioner:
    return ModelProvisioner(
        root / "models",
        catalog_at(root),
        root / "provenance",
        root,
        lambda: 1_700_000_000_000,
        gate=OutboundGate(policy=policy),
    )


async def pull(
    root: Path,
    ref: str,
    progress: Callable[[str], None] = lambda _: None,
    digest: str | None = None,
    *,
    refresh: bool = False,
) -> ResolvedModel:
    return await provisioner_at(root).ensure_present(ref, digest, progress, refresh=refresh)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--ref", required=True)
    parser.add_argument("--measured", action="store_true")
    arguments = parser.parse_args()
    before = _memory_kib("VmRSS")
    try:
        asyncio.run(pull(arguments.root, arguments.ref, lambda line: print(line, flush=True)))  # noqa: T201
    except ModelError as error:
        sys.exit(error.render())
    if arguments.measured:
        print(f"memory: {before} KiB before, {_memory_kib('VmHWM')} KiB at most")  # noqa: T201


def _memory_kib(name: str) -> int:
    """What the kernel says of this process: ``VmRSS`` is what it holds, ``VmHWM`` the most that it ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@asynccontextmanager
async def child(
    root: Path, ref: str, environ: Mapping[str, str] = os.environ, *, measured: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that pulls; gone at the end, whatever happens."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __spec__.name, "--root", str(root), "--ref", ref),
        *(("--measured",) if measured else ()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env=dict(environ),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


if __name__ == "__main__":
    main()
