"""A provisioner that may speak to servers of this machine, and a child process that pulls a model.

As a program (``python -m``): brings ``--ref`` below ``--root`` and prints each line of progress as it comes, at last
the digest. ``--largest`` is the most bytes that a file may have, ``--spare`` what is left free on the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import resource
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tenacity import wait_none

from catalog_core.models import FsModelCatalog
from contracts.config import Engine, Outbound, Policy
from contracts.engines import ResolvedModel
from model_provisioner import transfer
from model_provisioner.errors import ModelError
from model_provisioner.outbound_gate import OutboundGate, lookup
from model_provisioner.provenance import known_models
from model_provisioner.provisioner import ModelProvisioner
from model_provisioner.sources.base import Transferred
from model_provisioner.transfer import Transfer
from model_provisioner.web import Patience

NOW = 1_700_000_000_000
HERE = Policy(outbound=Outbound(allow=("127.0.0.1",)))
"""A policy that names the servers of the tests, which are at a private address."""


class Puller:
    """Pulls to one place, and keeps what was said."""

    def __init__(self, root: Path, tls: ssl.SSLContext | None = None) -> None:
        self.root = root
        self.tls = tls
        self.policy = HERE
        self.lookup = lookup
        self.environ: dict[str, str] = {}
        self.said: list[str] = []
        self.far: list[Transferred] = []
        self._reactions: list[tuple[str, Callable[[], None]]] = []
        self.going = asyncio.Event()
        """Some bytes have arrived, and are on the disk."""
        self.cache = root / "cache"
        self.provenance = root / "data/provenance"
        self.catalog = FsModelCatalog(root / "data/catalog", discover=functools.partial(known_models, self.provenance))

    def on(self, words: str, then: Callable[[], None]) -> None:
        """Do something when a line with these words is said."""
        self._reactions.append((words, then))

    def say(self, line: str) -> None:
        self.said.append(line)
        for words, then in self._reactions:
            if words in line:
                then()
        if line.startswith("downloaded "):
            self.going.set()

    def gate(self) -> OutboundGate:
        return OutboundGate(policy=self.policy, environ=self.environ, tls=self.tls, lookup=self.lookup)

    def provisioner(self, silence_s: float = 20.0) -> ModelProvisioner:
        one = Transfer(self.gate(), patience=Patience(silence_s=silence_s), pause=wait_none())
        return ModelProvisioner(
            cache_dir=self.cache,
            catalog=self.catalog,
            provenance=self.provenance,
            base_dir=self.root,
            clock=lambda: NOW,
            gate=self.gate(),
            environ=self.environ,
            transfer=one,
        )

    async def pull(
        self, ref: str, digest: str | None = None, *, engine: Engine | None = None, refresh: bool = False
    ) -> ResolvedModel:
        return await self.provisioner().ensure_present(
            ref, digest, self.say, engine, refresh=refresh, transferred=self.far.append
        )

    async def refusal(self, ref: str, digest: str | None = None, *, engine: Engine | None = None) -> ModelError:
        """What is refused; nothing of it is in the catalog."""
        before = self.catalog.list()
        with pytest.raises(ModelError) as caught:
            await self.pull(ref, digest, engine=engine)
        assert self.catalog.list() == before
        return caught.value

    def left(self, *suffixes: str) -> list[str]:
        """The files of models below the cache; locks, notes and remembered digests are none."""
        files = [path.relative_to(self.cache) for path in self.cache.rglob("*") if path.is_file()]
        return sorted(
            str(path)
            for path in files
            if not path.parts[0].startswith(".") and not path.name.startswith("digests.json")
            if not suffixes or path.name.endswith(suffixes)
        )

    def journal(self) -> list[dict[str, object]]:
        return [msgspec.json.decode(line) for line in (self.provenance / "models.jsonl").read_bytes().splitlines()]

    def everything(self) -> bytes:
        """All that was written, and what it is called; models left out."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return b"\n".join([str(path).encode() + b"\n" + path.read_bytes()[:100_000] for path in files])


@asynccontextmanager
async def child(
    root: Path, ref: str, *more: str, env: Mapping[str, str] | None = None, before: tuple[str, ...] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that pulls; gone at the end, whatever happens. ``before`` is a program that starts it."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        *(*before, sys.executable, "-m", __spec__.name, "--ref", ref, "--root", str(root), *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={**inherited, **(env or {})},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(process: asyncio.subprocess.Process, words: str) -> str:
    """The first line of a process that has these words."""
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(50):
        while line := (await process.stdout.readline()).decode():
            said += line
            if words in line:
                return line
    raise AssertionError(f"{words!r} was never said:\n{said}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ref", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--largest", type=int)
    parser.add_argument("--sha256")
    parser.add_argument("--spare", type=int)
    arguments = parser.parse_args()
    if arguments.spare is not None:
        transfer.SPARE_BYTES = arguments.spare
    if arguments.largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.largest, arguments.largest))
    puller = Puller(arguments.root)
    puller.environ = dict(os.environ)

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201 - the parent reads it

    try:
        model = asyncio.run(puller.provisioner().ensure_present(arguments.ref, arguments.sha256, say))
    except ModelError as error:
        sys.exit(error.render())
    say(f"it has {model.digest}")


if __name__ == "__main__":
    main()
