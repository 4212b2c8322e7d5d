"""What a start of this daemon does not wait for."""

from __future__ import annotations

from tests.support.imports import imported_by

NEEDED_LATER = frozenset({"huggingface_hub.file_download", "httpx", "httpx2", "filelock", "tqdm"})
"""What addresses a file of the hub, and the HTTP client that comes along and is never used."""


def test_a_start_imports_nothing_that_only_a_pull_needs() -> None:
    assert imported_by("pool_managerd.app") & NEEDED_LATER == frozenset()
