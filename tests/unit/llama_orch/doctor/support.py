"""What the tests of the judges share."""

from collections.abc import Sequence

from contracts.config import Pool
from contracts.pools import Gpu
from daemon_core.config_file import parse
from llama_orch.doctor.base import Result, Status

DEBIAN = {"ID": "debian"}
ARCH = {"ID": "cachyos", "ID_LIKE": "arch"}
FEDORA = {"ID": "fedora"}
GIB = 1 << 30


def ids(results: Sequence[Result]) -> list[str]:
    """What was found; each failure and note has its reason and its mend."""
    for result in results:
        told = result.status in {Status.FAILED, Status.NOTE}
        assert (result.why is not None and result.mend is not None) is told, result
    return [result.id for result in results]


def pools(*texts: str) -> tuple[Pool, ...]:
    """Pools, each from the inside of its braces."""
    listed = "".join(f"  - {{id: p{number}, {text}}}\n" for number, text in enumerate(texts))
    return parse(f"pools:\n{listed}", "config.yaml").pools


def gpu(index: int = 0, capability: str | None = "8.6", name: str = "RTX 3090") -> Gpu:
    """A GPU."""
    return Gpu(
        index=index,
        uuid=f"GPU-00000000-0000-0000-0000-00000000000{index}",
        name=name,
        vram_total_bytes=24 * GIB,
        vram_used_bytes=0,
        driver="550.163.01",
        compute_capability=capability,
    )
