"""A provisioner with directories of its own, for the tests."""

import functools
from pathlib import Path

import msgspec
import pytest

from catalog_core.models import FsModelCatalog
from contracts.engines import ResolvedModel
from model_provisioner.errors import ModelError
from model_provisioner.provenance import known_models
from model_provisioner.provisioner import ModelProvisioner

NOW = 1_700_000_000_000


class Place:
    """A provisioner with its directories, and the lines of progress that it gave."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lines: list[str] = []
        self.models = root / "models"
        self.models.mkdir()
        self.provenance = root / "data/provenance"
        self.catalog = FsModelCatalog(root / "data/catalog", discover=functools.partial(known_models, self.provenance))

    def provisioner(self, now_ms: int = NOW) -> ModelProvisioner:
        return ModelProvisioner(
            cache_dir=self.root / "cache",
            catalog=self.catalog,
            provenance=self.provenance,
            base_dir=self.models,
            clock=lambda: now_ms,
        )

    async def ensure(self, ref: str, digest: str | None = None) -> ResolvedModel:
        return await self.provisioner().ensure_present(ref, digest, self.lines.append)

    async def refuse(self, ref: str, digest: str | None = None) -> ModelError:
        before = self.state()
        with pytest.raises(ModelError) as caught:
            await self.ensure(ref, digest)
        assert self.state() == before, "a failure left something behind"
        assert caught.value.render() == f"{caught.value.cause}: {caught.value.message}\n  hint: {caught.value.hint}"
        return caught.value

    def state(self) -> dict[str, bytes]:
        """What lasts, and the user's own files. Digests are a cache; a lock or an empty journal says nothing."""
        files = [path for path in self.root.rglob("*") if path.is_file() and path.suffix != ".lock"]
        files = [path for path in files if path.stat().st_size or path.suffix != ".jsonl"]
        return {str(path): path.read_bytes() for path in files if path.name != "digests.json"}

    def journal(self) -> list[dict[str, object]]:
        return [msgspec.json.decode(line) for line in (self.provenance / "models.jsonl").read_bytes().splitlines()]
