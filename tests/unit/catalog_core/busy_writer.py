"""Puts models into a catalog until it is killed, or as many as it is told to. Says each id when it is written.

Arguments: the catalog's root, a prefix for the ids, how many (0: no end).
"""

import sys
from itertools import count
from pathlib import Path

from catalog_core.models import FsModelCatalog
from contracts.engines import ModelEntry


def main(root: Path, prefix: str, limit: int) -> None:
    catalog = FsModelCatalog(root, lock_wait_s=60)
    for number in count(1):
        name = f"{prefix}-{number}"
        entry = ModelEntry(
            id=name, ref=name, local_path=f"/models/{name}.gguf", size_bytes=number, digest="sha256:" + "0" * 64
        )
        catalog.put(entry, now_ms=number)
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
        if number == limit:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
