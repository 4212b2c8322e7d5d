"""Models from a stand-in of the hub's documented API and of its CDN; the real client of the hub reads it too."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from aiohttp import web
from huggingface_hub import HfApi, close_session, hf_hub_url
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from contracts.config import Engine, Outbound, Policy, Verdict
from contracts.engines import ModelFormat
from contracts.pools import Cause
from model_provisioner.errors import ModelError
from tests.integration.model_provisioner.pulling import NOW, Puller
from tests.plugins.failures import OperatorSees
from tests.support.hub import Hub
from tests.unit.model_provisioner.heads import write_directory, write_model


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- one file ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("MP-01", "MP-03", "MP-04", "MP-06")
async def test_one_file_of_a_repository_is_fetched_and_then_needs_no_network(
    the_hub: Hub, puller: Puller, haiku: bytes
) -> None:
    repository = the_hub.add("org/poems", {"q4/haiku.gguf": haiku, "README.md": b"# Poems", "other.gguf": b"x"})
    model = await puller.pull("hf:org/poems/q4/haiku.gguf")
    assert (model.id, model.digest, model.ref) == ("haiku", digest(haiku), "hf:org/poems/q4/haiku.gguf")
    place = f"hf/org/poems/{repository.main}/q4/haiku.gguf"
    assert Path(model.local_path) == puller.cache / place
    entry = puller.catalog.get("haiku")
    assert (entry.fetched, entry.verified_ms) == (True, NOW)
    assert entry.source == f"hf:org/poems/q4/haiku.gguf@{repository.main} at {the_hub.endpoint}"
    assert puller.journal()[0]["source"] == entry.source
    assert "haiku.gguf has the digest that its source names; model_sha256 can hold it to" in " ".join(puller.said)
    asked = len(the_hub.server.asked)
    assert await puller.pull("hf:org/poems/q4/haiku.gguf") == model
    assert (len(the_hub.server.asked), sum(the_hub.cdn.sent.values())) == (asked, len(haiku))


@pytest.mark.req("MP-04")
@pytest.mark.parametrize("path", ["haiku-00001-of-00003.gguf", "haiku", "q4", "q4/haiku", None])
async def test_a_split_model_is_fetched_by_its_first_part_its_stem_its_folder_or_alone(
    path: str | None, the_hub: Hub, puller: Puller, tmp_path: Path
) -> None:
    write_model(tmp_path / "haiku.gguf", split=1)
    parts = {path.name: path.read_bytes() for path in sorted(tmp_path.glob("haiku-*.gguf"))}
    folder = "q4/" if path and path.startswith("q4") else ""
    more = {"mmproj-haiku.gguf": b"x", "README.md": b"#"} if path is None else {"other.gguf": b"x"}
    the_hub.add("org/poems", {f"{folder}{name}": data for name, data in parts.items()} | more)
    model = await puller.pull("hf:org/poems" + (f"/{path}" if path else ""))
    assert (model.id, Path(model.local_path).name) == ("haiku", "haiku-00001-of-00003.gguf")
    assert model.size_bytes == sum(map(len, parts.values()))
    assert len(puller.left(".gguf")) == 3


@pytest.mark.req("MP-02")
async def test_a_part_that_is_not_the_first_or_a_repository_with_several_models_asks_which(
    the_hub: Hub, puller: Puller, operator_sees: OperatorSees
) -> None:
    names = ["a-Q4_K_M.gguf", "a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf"]
    the_hub.add("org/poems", dict.fromkeys(names, b"x"))
    error = await puller.refusal("hf:org/poems")
    operator_sees("model/hf-several", error.render())
    assert "a-Q4_K_M, a-Q8_0" in error.hint
    error = await puller.refusal("hf:org/poems/a-Q8_0-00002-of-00002.gguf")
    assert error.hint == "hf:org/poems/a-Q8_0-00001-of-00002.gguf is the whole of it"
    error = await puller.refusal("hf:org/poems/a-Q4.gguf")
    assert error.message == "there is no a-Q4.gguf in org/poems"
    assert "a-Q4_K_M.gguf" in error.hint
    assert sum(the_hub.cdn.sent.values()) == 0


# --- whole repositories -----------------------------------------------------------------------------------------------


@pytest.mark.req("MP-04")
async def test_a_whole_repository_is_fetched_without_what_no_engine_reads(
    the_hub: Hub, puller: Puller, tmp_path: Path
) -> None:
    wanted = files_of(write_directory(tmp_path / "m"))
    del wanted["README.md"]
    other = {".gitattributes": b"x", "pytorch_model.bin": b"pickle", "optimizer.pt": b"x", "README.md": b"#"}
    other |= {"original/consolidated.00.pth": b"x", "onnx/model.onnx": b"x", "consolidated.safetensors": b"x"}
    repository = the_hub.add("org/Poems-1.5B", wanted | other)
    model = await puller.pull("hf:org/Poems-1.5B", engine=Engine.VLLM)
    assert (model.id, model.format) == ("Poems-1.5B", ModelFormat.HF_DIRECTORY)
    assert Path(model.local_path) == puller.cache / f"hf/org/Poems-1.5B/{repository.main}"
    assert files_of(Path(model.local_path)) == wanted
    assert puller.catalog.get("Poems-1.5B").format is ModelFormat.HF_DIRECTORY
    assert await puller.pull("hf:org/Poems-1.5B", model.digest) == model


async def test_an_engine_that_cannot_load_it_is_said_before_gigabytes_come(
    the_hub: Hub, puller: Puller, tmp_path: Path
) -> None:
    the_hub.add("org/poems", files_of(write_directory(tmp_path / "m")))
    error = await puller.refusal("hf:org/poems", engine=Engine.LLAMACPP)
    assert error.message == "hf:org/poems is a directory, and llamacpp loads one GGUF file"
    assert sum(the_hub.cdn.sent.values()) == 0


async def test_weights_that_are_pickles_are_not_fetched(the_hub: Hub, puller: Puller) -> None:
    the_hub.add("org/poems", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    error = await puller.refusal("hf:org/poems")
    assert error.message.startswith("org/poems holds no model: neither *.gguf nor config.json with *.safetensors")


# --- revisions --------------------------------------------------------------------------------------------------------


@pytest.mark.req("MP-01", "MP-04")
async def test_what_is_here_is_used_until_a_refresh_and_a_commit_stays_what_it_is(
    the_hub: Hub, puller: Puller, haiku: bytes, tmp_path: Path
) -> None:
    repository = the_hub.add("org/poems", {"haiku.gguf": haiku})
    old = repository.main
    first = await puller.pull("hf:org/poems/haiku.gguf")
    other = write_model(tmp_path / "other.gguf", name="Another").read_bytes()
    new = repository.push({"haiku.gguf": other})
    assert await puller.pull("hf:org/poems/haiku.gguf") == first
    second = await puller.pull("hf:org/poems/haiku.gguf", refresh=True)
    assert (second.id, second.digest) == ("haiku", digest(other))
    (said,) = [line for line in puller.said if "has changed" in line]
    assert old in said.partition(", and is ")[0]
    assert new in said.partition(", and is ")[2]
    pinned = await puller.pull(f"hf:org/poems/haiku.gguf@{old}")
    assert pinned.digest == digest(haiku)
    assert pinned.id == f"haiku-{hashlib.sha256(haiku).hexdigest()[:8]}"
    assert sum(the_hub.cdn.sent.values()) == len(haiku) + len(other)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("MP-02")
async def test_a_gated_repository_says_where_its_terms_are(
    the_hub: Hub, puller: Puller, haiku: bytes, operator_sees: OperatorSees
) -> None:
    the_hub.add("org/poems", {"haiku.gguf": haiku}, gated=True)
    error = await puller.refusal("hf:org/poems/haiku.gguf")
    operator_sees("model/hf-gated", error.render())
    assert f"accept them at {the_hub.endpoint}/org/poems" in error.hint
    puller.environ["HF_TOKEN"] = "hf_anothertoken"
    error = await puller.refusal("hf:org/poems/haiku.gguf")
    assert "with the account of the token that is set" in error.hint
    puller.environ["HF_TOKEN"] = the_hub.token
    assert (await puller.pull("hf:org/poems/haiku.gguf")).digest == digest(haiku)


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("hf:org/nothing/m.gguf", "there is no m.gguf in org/nothing on the hub, or it is private and wants HF_TOKEN"),
        ("hf:org/secret", "there is no org/secret on the hub, or it is private and wants HF_TOKEN"),
        ("hf:org/poems@v9", "org/poems has no revision 'v9'"),
    ],
)
async def test_what_is_not_there_is_said(ref: str, said: str, the_hub: Hub, puller: Puller) -> None:
    the_hub.add("org/poems", {"haiku.gguf": b"x"})
    the_hub.add("org/secret", {"haiku.gguf": b"x"}, private=True)
    error = await puller.refusal(ref)
    assert (error.cause, error.message) == (Cause.MODEL_FETCH, said)
    assert the_hub.endpoint in error.hint


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    ("status", "said", "retriable"),
    [
        (429, "the hub is asked too often from here (429)", True),
        (503, "the hub is out of order: it answers 503", True),
        (418, "the hub answers 418 when asked for org/poems", False),
    ],
)
async def test_a_hub_that_refuses_for_now_is_said(
    status: int, said: str, retriable: bool, the_hub: Hub, puller: Puller
) -> None:
    the_hub.add("org/poems", {"haiku.gguf": b"x"})
    the_hub.listing_status = [web.Response(status=status) for _ in range(3)]
    error = await puller.refusal("hf:org/poems")
    assert (error.message, error.retriable) == (said, retriable)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"siblings": []}', b'{"sha": "../../etc", "siblings": []}', b"[" * 100_000, b'{"sha": 1}'],
)
async def test_a_listing_that_is_none_is_refused(body: bytes, the_hub: Hub, puller: Puller) -> None:
    the_hub.add("org/poems", {"haiku.gguf": b"x"})
    the_hub.listing_status = [web.Response(body=body)]
    error = await puller.refusal("hf:org/poems")
    assert error.hint == "see HF_ENDPOINT: it names the hub or a mirror of it"


async def test_a_listing_without_end_is_ended(the_hub: Hub, puller: Puller) -> None:
    the_hub.add("org/poems", {"haiku.gguf": b"x"})
    the_hub.listing_status = [web.Response(body=bytes(33 << 20))]
    error = await puller.refusal("hf:org/poems")
    assert error.message.endswith("answers with more than 32 MiB")


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    "name",
    [
        "../../x.gguf",
        "/etc/x.gguf",
        "a/../../x.gguf",
        "./x.gguf",
        "a//x.gguf",
        "a\\..\\x.gguf",
        "x\n.gguf",
        "a/.x.gguf",
    ],
)
async def test_names_in_a_listing_never_lead_out(name: str, the_hub: Hub, puller: Puller) -> None:
    the_hub.add("org/poems", {name: b"GGUF"})
    error = await puller.refusal("hf:org/poems")
    assert "names that are not safe on a disk" in error.message
    assert puller.left() == []


async def test_offline_means_offline(the_hub: Hub, puller: Puller, haiku: bytes) -> None:
    the_hub.add("org/poems", {"haiku.gguf": haiku})
    model = await puller.pull("hf:org/poems")
    puller.environ["HF_HUB_OFFLINE"] = "1"
    assert await puller.pull("hf:org/poems") == model
    error = await puller.refusal("hf:org/other")
    assert "HF_HUB_OFFLINE" in error.message
    with pytest.raises(ModelError, match="the hub is not asked for org/poems: HF_HUB_OFFLINE"):
        await puller.pull("hf:org/poems", refresh=True)  # it is here, which is not what is wrong


# --- digests and secrets ----------------------------------------------------------------------------------------------


@pytest.mark.req("MP-03")
async def test_bytes_that_are_not_what_the_hub_names_are_set_aside_and_may_come_right(
    the_hub: Hub, puller: Puller, haiku: bytes
) -> None:
    repository = the_hub.add("org/poems", {"haiku.gguf": haiku})
    repository.digests["haiku.gguf"] = "c" * 64
    error = await puller.refusal("hf:org/poems")
    assert error.cause is Cause.MODEL_DIGEST
    assert f"came with the digest {digest(haiku)}, but sha256:{'c' * 64} is required" in error.message
    assert len(puller.left()) == 2
    repository.digests.clear()
    assert (await puller.pull("hf:org/poems")).digest == digest(haiku)


@pytest.mark.req("MP-03")
async def test_another_digest_than_the_hub_names_is_refused_before_anything_comes(
    the_hub: Hub, puller: Puller, haiku: bytes
) -> None:
    the_hub.add("org/poems", {"haiku.gguf": haiku})
    error = await puller.refusal("hf:org/poems", "d" * 64)
    assert error.cause is Cause.MODEL_DIGEST
    assert error.message.startswith(f"hf:org/poems has the digest {digest(haiku)} where it is offered")
    assert sum(the_hub.cdn.sent.values()) == 0


@pytest.mark.req("MP-02")
async def test_the_quarantine_keeps_a_few_files(the_hub: Hub, puller: Puller, haiku: bytes) -> None:
    for number in range(7):
        repository = the_hub.add(f"org/poems{number}", {"haiku.gguf": haiku + bytes([number])})
        repository.digests["haiku.gguf"] = "c" * 64
        await puller.refusal(f"hf:org/poems{number}")
    assert len(puller.left()) == 8


async def test_the_token_reaches_the_hub_alone_and_is_written_nowhere(
    the_hub: Hub, puller: Puller, haiku: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    puller.environ |= {"HF_TOKEN": "", "HF_HOME": str(puller.root / "hf")}
    (puller.root / "hf").mkdir()
    (puller.root / "hf/token").write_text(f"{the_hub.token}\n")  # as `hf auth login` leaves it
    the_hub.add("org/poems", {"haiku.gguf": haiku}, private=True)
    await puller.pull("hf:org/poems")
    (puller.root / "hf/token").unlink()
    assert {request.headers.get("Authorization") for request in the_hub.server.asked} == {f"Bearer {the_hub.token}"}
    assert {request.headers.get("Authorization") for request in the_hub.cdn.asked} == {None}
    logged = str([record.getMessage() for record in caplog.records if record.name != "aiohttp.access"])
    assert "sesame" not in logged + str(puller.said)
    assert b"sesame" not in puller.everything()


# --- policy -----------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-23", "MP-02")
async def test_the_policy_is_asked_for_the_hub_and_for_its_cdn(
    the_hub: Hub, puller: Puller, haiku: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    the_hub.add("org/poems", {"haiku.gguf": haiku})
    the_hub.cdn.base = the_hub.cdn.base.replace("127.0.0.1", "localhost")
    puller.policy = Policy(outbound=Outbound(default=Verdict.DENY, allow=("127.0.0.1",)))
    error = await puller.refusal("hf:org/poems")
    assert (error.cause, error.message) == (
        Cause.POLICY_DENIED,
        "localhost may not be reached: it is this machine, and policy.outbound.allow does not name it",
    )
    assert the_hub.cdn.asked == []
    puller.policy = Policy(outbound=Outbound(deny=("hf:",), allow=("127.0.0.1", "localhost")))
    error = await puller.refusal("hf:org/poems")
    assert error.message == "127.0.0.1 may not be reached: policy.outbound.deny: hf:"
    puller.policy = Policy(outbound=Outbound(default=Verdict.DENY, allow=("hf:", "127.0.0.1", "localhost")))
    assert (await puller.pull("hf:org/poems")).digest == digest(haiku)
    assert "outbound to 127.0.0.1: denied by policy.outbound.deny: hf:" in caplog.text
    assert "outbound to localhost: allowed by policy.outbound.allow: hf:" in caplog.text


# --- the stand-in is what the real client knows -----------------------------------------------------------------------


async def test_the_real_client_reads_the_stand_in(the_hub: Hub, haiku: bytes) -> None:
    repository = the_hub.add("org/poems", {"haiku.gguf": haiku, "README.md": b"# Poems"})
    the_hub.add("org/gated", {"haiku.gguf": haiku}, gated=True)

    def ask() -> None:
        api = HfApi(endpoint=the_hub.endpoint, token=False)
        info = api.model_info("org/poems", revision="main", files_metadata=True)
        assert info.sha == repository.main
        assert info.siblings is not None
        large, small = info.siblings
        assert large.lfs is not None
        assert (large.rfilename, large.size, large.lfs.sha256) == ("haiku.gguf", len(haiku), digest(haiku)[7:])
        assert (small.rfilename, small.lfs) == ("README.md", None)
        meta = api.get_hf_file_metadata(url=hf_hub_url("org/poems", "haiku.gguf", endpoint=the_hub.endpoint))
        assert (meta.commit_hash, meta.etag, meta.size) == (repository.main, digest(haiku)[7:], len(haiku))
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("org/nothing")
        with pytest.raises(RevisionNotFoundError):
            api.model_info("org/poems", revision="v9")
        with pytest.raises(GatedRepoError):
            api.get_hf_file_metadata(url=hf_hub_url("org/gated", "haiku.gguf", endpoint=the_hub.endpoint))

    await asyncio.to_thread(ask)
    close_session()


@pytest.mark.req("EP-13")
async def test_the_password_of_a_mirror_is_written_nowhere(
    the_hub: Hub, puller: Puller, haiku: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    the_hub.add("org/poems", {"haiku.gguf": haiku})
    puller.environ["HF_ENDPOINT"] = the_hub.endpoint.replace("//", "//me:open-barley@")
    await puller.pull("hf:org/poems/haiku.gguf")
    assert puller.catalog.get("haiku").source is not None
    the_hub.server.asked.clear()
    for ref in ("hf:org/none", "hf:org/poems/haiku.gguf@gone", "hf:org/poems/none.gguf"):
        assert "open-barley" not in (await puller.refusal(ref)).render()
    assert all("Authorization" in each.headers for each in the_hub.server.asked), "it is used all the same"
    assert b"open-barley" not in puller.everything()
    assert "open-barley" not in caplog.text
