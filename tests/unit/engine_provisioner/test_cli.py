from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from contracts.config import Engine, Mode
from contracts.engines import ContainerRun, Plan, PlanStep, PreparedEngine
from contracts.pools import Cause
from daemon_core.redaction import Redactor
from engine_provisioner.cli import main
from engine_provisioner.display import shown
from engine_provisioner.errors import ProvisionError
from engine_provisioner.report import Result, document, exit_status, failed, readable
from tests.integration.pool_managerd.support import alive
from tests.plugins.failures import OperatorSees
from tests.support.waiting import until
from tests.unit.model_provisioner.heads import write_model

CONFIG = """\
profile: trial
paths: {{data: "{data}"}}
pools:
  - {{id: near, engine: llamacpp, model: m.gguf, provisioning: {{mode: package, package: {{name: xllamacpp}}}}}}
  - {{id: far, engine: openai, model: m, provisioning: {{mode: external, external: {{url: "http://127.0.0.1:9"{key}}}}}}}
"""


class Outcome(NamedTuple):
    status: object
    stdout: str
    stderr: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        return Outcome(ended.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(tmp_path: Path, key: str = "") -> Path:
    write_model(tmp_path / "m.gguf")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(data=tmp_path / "data", key=key))
    return path


@pytest.mark.req("EP-20", "EP-01")
def test_plan_prints_the_steps_and_changes_nothing(config: Path, tmp_path: Path, run: Run) -> None:
    result = run("plan", "--config", config)
    assert result.status == 0
    assert result.stdout.splitlines() == [
        "near:",
        "  1. check the flags of pool near",
        "  2. find the installed wheel xllamacpp",
        "  3. ask the server of xllamacpp for its version and its flags",
        "  4. compute the sha256 of the server of xllamacpp",
        "  5. record the engine in the engine catalog",
        "far:",
        "  1. no API key is configured",
        "  2. use the endpoint http://127.0.0.1:9; nothing is started",
        "  3. record the engine in the engine catalog",
    ]
    assert run("plan", "--config", config).stdout == result.stdout
    assert not (tmp_path / "data").exists()


@pytest.mark.req("EP-20")
def test_ensure_prepares_one_pool_and_says_each_step(config: Path, tmp_path: Path, run: Run) -> None:
    result = run("ensure", "--config", config, "--pool", "near", "--json")
    assert result.status == 0
    (found,) = json.loads(result.stdout)
    assert found["pool_id"] == "near"
    assert found["engine"]["engine_version"].startswith("xllamacpp-")
    steps = json.loads(run("plan", "--config", config, "--pool", "near", "--json").stdout)[0]["plan"]["steps"]
    assert result.stderr.splitlines() == [f"near: {step['detail']}" for step in steps]
    entries = json.loads((tmp_path / "data" / "catalog" / "engines.json").read_text())["entries"]
    assert list(entries) == [found["engine"]["engine_catalog_id"]]


@pytest.mark.req("EP-20", "EP-11")
def test_ensure_shows_the_whole_argument_vector(config: Path, run: Run) -> None:
    heading, command, env, *_ = run("ensure", "--config", config, "--pool", "near").stdout.splitlines()
    assert re.fullmatch(r"near: llamacpp xllamacpp-\S+, mode package", heading)
    assert command.startswith(f"  command:  {sys.executable} -P ")
    assert "--model '{model}' --host '{host}' --port '{port}'" in command
    assert env.startswith("  env:      CUDA_VISIBLE_DEVICES=")


@pytest.mark.req("EP-20")
def test_preflight_says_what_is_in_the_way_with_status_1(tmp_path: Path, run: Run, operator_sees: OperatorSees) -> None:
    config = write(tmp_path, key=", api_key_env: LLORCH_TEST_NO_SUCH_KEY")
    result = run("preflight", "--config", config)
    assert result.status == 1
    operator_sees("cli/preflight", result.stdout)
    failed = run("ensure", "--config", config, "--pool", "far")
    assert failed.status == 1
    operator_sees("cli/ensure", failed.stdout)
    error = json.loads(run("ensure", "--config", config, "--pool", "far", "--json").stdout)[0]["error"]
    assert (error["cause"], error["retriable"]) == ("engine_missing", False)


@pytest.mark.req("EP-20")
def test_one_pool_that_fails_does_not_keep_the_others_from_being_prepared(tmp_path: Path, run: Run) -> None:
    config = write(tmp_path, key=", api_key_env: LLORCH_TEST_NO_SUCH_KEY")
    config.write_text(config.read_text().replace("- {id: near", "- {id: zzz").replace("- {id: far", "- {id: aaa"))
    lines = config.read_text().splitlines()
    config.write_text("\n".join([*lines[:3], lines[4], lines[3]]))
    result = run("ensure", "--config", config, "--json")
    assert result.status == 1
    first, second = json.loads(result.stdout)
    assert "error" in first
    assert "engine" in second


@pytest.mark.req("EP-20")
def test_usage_and_configuration_have_their_own_status(
    config: Path, tmp_path: Path, run: Run, operator_sees: OperatorSees
) -> None:
    result = run("plan", "--config", config, "--pool", "gpu7")
    assert result.status == 2
    operator_sees("cli/no-such-pool", result.stderr)
    assert run("plan", "--frobnicate").status == 2
    missing = run("plan", "--config", tmp_path / "none.yaml")
    assert missing.status == 78
    assert "there is no such file" in missing.stderr
    (tmp_path / "bad.yaml").write_text("pools: []\n")
    assert run("preflight", "--config", tmp_path / "bad.yaml").status == 78


def test_it_is_a_program(config: Path) -> None:
    argv = [sys.executable, "-m", "engine_provisioner.cli", "plan", "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("near:\n")


@pytest.mark.req("EP-20")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_what_a_command_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    server, noted = tmp_path / "llama-server", tmp_path / "pid"
    os.mkfifo(noted)
    # More than a pipe holds: once all is written, somebody is reading.
    server.write_text(f"#!/bin/sh\nhead -c 300000 /dev/zero\nsleep 600 & echo $! > {noted}\nwait\n")
    server.chmod(0o755)
    config = tmp_path / "config.yaml"
    pool = f'{{id: a, engine: llamacpp, model: m, provisioning: {{mode: binary, binary: {{path: "{server}"}}}}}}'
    config.write_text(f"paths: {{data: {tmp_path}/data}}\npools: [{pool}]\n")
    # GPUs are not what this is about, and a run of tests that ignores SIGHUP (nohup) hands that on.
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "import sys, engine_provisioner.providers.native as native, engine_provisioner.cli as cli\n"
        "native.gpu_findings = lambda *_: ()\n"
        "cli.main(sys.argv[1:])\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "ensure", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    grandchild = int(await asyncio.to_thread(noted.read_text))
    process.send_signal(number)
    stdout, stderr = await process.communicate()
    assert (process.returncode, stdout) == (130, b""), stderr
    assert b"Traceback" not in stderr
    await until(lambda: not alive(grandchild), "the end of the grandchild")


# --- the words --------------------------------------------------------------------------------------------------------

CONTAINER = PreparedEngine(
    engine=Engine.VLLM,
    engine_version="vllm v0.11.0",
    provisioning_mode=Mode.CONTAINER,
    engine_digest="sha256:" + "ab" * 32,
    image_ref="docker.io/vllm/vllm-openai@sha256:" + "ab" * 32,
    container=ContainerRun(
        runtime="podman",
        runtime_reason="rootless podman works",
        image="docker.io/vllm/vllm-openai",
        digest="sha256:" + "ab" * 32,
        port=8000,
        tag="v0.11.0",
    ),
    args=("--model", "{model}", "--chat-template", "a b"),
    env={"HF_TOKEN": "sesame", "VLLM_LOGGING_LEVEL": "INFO"},
    key_env="VLLM_API_KEY",
)


@pytest.mark.req("EP-13", "ORCH-3802")
def test_a_container_is_shown_with_its_runtime_and_digest_and_no_secret() -> None:
    result = Result(pool_id="small", engine=CONTAINER)
    digest = "sha256:" + "ab" * 32
    assert readable(result, Redactor()).splitlines() == [
        "small: vllm v0.11.0, mode container",
        f"  image:    docker.io/vllm/vllm-openai@{digest} (tag v0.11.0)",
        "  runtime:  podman: rootless podman works",
        "  command:  --model '{model}' --chat-template 'a b'",
        "  env:      HF_TOKEN=*** VLLM_LOGGING_LEVEL=INFO",
        "  key:      a new one at each start, in VLLM_API_KEY",
        f"  digest:   {digest}",
    ]
    (shown_as_json,) = json.loads(document([result], Redactor()))
    assert shown_as_json["engine"]["container"]["digest"] == digest
    assert "sesame" not in document([result], Redactor())


@pytest.mark.req("EP-13", "ORCH-3811")
def test_our_own_words_stay_and_only_secrets_go() -> None:
    text = "--api-key would put a secret there; s3cret-value; file:///etc/passwd has the sha256 X; --alias 'passwd Is'"
    kept = text.replace("s3cret-value", "***")
    result = failed("a", ProvisionError(Cause.ENGINE_FETCH, text, text))
    redactor = Redactor(("s3cret-value",))
    assert readable(result, redactor).splitlines() == ["a: failed", f"engine_fetch: {kept}", f"  mend: {kept}"]
    (found,) = json.loads(document([result], redactor))
    assert found["error"]["message"] == kept


@pytest.mark.req("ORCH-3811")
def test_the_secrets_of_the_environment_are_in_no_result(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_TOKEN", "sesame-open")
    config = write(tmp_path, key=", api_key_env: sesame-open")
    for more in ((), ("--json",)):
        said = run("preflight", "--config", config, "--pool", "far", *more).stdout
        assert "the environment variable *** is not set" in said
        assert "sesame" not in said


@pytest.mark.parametrize(("retriable", "status"), [((), 0), ((True,), 75), ((True, False), 1), ((False,), 1)])
def test_only_what_may_mend_itself_is_worth_another_try(retriable: tuple[bool, ...], status: int) -> None:
    good = Result(pool_id="a", findings=())
    bad = [failed("b", ProvisionError(Cause.ENGINE_FETCH, "m", "h", retriable=each)) for each in retriable]
    assert exit_status([good, *bad]) == status


PLAN = Plan(pool_id="a", steps=(PlanStep(kind="fetch", detail="fetch it"), PlanStep(kind="build", detail="build it")))


def on_a_terminal(work: Callable[[Callable[[str], None]], None]) -> str:
    """What a terminal gets to see, without what moves the cursor."""
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor(1) as reader:
        seen = reader.submit(read_terminal, ours)
        with os.fdopen(theirs, "w") as stream, suppress(ProvisionError), shown("a", PLAN, stream) as progress:
            work(progress.say)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.result())


def read_terminal(descriptor: int) -> str:
    """All that is written to a terminal until nobody writes to it any more."""
    read = b""
    with open(descriptor, "rb", buffering=0) as stream, suppress(OSError):
        while chunk := stream.read(65_536):
            read += chunk
    return read.decode()


def test_on_a_terminal_finished_steps_stand_and_figures_pass() -> None:
    def work(say: Callable[[str], None]) -> None:
        say("fetch it")
        say("a note \x1b[2J of HF_TOKEN=sesame")
        say("build it")
        say("[ 45%] Building CXX object")

    lines = [line.strip() for line in on_a_terminal(work).replace("\r", "\n").splitlines()]
    assert [line for line in lines if line.startswith("a: ") and "/2" not in line] == [
        "a: a note  [2J of HF_TOKEN=***",
        "a: done   fetch it",
        "a: done   build it",
    ]


def test_on_a_terminal_the_step_that_failed_is_told() -> None:
    def work(say: Callable[[str], None]) -> None:
        say("fetch it")
        raise ProvisionError(Cause.ENGINE_FETCH, "m", "h")

    assert "a: failed fetch it" in on_a_terminal(work)
