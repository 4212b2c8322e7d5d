"""Completion in the real shells: what each of them makes of our answers."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from contracts.catalog import CatalogModel
from tests.integration.llama_orch.conftest import Cli, environment, run
from tests.support.terminal import terminal
from tests.unit.llama_orch import busy
from tests.unit.llama_orch.fake import TOKEN, FakeDaemon

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def names(fake: FakeDaemon) -> FakeDaemon:
    fake.pool_list, fake.task_list = busy.pools(), busy.tasks(6)
    fake.models = {"qwen:14b": CatalogModel(id="qwen:14b", ref="hf:org/repo/m.gguf")}
    return fake


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program under its name, in a folder for the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "llama-orch"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m llama_orch "$@"\n')
    script.chmod(0o755)
    return folder


async def completed(shell: Sequence[str], script: str, tmp_path: Path, url: str, **more: str) -> str:
    """What a shell says that has read this."""
    environ = environment(tmp_path, LLORCH_URL=url, LLORCH_API_TOKEN=TOKEN, LLORCH_COMPLETION_S="20", **more)
    process = await asyncio.create_subprocess_exec(
        *shell,
        script,
        env=environ,
        cwd=tmp_path,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()


BASH = """
source <(llama-orch completion bash)
line() {
    COMP_LINE=$1 COMP_POINT=${#1}
    # As readline takes it apart, which has COMP_WORDBREAKS for that.
    COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _llama_orch; printf '%s|' "${COMPREPLY[@]}"; echo
}
compopt() { :; }
line 'llama-orch dr'
line 'llama-orch drain g'
line 'llama-orch run x --pool=gpu1'
line 'llama-orch models show qwen:1'
line 'llama-orch cancel task-000000000000000000000005'
"""


async def test_bash_completes_commands_and_names(names: FakeDaemon, url: str, program: Path, tmp_path: Path) -> None:
    path = f"{program}:/usr/bin:/bin"
    said = await completed(["bash", "--norc", "-c"], BASH, tmp_path, url, PATH=path)
    assert said.splitlines() == ["drain|", "gpu0|gpu1|", "gpu1|", "14b|", "task-000000000000000000000005|"]


@pytest.mark.needs("fish")
async def test_fish_completes_with_the_meaning(names: FakeDaemon, url: str, program: Path, tmp_path: Path) -> None:
    assert (await run(tmp_path, ["completion", "fish", "--install"])).status == 0
    lines = "complete -C 'llama-orch drain gp'; complete -C 'llama-orch models show qw'; complete -C 'llama-orch ca'"
    said = await completed(["fish", "-c"], lines, tmp_path, url, PATH=f"{program}:/usr/bin:/bin")
    assert said.splitlines() == ["gpu0\tready", "gpu1\tbackoff", "qwen:14b\thf:org/repo/m.gguf", "cancel\tCancel tasks"]


ZSH = """
# What zsh's completion system does for a function of ours, as far as ours needs it.
compdef() { :; }
_files() { print FILES; }
_describe() { print -r -- "$*: ${(j:|:)${(@P)3}}"; }
source <(llama-orch completion zsh)
line() { words=("$@") CURRENT=$#; _llama_orch; }
line llama-orch drain gp
line llama-orch models show qw
line llama-orch models pull /
"""


@pytest.mark.needs("zsh")
async def test_zsh_completes_with_the_meaning(names: FakeDaemon, url: str, program: Path, tmp_path: Path) -> None:
    done = await run(tmp_path, ["completion", "zsh", "--install"])
    assert f"fpath=({tmp_path}/.local/share/zsh/site-functions $fpath)" in done.stdout
    said = await completed(["zsh", "-f", "-c"], ZSH, tmp_path, url, PATH=f"{program}:/usr/bin:/bin")
    assert said.splitlines() == [
        "-V llama-orch found: gpu0:ready|gpu1:backoff",
        "-V llama-orch found: qwen\\:14b:hf:org/repo/m.gguf",
        "FILES",
    ]


async def test_without_a_daemon_pools_come_from_the_configuration_and_nothing_is_said(tmp_path: Path) -> None:
    await run(tmp_path, ["init", "--trial"])
    config = tmp_path / ".config/llama-orch/config.yaml"
    config.write_text(config.read_text().replace("127.0.0.1:8080", "127.0.0.1:9"))
    assert await run(tmp_path, ["__complete", "--", "drain", ""]) == (0, "trial\tllamacpp\n", "")
    assert await run(tmp_path, ["__complete", "--", "cancel", ""]) == (0, "", "")
    config.write_text("pools: nothing\n")
    assert await run(tmp_path, ["__complete", "--", "drain", ""]) == (0, "", "")


async def test_a_script_is_printed_and_installed_and_never_over_another(tmp_path: Path, cli: Cli) -> None:
    printed = await run(tmp_path, ["completion"], SHELL="/usr/bin/fish")
    assert "complete -c llama-orch" in printed.stdout
    assert (await run(tmp_path, ["completion"], SHELL="/usr/bin/tcsh")).status == 2
    for shell, place in {
        "bash": ".local/share/bash-completion/completions/llama-orch",
        "zsh": ".local/share/zsh/site-functions/_llama-orch",
        "fish": ".config/fish/completions/llama-orch.fish",
    }.items():
        for _ in range(2):
            done = await run(tmp_path, ["completion", shell, "--install", "--json"])
            assert json.loads(done.stdout)["path"] == str(tmp_path / place)
        (tmp_path / place).write_text("# mine\n")
        refused = await run(tmp_path, ["completion", shell, "--install"])
        assert (refused.status, (tmp_path / place).read_text()) == (1, "# mine\n")


SHELLS = ["bash", *(pytest.param(each, marks=pytest.mark.needs(each)) for each in ("zsh", "fish"))]


@pytest.mark.parametrize("shell", SHELLS)
async def test_every_shell_can_read_its_script(tmp_path: Path, shell: str) -> None:
    path = tmp_path / "script"
    path.write_text((await run(tmp_path, ["completion", shell])).stdout)
    process = await asyncio.create_subprocess_exec(shell, "-n", str(path), stderr=asyncio.subprocess.PIPE)
    assert (await process.communicate())[1] == b""
    assert process.returncode == 0


INTERACTIVE = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(llama-orch completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u; source <(llama-orch completion zsh)"),
}


@pytest.mark.parametrize("shell", ["bash", pytest.param("zsh", marks=pytest.mark.needs("zsh"))])
async def test_a_tab_completes_what_is_being_typed(
    names: FakeDaemon, url: str, program: Path, tmp_path: Path, shell: str
) -> None:
    command, load = INTERACTIVE[shell]
    environ = environment(tmp_path, LLORCH_URL=url, LLORCH_API_TOKEN=TOKEN, LLORCH_COMPLETION_S="20")
    environ |= {"PATH": f"{program}:/usr/bin:/bin", "PS1": "ready> ", "PROMPT": "ready> "}
    async with terminal(command, environ, tmp_path) as typist:
        await typist.shows("ready> ")
        typist.type(f"{load}; echo loa''ded\n")
        await typist.shows("loaded")
        typist.type("llama-orch dr\t")
        await typist.shows("llama-orch drain ")
        typist.type("gpu\t")  # as far as both pools are alike, and then the choice
        typist.type("1\t--wa\t")
        await typist.shows(" --wait ")  # zsh writes the blank before it twice
