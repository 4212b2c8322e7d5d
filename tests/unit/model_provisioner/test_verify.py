"""A model is read again, and what follows from what is found."""

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from catalog_core.models import FsModelCatalog
from contracts.catalog import VerifyReason, VerifyResult
from contracts.config import Models
from contracts.engines import ModelEntry, ModelState
from model_provisioner.cache import ModelCache
from model_provisioner.digest import DigestMemory, Identity
from model_provisioner.errors import ModelError
from model_provisioner.verdict import Verdict
from model_provisioner.verify import ModelVerifier
from tests.plugins.failures import OperatorSees
from tests.unit.model_provisioner.heads import head, tensor, write_directory, write_model

NOW = 1_800_000_000_000


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "cache/models"
        self.models.mkdir(parents=True)
        self.journal = root / "provenance"
        self.catalog = FsModelCatalog(root / "catalog")
        self.digests = DigestMemory(self.models / "digests.json")
        cache = ModelCache(
            self.models, self.catalog, settings=Models(), journal=self.journal, base_dir=root, clock=lambda: NOW
        )
        self.verifier = ModelVerifier(self.catalog, cache, self.digests, journal=self.journal, clock=lambda: NOW)
        self.lines: list[str] = []

    def model(self, *, fetched: bool = True, **more: object) -> Path:
        (self.models / "hf/org/haiku/rev").mkdir(parents=True)
        path = write_model(self.models / "hf/org/haiku/rev/haiku.gguf")
        fields = {"digest": digest(path), "size_bytes": path.stat().st_size} | more
        entry = ModelEntry(id="haiku", ref="hf:org/haiku", local_path=str(path), fetched=fetched, **fields)  # type: ignore[arg-type]
        self.catalog.put(entry, now_ms=1)
        return path

    async def verify(self) -> Verdict:
        return await self.verifier.verify("haiku", self.lines.append)

    @property
    def entry(self) -> ModelEntry:
        return self.catalog.get("haiku")

    def events(self) -> list[str]:
        lines = (self.journal / "catalog.jsonl").read_text().splitlines()
        return [json.loads(line)["kind"] for line in lines]


def digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def spoil(path: Path) -> None:
    """Change the last byte and nothing that stat shows."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.req("CAT-03")
async def test_a_model_that_is_what_it_was_is_verified(bench: Bench) -> None:
    bench.model()
    verdict = await bench.verify()
    assert (verdict.result, verdict.reason, verdict.hint) == (VerifyResult.OK, VerifyReason.MATCHED, None)
    assert (bench.entry.verified_ms, bench.entry.state) == (NOW, ModelState.ACTIVE)
    assert bench.lines == [f"reading haiku.gguf, {bench.entry.size_bytes} bytes"]
    assert bench.events() == ["verified"]


@pytest.mark.req("CAT-03")
async def test_a_missing_digest_is_a_warning_and_is_written_down(bench: Bench) -> None:
    path = bench.model(digest="")
    verdict = await bench.verify()
    assert (verdict.result, verdict.reason) == (VerifyResult.WARNING, VerifyReason.NO_DIGEST)
    assert (
        verdict.message
        == f"nobody knew the digest of haiku; it is {digest(path)}, which proves nothing about what is here"
    )
    assert (bench.entry.digest, bench.entry.verified_ms, bench.entry.state) == (digest(path), None, ModelState.ACTIVE)
    assert (await bench.verify()).result is VerifyResult.OK


@pytest.mark.req("CAT-03", "MP-03")
async def test_a_wrong_digest_is_found_though_stat_shows_nothing_and_is_never_a_warning(
    bench: Bench, operator_sees: OperatorSees
) -> None:
    path = bench.model(verified_ms=5)
    was = bench.entry.digest
    bench.digests.remember(path, Identity.of(path.stat()), was)
    spoil(path)
    verdict = await bench.verify()
    assert (verdict.result, verdict.reason) == (VerifyResult.FAILED, VerifyReason.DIGEST_MISMATCH)
    assert verdict.message.startswith(f"{path} has the digest sha256:")
    operator_sees("model/spoiled", f"{verdict.result}: {verdict.message}\n  hint: {verdict.hint}", at=str(NOW))
    assert verdict.hint == "`llama-orch models pull` with its reference fetches it again"
    assert (bench.entry.state, bench.entry.verified_ms, bench.entry.digest) == (ModelState.RETIRED, None, was)
    assert str(bench.entry.state_reason).startswith("verification: digest_mismatch: ")
    assert not path.exists()
    (aside,) = (bench.models / "quarantine").glob("*.gguf")
    assert aside.name.startswith(f"{NOW}-")
    assert str(aside) in verdict.message
    assert bench.events() == ["retired", "quarantined", "verified"]


@pytest.mark.req("CAT-03")
async def test_a_users_own_file_stays_where_it_is_and_what_was_remembered_of_it_is_corrected(bench: Bench) -> None:
    path = bench.model(fetched=False)
    bench.digests.remember(path, Identity.of(path.stat()), bench.entry.digest)
    spoil(path)
    verdict = await bench.verify()
    assert verdict.reason is VerifyReason.DIGEST_MISMATCH
    assert verdict.hint == ("put the right file back; if this one is right, `llama-orch models pull` takes it as it is")
    assert bench.entry.state is ModelState.RETIRED
    assert path.exists()
    assert bench.digests.recall(path, Identity.of(path.stat())) == digest(path)


@pytest.mark.req("CAT-03")
async def test_another_size_tells_without_reading(bench: Bench) -> None:
    path = bench.model()
    with path.open("ab") as file:
        file.write(b"more")
    verdict = await bench.verify()
    assert (verdict.reason, bench.lines) == (VerifyReason.SIZE_CHANGED, [])
    assert bench.entry.state is ModelState.RETIRED


@pytest.mark.req("CAT-03")
async def test_a_head_that_cannot_be_read_any_more_is_wrong_content(bench: Bench) -> None:
    path = bench.model()
    path.write_bytes(b"\0" * path.stat().st_size)
    verdict = await bench.verify()
    assert verdict.reason is VerifyReason.DIGEST_MISMATCH
    assert bench.entry.state is ModelState.RETIRED


@pytest.mark.req("CAT-03")
async def test_a_model_that_is_away_keeps_its_entry_as_it_is(bench: Bench) -> None:
    path = bench.model(fetched=False, verified_ms=5)
    before = bench.entry
    path.unlink()
    verdict = await bench.verify()
    assert (verdict.result, verdict.reason) == (VerifyResult.FAILED, VerifyReason.MISSING)
    assert verdict.message == f"{path} is gone"
    assert verdict.hint == "put it back, or forget it: `llama-orch models rm`"
    assert bench.entry == before


@pytest.mark.req("CAT-03")
async def test_a_directory_is_read_file_by_file(bench: Bench) -> None:
    folder = bench.models / "hf/org/llama/rev"
    folder.parent.mkdir(parents=True)
    write_directory(folder)
    entry = ModelEntry(id="haiku", ref="hf:org/llama", local_path=str(folder), size_bytes=0, digest="", fetched=True)
    bench.catalog.put(entry, now_ms=1)
    await bench.verify()
    bench.catalog.alter("haiku", lambda now: replace(now, size_bytes=_weights(folder)))
    assert (await bench.verify()).result is VerifyResult.OK
    spoil(next(iter(sorted(folder.glob("*.safetensors")))))
    assert (await bench.verify()).reason is VerifyReason.DIGEST_MISMATCH
    assert not folder.exists()
    assert (bench.models / "quarantine").is_dir()


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


async def test_an_unknown_model_is_said(bench: Bench) -> None:
    with pytest.raises(ModelError, match="there is no model 'haiku' in the catalog"):
        await bench.verify()


@pytest.mark.req("CAT-03")
async def test_a_verification_holds_no_loop_and_can_be_cancelled(bench: Bench) -> None:
    path = bench.models / "large.gguf"
    path.write_bytes(head(tensors=(tensor("w", [1 << 36], kind=0),)))
    os.truncate(path, 1 << 40)  # sparse: reading it would take the better part of an hour
    entry = ModelEntry(id="haiku", ref="large.gguf", local_path=str(path), size_bytes=1 << 40, digest="sha256:0")
    bench.catalog.put(entry, now_ms=1)
    reading = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.verifier.verify("haiku", lambda _: reading.set()))
        await reading.wait()
        for _ in range(1000):
            await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert bench.entry == replace(entry, created_ms=1)


@pytest.mark.req("CAT-03")
async def test_what_replaced_the_model_while_it_was_read_is_not_judged_by_what_was_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.model()
    spoil(path)
    good = replace(bench.entry, digest="sha256:" + "1" * 64)

    def replaced(*_: object) -> None:  # another process fetched it again
        path.write_bytes(b"what came instead")
        bench.catalog.put(good, now_ms=2)

    monkeypatch.setattr(bench.digests, "remember", replaced)
    verdict = await bench.verify()
    assert (verdict.reason, verdict.retires) == (VerifyReason.CHANGED, False)
    assert bench.entry == good
    assert path.read_bytes() == b"what came instead"
    assert bench.events() == ["verified"]
