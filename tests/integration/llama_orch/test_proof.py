"""``llama-orch proof`` against a stand-in for the daemon, on a machine with a configuration, logs and a catalog."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from catalog_core.engines import FsEngineCatalog
from contracts.artifacts import ArtifactKind, canonical
from contracts.catalog import CatalogModel
from contracts.engines import EngineEntry, ModelState, PreparedEngine
from contracts.examples.receipts import RECEIPT
from llama_orch.proof import manifest as names
from llama_orch.proof.archive import pack, unpack
from llama_orch.trial import haiku_model_path
from tests.integration.llama_orch.conftest import Cli, Outcome, run
from tests.integration.llama_orch.test_receipts import leave
from tests.unit.llama_orch.fake import PIECES, TEXT, TOKEN, FakeDaemon

pytestmark = [
    pytest.mark.req("OP-03"),
    pytest.mark.timeout(120),
]  # programs start one after the other

SECRET = "s3cr3t-of-this-machine"
SERVED = RECEIPT.engine
assert SERVED is not None
assert SERVED.engine_version is not None

PREPARED = PreparedEngine(
    engine=SERVED.engine,
    engine_version=SERVED.engine_version,
    engine_digest=SERVED.engine_digest,
    provisioning_mode=SERVED.provisioning_mode,
    bin_or_entry="/usr/bin/python3",
    engine_catalog_id="llamacpp-package-78dc",
)
ENTRY = EngineEntry(
    id="llamacpp-package-78dc",
    engine=SERVED.engine,
    version=SERVED.engine_version,
    digest=SERVED.engine_digest,
)
MODEL = CatalogModel(
    id="haiku", ref="/srv/models/haiku.gguf", state=ModelState.ACTIVE, digest=SERVED.model_digest, size_bytes=1
)
JOURNAL = """\
#!/bin/sh
printf '%s\\n' "$*" > "$HOME/asked"
printf '%s\\n' '{"SYSLOG_IDENTIFIER":"orchestratord","MESSAGE":"task poem-1 admitted","LLAMA_ORCH_TASK_ID":"poem-1"}'
printf '%s\\n' '{"SYSLOG_IDENTIFIER":"orchestratord","MESSAGE":"task poem-2 admitted","LLAMA_ORCH_TASK_ID":"poem-2"}'
printf '%s\\n' 'no JSON'
"""


def record(fake: FakeDaemon, task_id: str = "poem-1", text: str = TEXT, **more: Any) -> str:  # noqa: ANN401 - any field
    fake.kept = {**(fake.kept or {}), task_id: PIECES}
    known: dict[str, Any] = {
        "transcript": text,
        "stream_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "pieces": len(PIECES),
    }
    return leave(fake, task_id, **(known | more)).id


@pytest.fixture
def here(tmp_path: Path, url: str, fake: FakeDaemon) -> Cli:
    """Commands on the machine whose daemon the stand-in is."""
    config = {
        "profile": "trial",
        "server": {"bind": url.removeprefix("http://")},
        "pools": [
            {
                "id": "trial",
                "engine": "llamacpp",
                "model": str(haiku_model_path()),
                "provisioning": {"mode": "package", "package": {"name": "xllamacpp"}},
                "env": {"HF_TOKEN": SECRET},
            }
        ],
    }
    (tmp_path / ".config/llama-orch").mkdir(parents=True)
    (tmp_path / ".config/llama-orch/config.yaml").write_text(json.dumps(config))
    state, data = tmp_path / ".local/state/llama-orch", tmp_path / ".local/share/llama-orch"
    for folder in (state / "logs", state / "prepared", data / "catalog", tmp_path / "bin"):
        folder.mkdir(parents=True)
    (state / "prepared/trial.json").write_bytes(msgspec.json.encode(PREPARED))
    (state / "logs/trial.log.1").write_text(f"first  correlation_ids={RECEIPT.correlation_id}\n")
    (state / "logs/trial.log").write_text(
        f"key {SECRET}  correlation_ids={RECEIPT.correlation_id}\nof another  correlation_ids=c-2\n"
    )
    FsEngineCatalog(data / "catalog").put(ENTRY, now_ms=1)
    (tmp_path / "bin/journalctl").write_text(JOURNAL)
    (tmp_path / "bin/journalctl").chmod(0o755)
    fake.models = {"haiku": MODEL}

    async def call(*arguments: str, **more: str) -> Outcome:
        known = {"LLORCH_API_TOKEN": TOKEN, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
        return await run(tmp_path, arguments, **(known | more))

    return call


Files = dict[str, bytes]


def files_of(path: Path) -> Files:
    with path.open("rb") as file:
        return unpack(file)


async def proved(cli: Callable[..., Awaitable[Outcome]], tmp_path: Path, *arguments: str) -> tuple[Files, Any]:
    done = await cli("proof", "poem-1", "-o", "p.tar.gz", "--json", *arguments)
    assert done.status == 0, done.stdout + done.stderr
    return files_of(tmp_path / "p.tar.gz"), json.loads(done.stdout)


def missing(made: Any) -> dict[str, str]:  # noqa: ANN401 - a document
    return {each["name"]: each["why"] for each in made["verdict"]["missing"]}


# --- what is in it ----------------------------------------------------------------------------------------------------


async def test_on_the_machine_of_the_engine_a_proof_has_everything(fake: FakeDaemon, here: Cli, tmp_path: Path) -> None:
    record(fake, "poem-0")
    receipt_id = record(fake)
    record(fake, "poem-2")
    files, made = await proved(here, tmp_path)
    assert set(files) == {*names.NAMES, names.MANIFEST}
    assert missing(made) == {}
    assert files[names.RECEIPT] == fake.ledger.read(1, 1)[0].content
    assert [json.loads(line)["receipt"]["task_id"] for line in files[names.CHAIN].splitlines()] == [
        *("poem-0", "poem-1", "poem-2")
    ]
    assert json.loads(files[names.REQUEST])["prompt"] == "Write a haiku about snow."
    assert files[names.TRANSCRIPT].decode() == TEXT
    assert files[names.STREAM].startswith(b"event: started\n")
    assert json.loads(files[names.TASK])["task_id"] == "poem-1"
    assert json.loads(files[names.CAPABILITIES])["pools"][0]["engine_version"] == "b1"
    assert json.loads(files[names.POOL])["state"] == "ready"
    assert json.loads(files[names.PLAN])["steps"]
    assert files[names.PREFLIGHT].startswith(b"trial: ")
    assert msgspec.json.decode(files[names.PREPARED_ENGINE], type=PreparedEngine) == PREPARED
    assert json.loads(files[names.ENGINE_ENTRY])["digest"] == ENTRY.digest
    assert msgspec.json.decode(files[names.MODEL], type=CatalogModel) == MODEL
    assert {"llama_orch", "python", "os", "kernel", "gpus"} == set(json.loads(files[names.VERSIONS]))
    log = [json.loads(line)["message"] for line in files[names.LOG].splitlines()]
    assert log == ["task poem-1 admitted", "first", "key ***"]
    assert f"--since=@{-2} --until=@{10}" in (tmp_path / "asked").read_text()
    assert json.loads(files[names.MANIFEST])["receipt_id"] == receipt_id == made["verdict"]["receipt_id"]


async def test_it_lies_in_its_place_readable_by_its_owner_alone_and_whole_or_not_at_all(
    fake: FakeDaemon, here: Cli, tmp_path: Path
) -> None:
    record(fake)
    done = await here("proof", "poem-1")
    place = tmp_path / ".local/share/llama-orch/proof/poem-1.tar.gz"
    assert done.stdout.splitlines()[0] == f"{place}: 15 files of task poem-1"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    before = place.read_bytes()
    gone = await here("proof", "poem-1", "--url", "http://127.0.0.1:1")
    assert gone.status == 75
    assert place.read_bytes() == before
    assert list(place.parent.iterdir()) == [place]
    nowhere = await here("proof", "poem-1", "-o", "nowhere/p.tar.gz")
    assert (nowhere.status, "No such file or directory" in nowhere.stderr) == (1, True)


async def test_a_job_a_receipt_and_a_number_name_a_task_too(fake: FakeDaemon, here: Cli, tmp_path: Path) -> None:
    receipt_id = record(fake)
    fake.left = {"poem-1": receipt_id}
    for name in (RECEIPT.job_id, receipt_id, "1"):
        done = await here("proof", name, "-o", "p.tar.gz")
        assert done.status == 0, done.stderr
        assert "of task poem-1" in done.stdout
    assert "NOT_FOUND" in (await here("proof", "job-none")).stderr
    assert (await here("proof", "make", "poem-1", "-o", "p.tar.gz")).status == 0


@pytest.mark.parametrize(("neighbours", "expected"), [("0", "3"), ("1", "234"), ("2", "2345"), ("50", "23456")])
async def test_so_many_neighbours_as_are_wanted_are_in_it(
    fake: FakeDaemon, here: Cli, tmp_path: Path, neighbours: str, expected: str
) -> None:
    for number in range(1, 7):
        record(fake, "poem-1" if number == 3 else f"other-{number}")
    files, _ = await proved(here, tmp_path, "--neighbours", neighbours)
    numbers = [json.loads(line)["receipt"]["number"] for line in files[names.CHAIN].splitlines()]
    assert numbers == [int(digit) for digit in expected]


async def test_its_manifest_is_kept_under_the_id_that_verify_tells(fake: FakeDaemon, here: Cli, tmp_path: Path) -> None:
    record(fake)
    files, made = await proved(here, tmp_path, "--keep")
    (given,) = fake.given
    assert (given.kind, given.tags) == (ArtifactKind.PROOF, ("poem-1",))
    assert canonical(msgspec.json.decode(given.content)) == files[names.MANIFEST]
    assert made["kept"]["id"] == made["verdict"]["manifest_id"]


# --- what cannot be had -----------------------------------------------------------------------------------------------


async def test_from_another_machine_what_only_that_one_has_is_said_to_be_missing(
    fake: FakeDaemon, cli: Cli, tmp_path: Path
) -> None:
    record(fake)
    fake.models = {"haiku": MODEL}
    files, made = await proved(cli, tmp_path)
    assert set(files) == {*names.OF_THE_DAEMON, names.MANIFEST}
    why = "only the machine of the engine has it: make the proof there"
    assert missing(made) == dict.fromkeys(sorted(names.OF_THE_MACHINE), why)
    shown = await cli("proof", "verify", "p.tar.gz")
    assert shown.status == 0
    assert f"not in it: plan.json: {why}\n" in shown.stdout


async def test_a_task_that_never_ran_and_is_forgotten_has_a_proof_too(
    fake: FakeDaemon, here: Cli, tmp_path: Path
) -> None:
    record(fake, engine=None, slot=None, sent=None, transcript=None, cut=True)
    fake.kept, fake.left = {}, {"poem-9": None}
    files, made = await proved(here, tmp_path)
    assert set(files) == {*(names.RECEIPT, names.CHAIN, names.REQUEST, names.CAPABILITIES), names.VERSIONS} | {
        *(names.LOG, names.MANIFEST)
    }
    why = missing(made)
    assert why[names.PLAN] == why[names.POOL] == "the task never got a slot: no pool served it"
    assert why[names.TASK] == "the daemon does not keep the task any more"
    assert why[names.TRANSCRIPT] == "the answer was too long for its receipt"


async def test_an_engine_that_was_replaced_since_is_not_taken_for_the_one_that_served(
    fake: FakeDaemon, here: Cli, tmp_path: Path
) -> None:
    record(fake)
    state, data = tmp_path / ".local/state/llama-orch", tmp_path / ".local/share/llama-orch"
    newer = msgspec.structs.replace(PREPARED, engine_version="b2")
    (state / "prepared/trial.json").write_bytes(msgspec.json.encode(newer))
    FsEngineCatalog(data / "catalog").put(msgspec.structs.replace(ENTRY, digest="sha256:0"), now_ms=1)
    (state / "logs/trial.log").unlink()
    (state / "logs/trial.log.1").unlink()
    (tmp_path / "bin/journalctl").write_text("#!/bin/sh\nexit 1\n")
    fake.models = {}
    _, made = await proved(here, tmp_path)
    why = missing(made)
    assert why[names.PREPARED_ENGINE] == "the pool has another engine since: b2"
    assert why[names.ENGINE_ENTRY].startswith("the catalog has no llamacpp with the digest sha256:78dc")
    assert why[names.LOG] == (
        "the daemons' lines: journalctl ended with status 1: (it said nothing); trial.log has no line of this task"
    )
    assert why[names.MODEL].startswith("no model of the catalog has the digest")


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_no_planted_secret_is_in_it(fake: FakeDaemon, here: Cli, tmp_path: Path) -> None:
    record(fake)
    state = tmp_path / ".local/state/llama-orch"
    environment = msgspec.structs.replace(PREPARED, env={"HF_TOKEN": SECRET, "OTHER": f"--key={TOKEN}"})
    (state / "prepared/trial.json").write_bytes(msgspec.json.encode(environment))
    (tmp_path / "bin/journalctl").write_text(JOURNAL.replace("task poem-1 admitted", f"Bearer {TOKEN} {SECRET}"))
    fake.models = {"haiku": msgspec.structs.replace(MODEL, source=f"https://me:{SECRET}@example.org/m")}
    files, _ = await proved(here, tmp_path)
    everything = b"".join(files.values())
    assert SECRET.encode() not in everything
    assert TOKEN.encode() not in everything
    assert everything.count(b"***") >= 4
    assert (await here("proof", "verify", "p.tar.gz")).status == 0


async def test_a_stream_in_which_a_secret_stands_is_left_out(fake: FakeDaemon, here: Cli, tmp_path: Path) -> None:
    pieces = ("the key is ", SECRET[:5], SECRET[5:], " and more")  # in no frame as a whole
    text = "".join(pieces)
    record(
        fake,
        transcript=text.replace(SECRET, "***"),
        redacted=True,
        stream_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    fake.kept = {"poem-1": pieces}
    files, made = await proved(here, tmp_path)
    assert missing(made) == {names.STREAM: "a secret stands in it, and it would not be the stream without"}
    assert SECRET.encode() not in b"".join(files.values())


async def test_a_receipt_with_a_secret_of_this_machine_has_no_proof_and_a_neighbour_ends_the_chain(
    fake: FakeDaemon, here: Cli, tmp_path: Path
) -> None:
    record(fake, "poem-0", f"it is {SECRET}")
    record(fake)
    record(fake, "poem-2")
    record(fake, "poem-3", f"it is {SECRET}")
    record(fake, "poem-4")
    files, _ = await proved(here, tmp_path)
    assert [json.loads(line)["receipt"]["number"] for line in files[names.CHAIN].splitlines()] == [2, 3]
    refused = await here("proof", "poem-0", "-o", "q.tar.gz")
    assert (refused.status, "has a secret of this machine in it" in refused.stderr) == (1, True)
    assert not (tmp_path / "q.tar.gz").exists()


async def test_a_stream_of_another_task_under_the_same_id_is_left_out(
    fake: FakeDaemon, here: Cli, tmp_path: Path
) -> None:
    record(fake)
    fake.kept = {"poem-1": ("something", " else")}
    _, made = await proved(here, tmp_path)
    assert missing(made) == {names.STREAM: "the daemon keeps the stream of another task under this id"}


# --- verify -----------------------------------------------------------------------------------------------------------


async def test_a_proof_is_verified_with_no_daemon_and_each_wrong_file_is_named(
    fake: FakeDaemon, here: Cli, tmp_path: Path
) -> None:
    receipt_id = record(fake)
    files, made = await proved(here, tmp_path)
    away = {"LLORCH_URL": "http://127.0.0.1:1"}
    whole = await here("proof", "verify", "p.tar.gz", **away)
    assert (whole.status, whole.stdout.splitlines()[0]) == (0, "the proof of task poem-1 is whole: 15 files")
    for expected in (receipt_id, made["verdict"]["manifest_id"]):
        assert (await here("proof", "verify", "p.tar.gz", "--expect", expected, **away)).status == 0
    other = await here("proof", "verify", "p.tar.gz", "--expect", "0" * 64, **away)
    assert (other.status, "neither it nor the receipt has the id" in other.stdout) == (1, True)
    assert (await here("proof", "verify", "p.tar.gz", "--expect", "short", **away)).status == 2

    changed = files | {names.PLAN: b"{}", "extra.txt": b""}
    del changed[names.POOL]
    (tmp_path / "p.tar.gz").write_bytes(pack(changed))
    wrong = await here("proof", "verify", "p.tar.gz", "--json", **away)
    assert wrong.status == 1
    assert {each["name"] for each in json.loads(wrong.stdout)["faults"]} == {names.PLAN, names.POOL, "extra.txt"}
    told = await here("proof", "verify", "p.tar.gz", **away)
    assert "wrong: pool.json: it is missing\n" in told.stdout


async def test_what_is_no_proof_is_refused(here: Cli, tmp_path: Path) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz") as tar:
        link = tarfile.TarInfo("proof/manifest.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (tmp_path / "evil.tar.gz").write_bytes(plain.getvalue())
    done = await here("proof", "verify", "evil.tar.gz")
    assert (done.status, done.stdout) == (
        1,
        "evil.tar.gz is no proof: 'proof/manifest.json' is no plain file\n",
    )
    done = await here("proof", "verify", "evil.tar.gz", "--json")
    assert (done.status, "no plain file" in json.loads(done.stdout)["error"]["message"]) == (1, True)
    done = await here("proof", "verify", "nowhere.tar.gz")
    assert (done.status, done.stderr) == (1, "llama-orch: nowhere.tar.gz: No such file or directory\n")


async def test_a_chain_that_does_not_hold_is_told_when_the_proof_is_made(
    fake: FakeDaemon, here: Cli, tmp_path: Path
) -> None:
    record(fake)
    record(fake, "poem-2")
    after = fake.ledger.read(1, 1)[0]
    fake.ledger.tamper(1, msgspec.structs.replace(after, content=after.content.replace(b"poem-2", b"poem-9")))
    done = await here("proof", "poem-1", "-o", "p.tar.gz")
    assert done.status == 1
    assert "wrong: receipts.jsonl: number 2: its bytes have the id" in done.stdout
