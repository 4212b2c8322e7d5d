import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from contracts.config import Profile
from contracts.errors import ErrorBody, ErrorCode
from contracts.events import Metrics, StreamError
from contracts.pools import Cause, PoolError, PoolState
from contracts.tasks import Determinism, PlacementMode, Priority, Role, TaskState, Workload
from daemon_core.config_file import load
from llama_orch.session import find_session
from tests.integration.llama_orch.conftest import Cli, environment, run, started
from tests.plugins.failures import OperatorSees
from tests.unit.llama_orch.fake import TEXT, TOKEN, FakeDaemon

pytestmark = pytest.mark.timeout(120)  # programs start one after the other


async def test_run_streams_to_standard_output_and_tells_the_rest_on_standard_error(fake: FakeDaemon, cli: Cli) -> None:
    done = await cli("run", "a haiku about rain")
    assert (done.status, done.stdout) == (0, TEXT + "\n")
    assert done.stderr == (
        "5 tokens in, 4 out | 500 tokens/s | queued 1 ms | first token after 3 ms | stop | pool trial | llamacpp b1 | "
        "seed 7 | profile trial\n"
    )
    (request,) = fake.requests
    assert (request.model_ref, request.prompt) == ("/haiku.gguf", "a haiku about rain")


@pytest.mark.req("HP-17")
async def test_run_names_the_replica_that_gave_the_answer(fake: FakeDaemon, cli: Cli) -> None:
    fake.moved = Metrics(pool_id="gpu1", replica_id="gpu1-0", engine="vllm", engine_version="0.9", model_digest="d")
    assert "| stop | pool gpu1 | vllm 0.9 | seed 7" in (await cli("run", "x")).stderr
    told = json.loads((await cli("run", "x", "--json")).stdout)["started"]
    assert (told["pool_id"], told["replica_id"], told["model_digest"]) == ("gpu1", "gpu1-0", "d")


async def test_every_option_of_run_reaches_the_daemon(fake: FakeDaemon, cli: Cli) -> None:
    arguments = "--model m --seed 3 --max-tokens 9 --priority batch --pool trial --temperature 0.5 --strict --chat"
    done = await cli("run", "-", *arguments.split(), stdin="from standard input")
    assert done.status == 0
    (request,) = fake.requests
    assert request.messages is not None
    assert [(turn.role, turn.content) for turn in request.messages] == [(Role.USER, "from standard input")]
    assert (request.model_ref, request.seed, request.max_tokens, request.prompt) == ("m", 3, 9, None)
    assert (request.priority, request.determinism) == (Priority.BATCH, Determinism.STRICT)
    assert (request.workload, request.sampling.temperature) == (Workload.CHAT, 0.5)
    assert (request.placement.mode, request.placement.pool_id) == (PlacementMode.PIN, "trial")


async def test_run_as_json_is_one_document(cli: Cli) -> None:
    done = await cli("run", "x", "--json")
    document = json.loads(done.stdout)
    assert (done.status, done.stderr) == (0, "")
    assert (document["text"], document["started"]["seed"], document["end"]["tokens_out"]) == (TEXT, 7, 4)


async def test_a_dry_run_says_what_would_become_of_a_task(fake: FakeDaemon, cli: Cli) -> None:
    done = await cli("run", "a haiku about rain", "--dry-run")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == (
        "it would start in about 40 s (20 s to 1 min 5 s): 3 tasks go before it\n"
        "it would end in about 52 s\n"
        "in pool trial (trial-0)\n"
        "5 prompt tokens (counted by the engine), about 4 new ones\n"
        "nothing was sent\n"
    )
    assert json.loads((await cli("run", "x", "--dry-run", "--json")).stdout)["predicted_end_ms"] == 52_000
    assert [request.prompt for request in fake.requests] == ["a haiku about rain", "x"]


async def test_a_dry_run_that_would_be_refused_is_refused(fake: FakeDaemon, cli: Cli) -> None:
    fake.refusal = ErrorBody(code=ErrorCode.ADMISSION_REJECT, message="full", retriable=True, correlation_id="c")
    done = await cli("run", "x", "--dry-run")
    assert (done.status, done.stdout, done.stderr) == (75, "", "llama-orch: ADMISSION_REJECT: full\n")


async def test_who_wants_to_know_is_told_where_a_task_waits(cli: Cli) -> None:
    told = (await cli("run", "x", "--verbose")).stderr.splitlines()
    assert told[0] == "waiting: 1 task goes before it; it starts in about 1 min 30 s"
    assert told[1].startswith("5 tokens in, 4 out")


@pytest.mark.parametrize(("retriable", "status"), [(True, 75), (False, 1)])
async def test_a_refusal_is_told_and_says_whether_to_try_again(
    fake: FakeDaemon, cli: Cli, retriable: bool, status: int
) -> None:
    fake.refusal = ErrorBody(
        code=ErrorCode.ADMISSION_REJECT, message="full", retriable=retriable, correlation_id="c", hint="wait"
    )
    done = await cli("run", "x")
    assert (done.status, done.stdout) == (status, "")
    assert done.stderr == "llama-orch: ADMISSION_REJECT: full\n  hint: wait\n"


async def test_a_task_that_fails_says_so(fake: FakeDaemon, cli: Cli) -> None:
    fake.error = StreamError(code=ErrorCode.WORKER_RESET, message="the engine died", retriable=True, hint="again")
    done = await cli("run", "x")
    assert (done.status, done.stdout) == (75, TEXT + "\n")
    assert done.stderr == "llama-orch: WORKER_RESET: the engine died\n  hint: again\n"


async def test_ctrl_c_cancels_the_task(fake: FakeDaemon, url: str, tmp_path: Path) -> None:
    fake.hold_after = 2
    async with started(tmp_path, ["run", "x"], LLORCH_URL=url, LLORCH_API_TOKEN=TOKEN) as process:
        await fake.holding.wait()
        assert process.stdout is not None
        await process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, stderr = await process.communicate()
    assert fake.canceled.is_set()
    assert process.returncode == 130
    assert "| canceled |" in stderr.decode()


async def test_no_pool_is_ready(fake: FakeDaemon, cli: Cli) -> None:
    fake.pool_state = PoolState.STARTING
    done = await cli("run", "x")
    assert done.status == 75
    assert done.stderr == "llama-orch: POOL_UNREADY: no pool is ready\n  hint: llama-orch pools shows why\n"


async def test_an_unknown_pool_is_told_with_the_known_ones(cli: Cli) -> None:
    done = await cli("run", "x", "--pool", "gpu7")
    assert (done.status, done.stderr) == (1, "llama-orch: NOT_FOUND: there is no pool 'gpu7'\n  hint: pools: trial\n")


async def test_pools_says_why_one_is_not_ready(fake: FakeDaemon, cli: Cli) -> None:
    fake.pool_state, fake.managed = PoolState.BACKOFF, False
    fake.pool_error = PoolError(cause=Cause.ENGINE_EXIT, message="status 1", hint="read the log")
    done = await cli("pools")
    heading, row, *rest = done.stdout.splitlines()
    assert heading.split("\t")[:3] == ["POOL", "STATE", "ENGINE"]
    assert row.split("\t") == ["trial", "backoff", "llamacpp b1", "/haiku.gguf", "0/1", "0", "-", "0"]
    assert rest == ["", "trial: engine_exit: status 1", "  hint: read the log"]
    assert done.stderr == "pool-managerd cannot be reached: these are the last known states\n"
    as_json = json.loads((await cli("pools", "--json")).stdout)
    assert as_json["pools"][0]["last_error"]["cause"] == "engine_exit"


@pytest.mark.req("OP-02")
async def test_pools_says_what_starts_one_again_that_was_drained(fake: FakeDaemon, cli: Cli) -> None:
    fake.pool_state = PoolState.STOPPED
    _, _, *rest = (await cli("pools")).stdout.splitlines()
    assert rest == ["", "trial: it was drained; llama-orch reload trial starts it again"]
    fake.managed = False  # it is not known yet: nothing was ever heard of it
    assert "drained" not in (await cli("pools")).stdout


async def test_pools_shows_the_last_error_of_a_pool_that_is_ready_as_such(fake: FakeDaemon, cli: Cli) -> None:
    fake.pool_error = PoolError(cause=Cause.MODEL_MISSING, message="there is no /b.gguf", hint="check the path")
    _, row, *rest = (await cli("pools")).stdout.splitlines()
    assert row.split("\t")[1] == "ready"
    assert rest == ["", "trial: ready, last error: model_missing: there is no /b.gguf", "  hint: check the path"]


async def test_tasks_and_cancel(fake: FakeDaemon, cli: Cli) -> None:
    await cli("run", "x")
    listed = await cli("tasks", "--state", "done")
    task_id = listed.stdout.splitlines()[1].split("\t")[0]
    assert task_id == fake.requests[0].task_id
    assert (await cli("tasks", "--state", "queued")).stdout == "no tasks\n"
    assert json.loads((await cli("tasks", "--json")).stdout)["tasks"][0]["task_id"] == task_id
    assert await cli("cancel", task_id, "other") == (0, f"canceled {task_id}\ncanceled other\n", "")
    assert fake.canceled.is_set()


@pytest.mark.parametrize(("ended", "how"), [(TaskState.DONE, "stop"), (TaskState.FAILED, "WORKER_RESET")])
async def test_a_task_that_had_finished_is_not_said_to_be_canceled(
    fake: FakeDaemon, cli: Cli, ended: TaskState, how: str
) -> None:
    fake.ended = ended
    assert await cli("cancel", "t") == (0, f"t had finished already: {how}\n", "")
    assert json.loads((await cli("cancel", "t", "--json")).stdout)["finished"][0]["state"] == ended


async def test_a_cancel_that_is_refused_is_one_document(fake: FakeDaemon, cli: Cli) -> None:
    fake.left = {"known": None}
    done = await cli("cancel", "known", "gone", "--json")
    document = json.loads(done.stdout)
    assert (done.status, done.stderr, document["canceled"]) == (1, "", ["known"])
    assert [each["code"] for each in document["refused"]] == ["NOT_FOUND"] == [document["error"]["code"]]
    done = await cli("cancel", "known", "gone")
    assert (done.status, done.stdout) == (1, "canceled known\n")
    assert done.stderr == "llama-orch: NOT_FOUND: there is no task 'gone'\n  hint: it was forgotten\n"


async def test_wrong_usage_is_2_and_never_a_traceback(cli: Cli) -> None:
    for arguments in (["pols"], ["run"], ["run", "x", "--seed", "-1"], ["tasks", "--state", "lost"], []):
        done = await cli(*arguments)
        assert done.status == 2, arguments
        assert "Usage: llama-orch" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


async def test_a_wrong_token_is_a_failure(cli: Cli) -> None:
    done = await cli("pools", LLORCH_API_TOKEN="another")
    assert (done.status, done.stderr) == (1, "llama-orch: MISSING_TOKEN: a token is needed\n  hint: send one\n")


async def test_nobody_there_is_75_also_as_json(cli: Cli) -> None:
    done = await cli("pools", "--json", "--url", "http://127.0.0.1:9")
    assert (done.status, done.stderr) == (75, "")
    assert json.loads(done.stdout)["error"]["code"] == "UNREACHABLE"


@pytest.mark.req("OP-02", "OP-06")
def test_what_starts_the_daemons_is_told_as_this_machine_is(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    init = "llama-orch init writes a configuration; then llama-orch up starts both daemons"
    assert find_session(None, None, environ).start == init
    assert find_session(None, "http://127.0.0.1:9", environ).start == "llama-orch up starts both daemons"
    home = tmp_path / ".config" / "llama-orch"
    home.mkdir(parents=True)
    (home / "config.yaml").write_text("pools: [{id: a, engine: llamacpp, model: x.gguf, devices: [0]}]\n")
    assert find_session(None, None, environ).start == "llama-orch up starts both daemons"
    units = tmp_path / ".config" / "systemd" / "user"
    units.mkdir(parents=True)
    (units / "llama-orch.target").touch()
    start = "llama-orch up starts both daemons, or: systemctl --user start llama-orch.target"
    assert find_session(None, None, environ).start == start


@pytest.mark.req("HP-26")
async def test_a_wrong_configuration_is_78_with_its_line(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("pools:\n  - {id: a, engine: llamacpp, model: x, ctx: many, devices: [0]}\n")
    for command in ("pools", "up", "token"):
        done = await cli(command, "--config", str(path))
        assert (done.status, done.stdout) == (78, "")
        assert done.stderr == f"llama-orch: {path}:2: pools[0].ctx: expected int, got str, found 'many'\n"


async def test_init_for_the_trial_writes_a_configuration_and_a_private_token(tmp_path: Path) -> None:
    done = await run(tmp_path, ["init", "--trial"])
    home = tmp_path / ".config" / "llama-orch"
    assert done.status == 0, done.stderr
    assert load(home / "config.yaml").profile is Profile.TRIAL
    assert (home / "api-token").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    token = (home / "api-token").read_text().strip()
    assert token not in done.stdout + done.stderr

    again = await run(tmp_path, ["init", "--trial"])
    assert again.status == 1
    assert again.stderr == (
        f"llama-orch: {home}/config.yaml is there already\n"
        "  hint: edit it; or replace it with --force, which keeps it as config.yaml.old\n"
    )
    (home / "config.yaml").write_text("changed")
    assert (await run(tmp_path, ["init", "--trial", "--force"])).status == 0
    assert load(home / "config.yaml").profile is Profile.TRIAL
    assert (home / "api-token").read_text().strip() == token, "clients use it"

    where = await run(tmp_path, ["token"])
    assert token not in where.stdout
    assert str(home / "api-token") in where.stdout
    assert (await run(tmp_path, ["token", "--show"])).stdout == token + "\n"


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
async def test_init_without_a_gpu_writes_nothing(tmp_path: Path) -> None:
    done = await run(tmp_path, ["init"])
    assert (done.status, done.stdout) == (1, "")
    assert "llama-orch init --trial" in done.stderr
    assert not (tmp_path / ".config").exists()


async def test_the_token_is_found_in_the_home_that_init_made(fake: FakeDaemon, url: str, tmp_path: Path) -> None:
    home = tmp_path / ".config" / "llama-orch"
    home.mkdir(parents=True)
    (home / "api-token").touch(mode=0o600)
    (home / "api-token").write_text(TOKEN)
    assert (await run(tmp_path, ["pools", "--url", url])).status == 0
    (home / "api-token").chmod(0o644)
    refused = await run(tmp_path, ["pools", "--url", url])
    assert refused.status == 78
    assert "chmod 600" in refused.stderr


async def test_a_reader_that_leaves_is_no_defect(fake: FakeDaemon, url: str, tmp_path: Path) -> None:
    fake.pieces = tuple(f"{number} " + "x" * 1000 for number in range(2000))
    script = f"set -o pipefail; '{sys.executable}' -m llama_orch run x | head -c 10"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(tmp_path, LLORCH_URL=url, LLORCH_API_TOKEN=TOKEN),
    )
    assert await process.communicate() == (b"0 xxxxxxxx", b"")
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("redirection", "name"), [(">/dev/full", "full"), (">&-", "closed")], ids=["full disk", "closed"]
)
async def test_output_that_cannot_be_written_is_no_defect(
    tmp_path: Path, redirection: str, name: str, operator_sees: OperatorSees
) -> None:
    for command in ("version", "plan --config config.yaml", "--help"):
        (tmp_path / "config.yaml").write_text("pools: [{id: a, engine: llamacpp, model: m}]")
        script = f"'{sys.executable}' -m llama_orch {command} {redirection}"
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", script), stderr=asyncio.subprocess.PIPE, env=environment(tmp_path), cwd=tmp_path
        )
        _, stderr = await process.communicate()
        assert process.returncode == 1
        operator_sees(f"cli/output-{name}", stderr.decode())


@pytest.mark.parametrize("command", ["version", "pools --config missing.yaml"], ids=["a result", "an error"])
async def test_json_that_cannot_be_written_is_told_on_standard_error(tmp_path: Path, command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"'{sys.executable}' -m llama_orch {command} --json >/dev/full"),
        stderr=asyncio.subprocess.PIPE,
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (1, b"llama-orch: standard output: No space left on device\n")


async def test_a_file_that_cannot_be_read_is_one_document_as_json(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = await cli("proof", "verify", "folder", "--json")
    assert (done.status, done.stderr) == (1, "")
    assert json.loads(done.stdout) == {"error": {"message": "folder: Is a directory", "hint": None}}


async def test_an_answer_that_the_terminal_has_no_signs_for_is_shown_all_the_same(cli: Cli) -> None:
    old = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    shown = await cli("run", "x", **old)
    assert (shown.status, shown.stdout) == (0, TEXT.replace("ü", "\\xfc") + "\n")
    assert json.loads((await cli("run", "x", "--json", **old)).stdout)["text"] == TEXT


async def test_nothing_to_read_from_is_an_empty_prompt(fake: FakeDaemon, url: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"'{sys.executable}' -m llama_orch run - <&-"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(tmp_path, LLORCH_URL=url, LLORCH_API_TOKEN=TOKEN),
    )
    _, stderr = await process.communicate()
    assert b"defect" not in stderr
    assert [request.prompt for request in fake.requests] == [""]


async def test_a_prompt_that_is_no_utf_8_is_wrong_usage(url: str, tmp_path: Path, operator_sees: OperatorSees) -> None:
    for prompt, stdin in ((b"caf\xe9", b""), (b"-", b"caf\xe9")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable.encode(), b"-m", b"llama_orch", b"run", prompt),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(tmp_path, LLORCH_URL=url, LLORCH_API_TOKEN=TOKEN),
        )
        stdout, stderr = await process.communicate(stdin)
        assert (process.returncode, stdout) == (2, b"")
        operator_sees("cli/prompt-not-utf-8", stderr.decode())


async def test_other_text_that_is_no_utf_8_is_wrong_usage(cli: Cli) -> None:
    done = await cli("run", "x", "--model", "\udce9")
    assert (done.status, done.stderr) == (2, "llama-orch: an argument is not UTF-8, and cannot be sent\n")


async def test_the_version_is_an_option_too(cli: Cli) -> None:
    assert await cli("--version") == await cli("version")
