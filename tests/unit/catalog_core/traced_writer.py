"""Changes a catalog in children that die, or find the disk full, at a system call that the test chooses.

Standard input: one Order as JSON per line. Standard output: the Outcome of each as a JSON array.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from catalog_core.engines import FsEngineCatalog
from catalog_core.errors import CatalogError
from catalog_core.index import Index
from catalog_core.journal import append_line
from catalog_core.models import FsModelCatalog
from contracts.config import Engine, Models
from contracts.engines import EngineEntry, ModelEntry, ModelState
from model_provisioner.cache import ModelCache
from model_provisioner.errors import ModelError
from model_provisioner.provenance import FILE, Provenance
from tests.support import syscalls


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One change. ``kind`` is models, engines, provenance or cache; ``act`` what is done to it."""

    root: str
    kind: str
    act: str
    name: str = ""
    number: int = 0
    kill_at: int | None = None
    full_at: int | None = None


def model(name: str, number: int) -> ModelEntry:
    return ModelEntry(
        id=name, ref=f"{name}.gguf", local_path=f"/{name}.gguf", size_bytes=number, digest=f"sha256:{number}"
    )


def engine(name: str, number: int) -> EngineEntry:
    return EngineEntry(id=name, engine=Engine.LLAMACPP, version=f"b{number}", build_flags=("-DGGML_CUDA=ON",))


def line(name: str, number: int) -> Provenance:
    return Provenance(at_ms=number, id=name, ref=name, resolved=f"/{name}", digest="sha256:0", size_bytes=number)


def older_engines(root: Path) -> Index[EngineEntry]:
    """The engines' index as a later version will have it, one schema on: it has none to convert from yet."""
    return Index(root / "engines.json", EngineEntry, steps={1: lambda entry: {**entry, "version": "converted"}})


def cache(root: Path) -> ModelCache:
    settings = Models(max_bytes=100)
    catalog = FsModelCatalog(root / "catalog")
    return ModelCache(
        root / "cache", catalog, settings=settings, journal=root / "log", base_dir=root, clock=lambda: 1 << 41
    )


def work_of(order: Order) -> Callable[[], object]:
    root, name = Path(order.root), order.name
    models, engines = FsModelCatalog(root), FsEngineCatalog(root)
    match order.kind, order.act:
        case "provenance", "put":
            return partial(append_line, root / FILE, line(name, order.number))
        case "models", "put":
            return partial(models.put, model(name, order.number), now_ms=1)
        case "models", "set_state":
            return partial(models.set_state, name, ModelState.RETIRED if order.number % 2 else ModelState.ACTIVE)
        case "models", "delete":
            return partial(models.delete, name)
        case "models", "recover" | "convert":
            return models.recover
        case "cache", "make_room":
            return partial(cache(root).make_room, order.number, root / "cache/hf/new")
        case "engines", "put":
            return partial(engines.put, engine(name, order.number), now_ms=1)
        case "engines", "delete":
            return partial(engines.delete, name)
        case "engines", "recover":
            return engines.recover
        case "engines", "convert":
            return older_engines(root).recover
        case _:
            raise AssertionError(order)


def main() -> None:
    for text in sys.stdin:
        order = msgspec.json.decode(text, type=Order)
        expected = (CatalogError, ModelError)
        found = syscalls.run(work_of(order), expected, kill_at=order.kill_at, full_at=order.full_at)
        sys.stdout.write(f'["{found.ended}", {found.calls}, {found.writes}]\n')
        sys.stdout.flush()


if __name__ == "__main__":
    main()
