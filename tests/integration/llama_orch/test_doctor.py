"""The doctor as a whole: real files, a stand-in for the daemon, and programs that hang."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from catalog_core.models import FsModelCatalog
from contracts.engines import ModelEntry
from contracts.pools import Cause, PoolError, PoolState
from llama_orch.doctor import runtimes
from llama_orch.doctor.base import Result, Status, ok
from llama_orch.doctor.checks import CHECKS, versions
from llama_orch.doctor.examine import examine
from llama_orch.doctor.machine import Look, Machine, with_home
from llama_orch.trial import trial_config
from tests.integration.llama_orch.conftest import CHECKOUT, run
from tests.support.certificates import authority_and_server
from tests.unit.llama_orch.fake import TOKEN, FakeDaemon
from tests.unit.model_provisioner.heads import write_model

CONTAINERS = """
pools:
  - {id: a, engine: vllm, model: "hf:org/repo", devices: [0]}
"""


def machine(tmp_path: Path, url: str, text: str | None = None, **environ: str) -> Machine:
    write_model(tmp_path / "m.gguf")
    path = tmp_path / "config.yaml"
    own = trial_config(tmp_path / "m.gguf", url.removeprefix("http://")).replace("ctx: 512", "ctx: 256")
    path.write_text(own if text is None else text)
    path.chmod(0o600)
    # A short path for the socket; nothing is made there.
    known = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/tmp", "PATH": os.environ["PATH"]}
    token = {} if "LLORCH_API_TOKEN" in environ else {"LLORCH_API_TOKEN": TOKEN}
    return Machine(config_path=path, url=None, environ=known | token | environ)


async def found(machine: Machine, *names: str) -> list[Result]:
    return list(await examine(machine, [check for check in CHECKS if check.name in names]))


def ids(results: Sequence[Result]) -> list[str]:
    return [result.id for result in results]


def program(folder: Path, name: str, text: str) -> str:
    """A program of this name, first on the PATH that is the answer."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


async def test_a_running_trial_has_no_failure(tmp_path: Path, url: str) -> None:
    results = await examine(machine(tmp_path, url))
    failures = {result.check for result in results if result.status is Status.FAILED}
    assert failures <= {"engine"}, results
    told = [result.what for result in results]
    assert f"{url.removeprefix('http://')}: orchestratord answers" in told
    assert "pool trial is ready" in told
    assert not [text for text in told if "failed itself" in text]
    assert [result.check for result in results if result.what == "profile trial needs none"] == [
        *("driver", "gpus", "compute_capability", "cuda")
    ]


async def test_every_failure_says_why_and_what_mends_it(fake: FakeDaemon, tmp_path: Path, url: str) -> None:
    fake.pool_state, fake.managed = PoolState.BROKEN, False
    fake.pool_error = PoolError(cause=Cause.ENGINE_EXIT, message="status 1", hint="read the log")
    results = await examine(machine(tmp_path, url))
    failures = [result for result in results if result.status is Status.FAILED and result.check == "daemons"]
    assert [(result.id, result.what) for result in failures] == [
        ("daemons.manager-away", "pool-managerd cannot be reached"),
        ("daemons.pool-down", "pool trial is broken: engine_exit: status 1"),
    ]
    assert all(result.why and result.mend for result in results if result.status is Status.FAILED)


async def test_each_problem_of_the_file_is_a_failure_and_the_rest_is_skipped(tmp_path: Path, url: str) -> None:
    results = await examine(machine(tmp_path, url, "profile: hom\npools: []\n"))
    failures = [result for result in results if result.check == "config"]
    assert [result.what.partition("config.yaml:")[2] for result in failures] == [
        "1: profile: 'hom' is not one of: home, trial",
        "2: pools: expected array of length >= 1",
    ]
    skipped = {result.check for result in results if result.status is Status.SKIPPED}
    assert skipped >= {
        "token",
        "paths",
        "disk",
        "filesystem",
        "permissions",
        "ports",
        "lan",
        "engine",
        "daemons",
        "driver",
    }


async def test_a_model_that_is_not_here_is_a_failure_of_its_own(tmp_path: Path, url: str) -> None:
    examined = machine(tmp_path, url)
    (fine,) = await found(examined, "model")
    assert (fine.id, fine.what) == ("model.ok", f"pool trial: {tmp_path}/m.gguf")
    (tmp_path / "m.gguf").unlink()
    (failure,) = await found(examined, "model")
    assert (failure.id, failure.what) == ("model.unusable", f"pool trial: there is no model file {tmp_path}/m.gguf")
    assert failure.mend


@pytest.mark.req("MP-04", "OP-06")
async def test_a_model_that_is_still_to_be_fetched_is_a_note_and_no_failure(tmp_path: Path, url: str) -> None:
    text = trial_config(tmp_path / "m.gguf", url.removeprefix("http://"))
    examined = machine(tmp_path, url, text.replace(str(tmp_path / "m.gguf"), "hf:org/repo/m.gguf"))
    (note,) = await found(examined, "model")
    assert (note.id, note.what) == ("model.to-fetch", "pool trial: hf:org/repo/m.gguf is not here yet")
    assert "llama-orch models pull hf:org/repo/m.gguf" in (note.mend or "")
    assert examined.paths is not None
    entry = ModelEntry(
        id="m",
        ref="hf:org/repo/m.gguf",
        local_path=str(tmp_path / "m.gguf"),
        size_bytes=1,
        digest="sha256:" + "a" * 64,
        ctx_max=16,
        fetched=True,
    )
    FsModelCatalog(examined.paths.catalog).put(entry, now_ms=1)
    assert ids(await found(examined, "model")) == ["model.context-stretched"]
    (tmp_path / "m.gguf").unlink()
    assert ids(await found(examined, "model")) == ["model.to-fetch"]


@pytest.mark.req("HP-23")
async def test_a_model_that_may_not_be_fetched_is_a_failure(tmp_path: Path, url: str) -> None:
    text = trial_config(tmp_path / "m.gguf", url.removeprefix("http://"))
    text = text.replace(str(tmp_path / "m.gguf"), "hf:org/repo/m.gguf")
    examined = machine(tmp_path, url, text + "\npolicy: {outbound: {default: deny}}\n")
    (failure,) = await found(examined, "model")
    assert "huggingface.co" in failure.what
    assert failure.mend


async def test_a_free_port_and_no_daemon(tmp_path: Path, port: int) -> None:
    address = f"127.0.0.1:{port}"
    examined = machine(tmp_path, f"http://{address}")
    free, yet = await found(examined, "ports", "daemons")
    assert (free.id, free.what) == ("ports.ok", f"{address}: free")
    assert (yet.id, yet.what, yet.status) == (
        "daemons.not-started",
        f"http://{address}: nothing was started yet",
        Status.NOTE,
    )
    assert examined.paths is not None
    examined.paths.tasks_db.parent.mkdir(parents=True)
    examined.paths.tasks_db.touch()  # orchestratord ran here once
    (away,) = await found(examined, "daemons")
    assert (away.id, away.mend) == ("daemons.unreachable", "llama-orch up starts both daemons")


@pytest.mark.req("OP-06")
async def test_daemons_that_an_installed_unit_should_run_are_a_failure(tmp_path: Path) -> None:
    units = tmp_path / ".config/systemd/user"
    units.mkdir(parents=True)
    (units / "llama-orch.target").write_text("[Unit]\n")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # and does not listen
        (away,) = await found(machine(tmp_path, f"http://127.0.0.1:{other.getsockname()[1]}"), "daemons")
    assert (away.id, away.status) == ("daemons.unreachable", Status.FAILED)
    assert away.mend == "llama-orch up starts both daemons, or: systemctl --user start llama-orch.target"


async def test_a_port_that_somebody_else_has_is_told_with_who(tmp_path: Path, aiohttp_server: AiohttpServer) -> None:
    server = await aiohttp_server(web.Application())
    (failure,) = await found(machine(tmp_path, f"http://127.0.0.1:{server.port}"), "ports")
    assert failure.id == "ports.taken"
    assert failure.what.startswith(f"127.0.0.1:{server.port}: taken by ")
    assert failure.what.endswith(f" (process {os.getpid()})")
    assert failure.mend == f"kill {os.getpid()}, or set server.bind to another port"


async def test_no_token_and_a_token_that_others_can_read(tmp_path: Path, url: str) -> None:
    examined = machine(tmp_path, url, LLORCH_API_TOKEN="")
    assert ids(await found(examined, "token")) == ["token.none"]
    (tmp_path / "api-token").write_text(TOKEN)
    (tmp_path / "api-token").chmod(0o644)
    open_to_all, skipped = await found(examined, "token", "daemons")
    assert (open_to_all.id, open_to_all.mend) == ("token.unusable", f"chmod 600 {tmp_path}/api-token")
    assert skipped.what == "needs a usable token"


async def test_directories_that_are_no_good(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").touch()
    text = trial_config(tmp_path / "m.gguf", url.removeprefix("http://"))
    text += f"paths: {{data: {tmp_path}/file/x, runtime: /tmp/{'r' * 100}}}\n"
    assert ids(await found(machine(tmp_path, url, text), "paths")) == ["paths.not-writable", "paths.long-socket"]


async def test_what_others_could_read_or_write_is_found(tmp_path: Path, url: str) -> None:
    examined = machine(tmp_path, url)
    assert ids(await found(examined, "permissions")) == ["permissions.ok"]
    examined.config_path.chmod(0o666)
    secrets = tmp_path / ".config/llama-orch/environment"
    secrets.parent.mkdir(parents=True)
    secrets.write_text("HF_TOKEN=x\n")
    secrets.chmod(0o644)
    assert ids(await found(examined, "permissions")) == ["permissions.config-writable", "permissions.secrets-readable"]


@pytest.mark.req("OP-02")
@pytest.mark.needs("openssl")
async def test_a_certificate_that_ends_soon_and_a_key_that_others_can_read(tmp_path: Path, url: str) -> None:
    authority_and_server(tmp_path, "127.0.0.1", days=3)
    (tmp_path / "key.pem").chmod(0o600)
    text = trial_config(tmp_path / "m.gguf", url.removeprefix("http://"))
    text = text.replace("server:\n", "server:\n  tls: {cert_file: cert.pem, key_file: key.pem}\n")
    examined = machine(tmp_path, url, text)
    (soon,) = await found(examined, "lan")
    assert (soon.id, soon.status) == ("lan.certificate-expires", Status.NOTE)
    (tmp_path / "key.pem").chmod(0o644)
    assert ids(await found(examined, "lan")) == ["lan.certificate-unusable"]
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "key.pem").write_text("nonsense")
    assert ids(await found(examined, "lan")) == ["lan.certificate-unusable"]
    (tmp_path / "cert.pem").unlink()
    assert ids(await found(examined, "lan")) == ["lan.certificate-unusable"]


async def test_the_exit_status_is_78_for_the_configuration_and_json_says_which(tmp_path: Path) -> None:
    done = await run(tmp_path, ["doctor", "--json"])
    document = json.loads(done.stdout)
    assert (done.status, document["ok"], done.stderr) == (78, False, "")
    assert document["checks"][0]["id"] == "config.unusable"
    assert document["checks"][0]["mend"] == "llama-orch init writes one"
    readable = await run(tmp_path, ["doctor"])
    assert readable.status == 78
    assert "FAILED   config: " in readable.stdout
    assert "mend: llama-orch init writes one" in readable.stdout


async def test_checks_are_chosen_listed_and_misspelt(tmp_path: Path) -> None:
    one = await run(tmp_path, ["doctor", "--json", "--check", "clock", "--check", "session"])
    assert {result["check"] for result in json.loads(one.stdout)["checks"]} == {"session", "clock"}
    listed = await run(tmp_path, ["doctor", "--list", "--json"])
    assert [each["check"] for each in json.loads(listed.stdout)] == [check.name for check in CHECKS]
    wrong = await run(tmp_path, ["doctor", "--check", "drivers"])
    assert (wrong.status, wrong.stdout) == (2, "")
    assert wrong.stderr == "llama-orch: there is no check 'drivers'\n  hint: did you mean driver?\n"


@pytest.mark.req("OP-06")
async def test_names_with_a_comma_between_them_are_told_how_several_are_chosen(tmp_path: Path) -> None:
    wrong = await run(tmp_path, ["doctor", "--check", "config,lan"])
    hint = "--check is given once for each: --check config --check lan"
    assert (wrong.status, wrong.stderr) == (2, f"llama-orch: there is no check 'config,lan'\n  hint: {hint}\n")


async def test_the_journal_gets_a_priority_on_each_line(tmp_path: Path) -> None:
    told = await run(tmp_path, ["doctor", "--journal", "--check", "config", "--check", "token"])
    first, second, last = told.stdout.splitlines()
    assert first.startswith("<3>failed config: ")
    assert "; mend: llama-orch init writes one" in first
    assert second == "<7>skipped token: needs a usable configuration"
    assert last == "<4>1 thing is wrong here (config): llama-orch doctor"


async def test_runtimes_that_hang_are_ended_and_told(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "PODMAN_S", 0.2)
    monkeypatch.setattr(runtimes, "DOCKER_S", 0.2)
    pids = tmp_path / "pids"
    pids.touch()  # one that is ended before it could say who it is is none that is left
    hangs = f"echo $$ >> {pids}; exec sleep 1000"
    program(tmp_path / "bin", "docker", hangs)
    path = program(tmp_path / "bin", "podman", hangs)
    podman, docker, cdi = await found(machine(tmp_path, url, CONTAINERS, PATH=path), "podman", "docker", "toolkit_cdi")
    assert (podman.id, docker.id, cdi.id) == ("podman.no-runtime", "docker.unusable", "toolkit_cdi.skipped")
    assert "podman info did not answer within 0.2 s" in podman.what
    assert "docker info did not answer within 0.2 s" in docker.what
    assert [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()] == []


async def test_a_check_that_hangs_or_breaks_stops_no_other(tmp_path: Path, url: str) -> None:
    async def hang(_look: Look) -> Sequence[Result]:
        await asyncio.Event().wait()
        return []

    async def fail(_look: Look) -> Sequence[Result]:
        raise PermissionError(13, "no")

    async def work(_look: Look) -> Sequence[Result]:
        return [ok("clock", "fine")]

    config, token, clock = (check for check in CHECKS if check.name in {"config", "token", "clock"})
    checks = [replace(config, run=hang, limit_s=0.01), replace(token, run=fail), replace(clock, run=work)]
    late, broken, fine = await examine(machine(tmp_path, url), checks)
    assert (late.id, late.status) == ("config.no-answer", Status.FAILED)
    assert late.why
    assert late.mend
    assert (broken.id, broken.status) == ("token.skipped", Status.SKIPPED)
    assert "PermissionError" in broken.what
    assert fine.id == "clock.ok"


async def test_without_home_or_any_variable_it_says_how_things_are(tmp_path: Path) -> None:
    """As from cron, or from a unit of the system's manager."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llama_orch", "doctor", "--json", "--check", "session", "--check", "config"),
        *("--config", str(tmp_path / "none.yaml")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(CHECKOUT)},
        cwd=tmp_path,
    )
    stdout, stderr = await process.communicate()
    assert stderr == b""
    assert process.returncode == 78
    assert json.loads(stdout)["checks"][0]["check"] == "config"


def test_a_user_whom_the_system_does_not_know_has_a_name_and_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = 54_321
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    assert with_home({"PATH": "/bin"}) == {"PATH": "/bin", "HOME": "/"}
    assert with_home({"HOME": "/h"}) == {"HOME": "/h"}
    nobody = Machine(config_path=tmp_path / "none", url=None, environ={"HOME": "/"}, uid=stranger)
    assert nobody.user == "54321"


async def test_a_card_that_nouveau_has_is_seen_on_the_bus(tmp_path: Path, url: str) -> None:
    """A machine of files: the card, its driver, the distribution."""
    root = tmp_path / "root"
    card = root / "sys/bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030000\n")
    (root / "sys/bus/pci/drivers/nouveau").mkdir(parents=True)
    (card / "driver").symlink_to(root / "sys/bus/pci/drivers/nouveau")
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text("ID=fedora\n")
    examined = machine(tmp_path, url, "pools: [{id: a, engine: llamacpp, model: x, devices: [0]}]\n")
    examined.root = root
    driver, gpus = await found(examined, "driver", "gpus")
    assert (driver.id, driver.what) == ("driver.nouveau", "nouveau has the card 0000:01:00.0")
    assert "akmod-nvidia" in (driver.mend or "")
    assert gpus.what == "the driver shows no GPU: the check driver says why"


async def test_the_home_profile_without_a_gpu_is_a_failure_with_its_mend(tmp_path: Path, url: str) -> None:
    text = 'pools: [{id: a, engine: llamacpp, model: x, devices: ["GPU-00000000-0000-0000-0000-000000000000"]}]\n'
    (failure,) = await found(machine(tmp_path, url, text), "driver")
    assert failure.status is Status.FAILED
    assert failure.mend


async def test_a_daemon_of_this_configuration_is_found_among_the_processes(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined = machine(tmp_path, url)
    assert ids(await found(examined, "versions")) == ["versions.skipped"]
    (tmp_path / "orchestratord").write_text("print(flush=True)\ninput()\n")
    for config in (tmp_path / "another.yaml", examined.config_path):
        stand_in = await asyncio.create_subprocess_exec(
            *(sys.executable, str(tmp_path / "orchestratord"), "--config", str(config)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert stand_in.stdout is not None
        await stand_in.stdout.readline()
        seen = await found(examined, "versions")
        with monkeypatch.context() as patched:
            patched.setattr(versions, "installed_s", lambda: 4e9)
            later = await found(examined, "versions")
        await stand_in.communicate(b"\n")
        ours = config == examined.config_path
        assert ids(seen) == ["versions.ok" if ours else "versions.skipped"]
        assert ids(later) == ["versions.older" if ours else "versions.skipped"]
        assert (f"orchestratord ({stand_in.pid})" in seen[0].what) is ours


async def test_a_machine_that_asks_another_one_needs_nothing_of_its_own(tmp_path: Path, url: str) -> None:
    environ = {"HOME": str(tmp_path), "LLORCH_URL": url, "LLORCH_API_TOKEN": TOKEN, "XDG_RUNTIME_DIR": "/tmp"}
    results = await examine(Machine(config_path=tmp_path / "none.yaml", url=None, environ=environ))
    assert [result for result in results if result.status is Status.FAILED] == []
    assert results[0].what == f"there is none, and this machine needs none: it asks {url}"
    assert "pool trial is ready" in [result.what for result in results]
