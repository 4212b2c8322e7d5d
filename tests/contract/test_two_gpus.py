"""docs/two-gpus.md is right about what fits: its configurations and its table are held to what refuses a start.

The models are those of the page, by what their files say of themselves; no file is here. The cards are free but for
what a driver keeps for itself.
"""

from __future__ import annotations

import re

import pytest

from contracts.base import Message
from contracts.config import Engine, Pool
from contracts.engines import KvLayout, ResolvedModel
from contracts.pools import Gpu
from daemon_core.config_file import parse
from pool_managerd.vram import estimate, refusal
from tests.contract.blocks import ROOT, blocks

pytestmark = pytest.mark.req("OP-02", "PM-05")

PAGE = (ROOT / "docs/two-gpus.md").read_text(encoding="utf-8")
GIB = 1 << 30
KEPT = GIB // 2
"""What driver and desktop take of a card before anybody comes."""
LARGE, SMALL = (
    Gpu(
        index=number,
        uuid=f"GPU-{number}",
        name=f"{gib} GB",
        vram_total_bytes=gib * GIB,
        vram_used_bytes=KEPT,
        driver="550",
    )
    for number, gib in enumerate((24, 12))
)


class Known(Message, frozen=True, kw_only=True):
    """A model as its file tells it."""

    name: str
    size: int
    layers: int
    embedding: int
    vocabulary: int
    kv_heads: int = 8
    head_size: int = 128

    @property
    def resolved(self) -> ResolvedModel:
        one = self.layers * self.kv_heads * self.head_size
        return ResolvedModel(
            id=self.name,
            ref=self.name,
            local_path=f"/{self.name}.gguf",
            size_bytes=self.size,
            digest=f"sha256:{'0' * 64}",
            layers=self.layers,
            embedding=self.embedding,
            vocabulary=self.vocabulary,
            kv=KvLayout(key=one, value=one),
        )


MODELS = {
    "Llama 3.2 3B": Known(name="Llama-3.2-3B", size=2_019_377_696, layers=28, embedding=3072, vocabulary=128_256),
    "Llama 3.1 8B": Known(name="Meta-Llama-3.1-8B", size=4_920_739_232, layers=32, embedding=4096, vocabulary=128_256),
    "Qwen 2.5 14B": Known(name="Qwen2.5-14B", size=8_988_110_976, layers=48, embedding=5120, vocabulary=152_064),
    "Qwen 2.5 32B": Known(name="Qwen2.5-32B", size=19_851_336_576, layers=64, embedding=5120, vocabulary=152_064),
}
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in PAGE.splitlines()
    if line.startswith(("| Llama", "| Qwen"))
]
CELL = re.compile(r"(?P<slots>\d+) slots? of (?P<thousands>\d+)k: (?P<gib>\d+) GiB(?P<tight>, tight)?")


def pools() -> list[Pool]:
    pages = [block for block in blocks("yaml") if block.page == "docs/two-gpus.md"]
    found: list[Pool] = []
    for block in pages:
        whole = block.text if "profile:" in block.text else f"profile: home\n{block.text}"
        found += parse(whole, block.id).pools
    return found


def model_of(pool: Pool) -> ResolvedModel:
    return next(known.resolved for known in MODELS.values() if known.name in pool.model)


@pytest.mark.parametrize("pool", pools(), ids=lambda pool: pool.id)
def test_each_pool_of_the_page_fits_where_it_says(pool: Pool) -> None:
    gpus = [(LARGE, SMALL)[int(device)] for device in pool.devices]
    need = estimate(model_of(pool), pool)
    assert need is not None
    assert refusal(need, gpus, pool.tensor_split) is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
def test_each_row_of_the_table_is_what_the_product_computes(row: list[str]) -> None:
    name, file, cache, large, small = row
    known = MODELS[name.partition(",")[0]]
    assert file == f"{known.size / GIB:.1f} GiB"
    assert cache == f"{4 * known.layers * known.kv_heads * known.head_size * 8192 / GIB:.1f} GiB"
    for cell, gpu in ((large, LARGE), (small, SMALL)):
        if (said := CELL.match(cell)) is None:
            assert cell == "no"
            assert known.size > gpu.vram_total_bytes
            continue
        pool = Pool(
            id="one",
            engine=Engine.LLAMACPP,
            model=known.name,
            devices=(0,),
            ctx=1024 * int(said["thousands"]),
            slots=int(said["slots"]),
        )
        need = estimate(known.resolved, pool)
        assert need is not None
        assert refusal(need, [gpu]) is None
        assert said["gib"] == f"{need.total_bytes / GIB:.0f}"
        left = gpu.vram_total_bytes - gpu.vram_used_bytes - need.total_bytes
        assert (left < GIB) == (said["tight"] is not None)
