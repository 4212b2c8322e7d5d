"""How models read: the columns for each width, the sentences, and who uses what."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from contracts.catalog import CatalogJob, CatalogModel, JobKind, JobState, VerifyReason, VerifyResult
from contracts.engines import ModelEntry, ModelState
from contracts.pools import Gates, PoolHealth, PoolList, PoolMetrics, PoolState
from daemon_core.config_file import parse
from llama_orch.models import usage, words
from llama_orch.models.values import Details, File, Happened, Known, Past, Pulled, Removed, Stock, Verdict
from llama_orch.output import Output
from model_provisioner.holds import holders

pytestmark = pytest.mark.req("MP-04")

GIB = 1 << 30
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
LLAMA = CatalogModel(
    id="Llama-3.2-3B-Instruct-Q4_K_M",
    ref="hf:bartowski/Llama-3.2-3B-Instruct-GGUF/Llama-3.2-3B-Instruct-Q4_K_M.gguf",
    state=ModelState.ACTIVE,
    pools=("gpu0",),
    local_path="/c/Llama-3.2-3B-Instruct-Q4_K_M.gguf",
    size_bytes=2 * GIB,
    digest=DIGEST,
    ctx_max=131_072,
    arch="llama",
    quant="Q4_K_M",
    layers=28,
    heads=24,
    fetched=True,
)
OWN = CatalogModel(
    id="haiku", ref="haiku.gguf", state=ModelState.RETIRED, local_path="/m/haiku.gguf", size_bytes=1000, digest=OTHER
)
MODELS = (Known(model=LLAMA), Known(model=OWN))


def when(at_ms: int) -> str:
    return f"at {at_ms}"


@pytest.mark.parametrize(
    ("width", "heading", "origin"),
    [
        (200, words.COLUMNS, LLAMA.ref),
        (100, words.COLUMNS, "hf"),
        (80, ("MODEL", "STATE", "SIZE", "QUANT", "CONTEXT", "POOLS", "FROM"), "hf"),
    ],
)
def test_a_terminal_gets_the_columns_that_fit(width: int, heading: tuple[str, ...], origin: str) -> None:
    table = words.fitting(MODELS, when, width)
    assert table is not None
    assert table[0] == heading
    assert table[1][0] == LLAMA.id
    assert (table[1][-1], table[2][-1]) == (origin, "haiku.gguf" if width == 200 else words.OWN)


def test_a_narrow_terminal_gets_a_block_for_each_model() -> None:
    assert words.fitting(MODELS, when, 40) is None
    assert words.block(replace(MODELS[0], model=replace(LLAMA, verified_ms=5)), when) == [
        LLAMA.id,
        "  Active, 2.0 GiB, Q4_K_M, llama, context 128k",
        "  used by gpu0",
        "  verified at 5",
        f"  {LLAMA.ref}",
    ]
    assert words.block(MODELS[1], when) == ["haiku", "  Retired, 1000 B", "  haiku.gguf"]


@settings(deadline=None)  # drawing a table takes its time on a busy machine
@given(st.integers(40, 200), st.lists(st.text("ab-", min_size=1, max_size=60), min_size=1, max_size=4))
def test_a_row_of_a_table_that_is_said_to_fit_is_one_line(width: int, names: list[str]) -> None:
    table = words.fitting([Known(model=replace(LLAMA, id=name)) for name in names], when, width)
    if table is None:
        return
    screen = Screen()
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("COLUMNS", str(width))
        Output(as_json=False, stdout=screen).table([str(name) for name in table[0]], table[1:], "none")
    assert len(screen.getvalue().splitlines()) == len(table)


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_the_totals_tell_what_the_limit_counts() -> None:
    assert words.totals(Stock(models=MODELS[1:])) == "1 model, 1000 B"
    assert words.totals(Stock(models=MODELS)) == "2 models, 2.0 GiB; fetched: 2.0 GiB"
    limited = Stock(models=MODELS, max_bytes=10 * GIB)
    assert words.totals(limited) == "2 models, 2.0 GiB; fetched: 2.0 GiB of at most 10.0 GiB (models.max_bytes)"


def test_a_file_that_is_gone_is_told_with_its_mend() -> None:
    assert words.beside(MODELS[0]) is None
    assert words.beside(Known(model=LLAMA, here=False)) == (
        f"{LLAMA.id}: {LLAMA.local_path} is gone",
        f"llama-orch models pull {LLAMA.ref}; or llama-orch models rm {LLAMA.id}",
    )
    own = words.beside(Known(model=OWN, here=False))
    assert own is not None
    assert own[1] == "put it back; or llama-orch models rm haiku"


def test_a_model_that_is_being_pulled_elsewhere_says_how_far_it_is() -> None:
    job = CatalogJob(
        number=1,
        kind=JobKind.PULL,
        model_id="m",
        asked_id="m",
        model_ref="hf:o/r",
        state=JobState.FAILED,
        started_ms=0,
        message="no network",
        hint="wait",
    )
    coming = Known(model=CatalogModel(id="m", ref="hf:o/r", job=job))
    assert words.state_text(coming.model) == "pull failed"
    assert words.beside(coming) == ("m: no network", "wait")
    assert dict(words.facts(Details(known=coming), when)) == {
        "state": "pull failed",
        "pools": "none uses it",
        "from": "hf:o/r",
        "job": "pull failed: no network",
    }


def test_all_facts_of_a_model_and_no_empty_ones() -> None:
    past = Past(at_ms=7, ref="https://host/m.gguf?signature=secret", resolved="/c/m", digest=OTHER, size_bytes=1)
    details = Details(
        known=Known(model=replace(LLAMA, pinned=True, source="https://hub/at/commit", created_ms=3)),
        files=(File(path="/c/Llama-3.2-3B-Instruct-Q4_K_M.gguf", size_bytes=9), File(path="/c/x", size_bytes=None)),
        history=(past,),
        events=(Happened(at_ms=9, kind="retired", message="too old"), Happened(at_ms=2, kind="verified", message="ok")),
    )
    facts = words.facts(details, when)
    assert all(value for _, value in facts)
    told = dict(facts)
    assert told["model"] == "llama, Q4_K_M, 28 layers, 24 heads, context 131072"
    assert told["size"] == "2.0 GiB (2147483648 bytes)"
    assert told["kept"] == "pinned: never removed to make room"
    assert told["verified"] == "never: no digest was known that it should have"
    assert told["template"] == "no chat template"
    assert told["file"] == "/c/x (gone)"
    assert [value for name, value in facts if name == "history"] == [
        "at 2: verified: ok",
        f"at 7: https://host/m.gguf, which was {OTHER}",
        "at 9: retired: too old",
    ]
    own = dict(words.facts(Details(known=MODELS[1]), when))
    assert own["kept"] == "your own file: never removed"


def test_what_a_pull_came_to() -> None:
    assert words.pulled_text(Pulled(known=MODELS[0], fetched=True)) == f"{LLAMA.id} is here: 2.0 GiB, {DIGEST}"
    again = words.pulled_text(Pulled(known=MODELS[0], fetched=False))
    assert again == f"{LLAMA.id} is here already, and nothing was fetched: 2.0 GiB, {DIGEST}"
    own = words.pulled_text(Pulled(known=MODELS[1], fetched=False))
    assert own == f"haiku is your own file, and is in the catalog: 1000 B, {OTHER}"


@pytest.mark.parametrize(
    ("result", "reason", "text"),
    [
        ("ok", "matched", f"m: ok, {DIGEST}"),
        ("warning", "no_digest", "m: not verified: why"),
        ("failed", "digest_mismatch", "m: WRONG: why"),
        ("failed", "size_changed", "m: WRONG: why"),
        ("failed", "missing", "m: FAILED: why"),
    ],
)
def test_what_a_verification_found(result: str, reason: str, text: str) -> None:
    found = VerifyResult(result), VerifyReason(reason)
    verdict = Verdict(id="m", result=found[0], reason=found[1], message="why", digest=DIGEST)
    assert words.verdict_text(verdict) == text
    assert verdict.good == (result != "failed")


def test_what_became_of_a_model_that_was_removed() -> None:
    removed = Removed(id="m", path="/c/m.gguf", freed_bytes=3 * GIB)
    assert words.removed_text(removed) == "removed m; 3.0 GiB freed"
    assert words.removed_text(replace(removed, freed_bytes=None)) == "removed m and its files"
    kept = words.removed_text(replace(removed, freed_bytes=0))
    assert kept == "m is not in the catalog any more; its files stay: /c/m.gguf"
    own = words.removed_text(replace(removed, freed_bytes=0, own=True))
    assert own == "m is not in the catalog any more; /c/m.gguf is your own file, and stays"


@pytest.mark.parametrize(
    ("ref", "shown", "kind"),
    [
        ("https://host/m.gguf?X-Amz-Signature=secret", "https://host/m.gguf", "https"),
        ("https://?secret", "https://", "https"),
        ("s3://bucket/m.gguf", "s3://bucket/m.gguf", "s3"),
        ("oci://r.example/m:1", "oci://r.example/m:1", "oci"),
        ("file:m.gguf", "file:m.gguf", words.OWN),
        ("~/what?.gguf", "~/what?.gguf", words.OWN),
    ],
)
def test_a_reference_is_shown_without_secrets(ref: str, shown: str, kind: str) -> None:
    assert (words.ref_text(ref), words.kind_of(ref)) == (shown, kind)


# --- what is in use ---------------------------------------------------------------------------------------------------

POOLS = """\
profile: trial
pools:
  - {id: a, engine: llamacpp, model: m.gguf, provisioning: {mode: package, package: {name: xllamacpp}}}
  - {id: b, engine: llamacpp, model: "hf:o/r/n.gguf", provisioning: {mode: package, package: {name: xllamacpp}}}
"""


def entry(ref: str, path: str, name: str = "x") -> ModelEntry:
    return ModelEntry(id=name, ref=ref, local_path=path, size_bytes=1, digest=DIGEST)


def pool(name: str, ref: str, next_ref: str | None = None) -> PoolHealth:
    return PoolHealth(
        pool_id=name,
        live=True,
        ready=True,
        draining=False,
        state=PoolState.READY,
        gates=Gates(),
        restarts=0,
        metrics=PoolMetrics(queue_depth=0, active=0, slots=1),
        model_ref=ref,
        next_model_ref=next_ref,
    )


def used(entry: ModelEntry, pools: PoolList | None) -> tuple[str, ...]:
    config = parse(POOLS, "config.yaml")
    held = usage.configured(config) if pools is None else usage.served(pools, (), config)
    return holders(entry, held, PurePosixPath("/m"))


def test_without_a_daemon_the_configurations_pools_use_models() -> None:
    assert used(entry("/elsewhere.gguf", "/m/m.gguf"), None) == ("a",)
    assert used(entry("hf:o/r/n.gguf", "/cache/n.gguf"), None) == ("b",)
    assert used(entry("hf:o/r/n.gguf@v2", "/cache/n2.gguf"), None) == ()


def test_a_daemon_knows_better_what_its_pools_use_unless_it_has_lost_sight_of_them() -> None:
    served = (pool("a", "other.gguf", "next.gguf"),)
    here = PoolList(pools=served, managed=True)
    assert used(entry("m.gguf", "/m/m.gguf"), here) == ()
    assert used(entry("other.gguf", "/m/other.gguf"), here) == ("a",)
    assert used(entry("next.gguf", "/m/next.gguf"), here) == ("a",)
    assert used(entry("m.gguf", "/m/m.gguf"), PoolList(pools=served, managed=False)) == ("a",)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    assert usage.unknown("haku", ["haiku", "llama"]).hint == "did you mean 'haiku'?"
    assert usage.unknown("x", []).hint == "llama-orch models pull REF fetches one"


def test_a_model_in_use_is_refused_with_its_pools() -> None:
    error = usage.in_use("m", ["a", "b"], "removed")
    assert error.render() == (
        "CONFLICT: m is used by the pools a, b, and is not removed\n"
        "  hint: llama-orch reload a --model OTHER gives the pool another one; or change the configuration"
    )


def test_the_pages_of_another_machine_decode() -> None:
    assert msgspec.json.decode(msgspec.json.encode(LLAMA), type=CatalogModel) == LLAMA
