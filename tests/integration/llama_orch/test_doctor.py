import json
import socket
from pathlib import Path

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from catalog_core.models import FsModelCatalog
from contracts.engines import ModelEntry
from contracts.pools import Cause, PoolError, PoolState
from llama_orch.doctor import Machine, Result, Status, examine
from llama_orch.trial import trial_config
from tests.integration.llama_orch.conftest import run
from tests.unit.llama_orch.fake import TOKEN, FakeDaemon
from tests.unit.model_provisioner.heads import write_model


def machine(tmp_path: Path, url: str, text: str | None = None, **environ: str) -> Machine:
    write_model(tmp_path / "m.gguf")
    path = tmp_path / "config.yaml"
    path.write_text(trial_config(tmp_path / "m.gguf", url.removeprefix("http://")) if text is None else text)
    # A short path for the socket; nothing is made there.
    known = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/tmp"}
    token = {} if "LLORCH_API_TOKEN" in environ else {"LLORCH_API_TOKEN": TOKEN}
    return Machine(config_path=path, url=None, environ=known | token | environ)


def by_check(results: tuple[Result, ...], status: Status) -> dict[str, Result]:
    return {result.check: result for result in results if result.status is status}


async def test_a_running_trial_has_no_failure(tmp_path: Path, url: str) -> None:
    results = await examine(machine(tmp_path, url))
    failures = by_check(results, Status.FAILED)
    assert failures.keys() <= {"engine"}, failures
    told = [result.what for result in results]
    assert f"{url.removeprefix('http://')}: orchestratord answers" in told
    assert "pool trial is ready" in told


async def test_every_failure_says_why_and_what_mends_it(fake: FakeDaemon, tmp_path: Path, url: str) -> None:
    fake.pool_state, fake.managed = PoolState.BROKEN, False
    fake.pool_error = PoolError(cause=Cause.ENGINE_EXIT, message="status 1", hint="read the log")
    results = await examine(machine(tmp_path, url))
    failures = [result for result in results if result.status is Status.FAILED and result.check == "daemons"]
    assert [result.what for result in failures] == [
        "pool-managerd cannot be reached",
        "pool trial is broken: engine_exit: status 1",
    ]
    assert all(result.why and result.mend for result in results if result.status is Status.FAILED)


async def test_each_problem_of_the_file_is_a_failure_and_the_rest_is_skipped(tmp_path: Path, url: str) -> None:
    results = await examine(machine(tmp_path, url, "profile: hom\npools: []\n"))
    failures = [result for result in results if result.status is Status.FAILED and result.check == "config"]
    assert [result.what.partition("config.yaml:")[2] for result in failures] == [
        "1: profile: 'hom' is not one of: home, trial",
        "2: pools: expected array of length >= 1",
    ]
    assert by_check(results, Status.SKIPPED).keys() >= {"token", "paths", "port", "daemons"}


async def test_a_model_that_is_not_here_is_a_failure_of_its_own(tmp_path: Path, url: str) -> None:
    examined = machine(tmp_path, url)
    assert by_check(await examine(examined), Status.OK)["model"].what == f"pool trial: {tmp_path}/m.gguf"
    (tmp_path / "m.gguf").unlink()
    failure = by_check(await examine(examined), Status.FAILED)["model"]
    assert failure.what == f"pool trial: there is no model file {tmp_path}/m.gguf"
    assert failure.mend


@pytest.mark.req("MP-04", "OP-06")
async def test_a_model_that_is_still_to_be_fetched_is_a_note_and_no_failure(tmp_path: Path, url: str) -> None:
    text = trial_config(tmp_path / "m.gguf", url.removeprefix("http://"))
    examined = machine(tmp_path, url, text.replace(str(tmp_path / "m.gguf"), "hf:org/repo/m.gguf"))
    note = by_check(await examine(examined), Status.NOTE)["model"]
    assert note.what == "pool trial: hf:org/repo/m.gguf is not here yet"
    assert note.mend is not None
    assert "llama-orch models pull hf:org/repo/m.gguf" in note.mend
    assert examined.paths is not None
    entry = ModelEntry(
        id="m",
        ref="hf:org/repo/m.gguf",
        local_path=str(tmp_path / "m.gguf"),
        size_bytes=1,
        digest="sha256:" + "a" * 64,
        fetched=True,
    )
    FsModelCatalog(examined.paths.catalog).put(entry, now_ms=1)
    assert by_check(await examine(examined), Status.OK)["model"].what == "pool trial: hf:org/repo/m.gguf"
    (tmp_path / "m.gguf").unlink()
    assert "model" in by_check(await examine(examined), Status.NOTE)


@pytest.mark.req("HP-23")
async def test_a_model_that_may_not_be_fetched_is_a_failure(tmp_path: Path, url: str) -> None:
    text = trial_config(tmp_path / "m.gguf", url.removeprefix("http://"))
    text = text.replace(str(tmp_path / "m.gguf"), "hf:org/repo/m.gguf")
    examined = machine(tmp_path, url, text + "\npolicy: {outbound: {default: deny}}\n")
    failure = by_check(await examine(examined), Status.FAILED)["model"]
    assert "huggingface.co" in failure.what
    assert failure.mend


async def test_a_free_port_and_no_daemon(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{other.getsockname()[1]}"
    results = await examine(machine(tmp_path, f"http://{address}"))
    assert by_check(results, Status.OK)["port"].what == f"{address}: free"
    assert "llama-orch up" in (by_check(results, Status.FAILED)["daemons"].mend or "")


async def test_a_port_that_somebody_else_has(tmp_path: Path, aiohttp_server: AiohttpServer) -> None:
    server = await aiohttp_server(web.Application())
    results = await examine(machine(tmp_path, f"http://127.0.0.1:{server.port}"))
    failure = by_check(results, Status.FAILED)["port"]
    assert failure.what == f"127.0.0.1:{server.port}: Address already in use"
    assert f"sport = :{server.port}" in (failure.mend or "")


async def test_no_token_and_a_token_that_others_can_read(tmp_path: Path, url: str) -> None:
    results = await examine(machine(tmp_path, url, LLORCH_API_TOKEN=""))
    assert by_check(results, Status.FAILED)["token"].what == "there is no token"
    (tmp_path / "api-token").write_text(TOKEN)
    (tmp_path / "api-token").chmod(0o644)
    results = await examine(machine(tmp_path, url, LLORCH_API_TOKEN=""))
    assert by_check(results, Status.FAILED)["token"].mend == f"chmod 600 {tmp_path}/api-token"
    assert by_check(results, Status.SKIPPED)["daemons"].what == "needs a usable token"


async def test_directories_that_are_no_good(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").touch()
    text = trial_config(tmp_path / "m.gguf", url.removeprefix("http://"))
    text += f"paths: {{data: {tmp_path}/file/x, runtime: /tmp/{'r' * 100}}}\n"
    results = await examine(machine(tmp_path, url, text))
    failures = [result for result in results if result.status is Status.FAILED and result.check == "paths"]
    assert [result.what.partition(": ")[0] for result in failures] == [
        "data",
        "the path of the socket has 124 bytes",
    ]


async def test_the_home_profile_without_a_gpu_is_a_failure_with_its_mend(tmp_path: Path, url: str) -> None:
    text = 'pools: [{id: a, engine: llamacpp, model: x, devices: ["GPU-00000000-0000"]}]\n'
    results = await examine(machine(tmp_path, url, text))
    failure = by_check(results, Status.FAILED)["gpus"]
    assert failure.mend


async def test_the_exit_status_is_1_when_one_check_fails_and_json_says_which(tmp_path: Path) -> None:
    done = await run(tmp_path, ["doctor", "--json"])
    document = json.loads(done.stdout)
    assert (done.status, document["ok"]) == (1, False)
    assert document["checks"][0]["mend"] == "llama-orch init writes one"
    readable = await run(tmp_path, ["doctor"])
    assert readable.status == 1
    assert "FAILED   config: " in readable.stdout
    assert "mend: llama-orch init writes one" in readable.stdout
