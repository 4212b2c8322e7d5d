"""`llama-orch init` makes what is missing and loses nothing."""

from pathlib import Path

import pytest

from daemon_core import config_file
from tests.integration.llama_orch.conftest import CHECKOUT, run

pytestmark = pytest.mark.timeout(120)  # programs start one after the other
EXAMPLES = CHECKOUT / "examples"


async def test_a_lost_token_is_made_again_and_the_configuration_stays(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "llama-orch"
    assert (await run(tmp_path, ["init", "--trial"])).status == 0
    config, token = folder / "config.yaml", folder / "api-token"
    config.write_text(config.read_text() + "# mine\n")
    for spoil in (token.unlink, lambda: token.write_text("")):
        spoil()
        made = await run(tmp_path, ["init", "--trial"])
        assert (made.status, "made a new token" in made.stdout) == (0, True)
        assert len(token.read_text()) > 20
        assert config.read_text().endswith("# mine\n")
    assert (await run(tmp_path, ["init", "--trial"])).status == 1


async def test_a_replaced_configuration_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "llama-orch"
    await run(tmp_path, ["init", "--trial"])
    (folder / "config.yaml").write_text("# mine\n")
    assert (await run(tmp_path, ["init", "--trial", "--force"])).status == 0
    assert (folder / "config.yaml.old").read_text() == "# mine\n"
    (folder / "config.yaml").write_text("# mine again\n")
    again = await run(tmp_path, ["init", "--trial", "--force"])
    assert f"kept the old one as {folder}/config.yaml.old.2\n" in again.stdout
    assert [(folder / f"config.yaml.old{number}").read_text() for number in ("", ".2")] == [
        "# mine\n",
        "# mine again\n",
    ]
    assert config_file.load(folder / "config.yaml").pools[0].id == "trial"


async def test_what_comes_next_is_told_for_the_configuration_that_was_written(tmp_path: Path) -> None:
    usual = await run(tmp_path, ["init", "--trial"])
    assert "next: llama-orch up, or llama-orch units install" in usual.stdout
    path = tmp_path / "a second" / "config.yaml"
    second = await run(tmp_path, ["init", "--trial", "--config", str(path)])
    assert f"next: llama-orch up --config '{path}'; llama-orch doctor --config '{path}'" in second.stdout
    assert "units install" not in second.stdout  # they would start the other one
    assert "two at once need server.bind and paths: of their own" in second.stdout


async def test_an_example_becomes_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / ".config" / "llama-orch" / "config.yaml"
    done = await run(tmp_path, ["init", "--example", "home-profile"])
    assert (done.status, done.stderr) == (0, "")
    assert [pool.id for pool in config_file.load(path).pools] == [
        pool.id for pool in config_file.load(EXAMPLES / "home-profile/config.yaml").pools
    ]
    schema = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=file://")
    assert Path(schema).is_file()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (await run(tmp_path, ["init", "--force", "--example", "trial"])).status == 0
    assert Path(config_file.load(path).pools[0].model).is_file()


async def test_an_example_that_is_none_is_told_with_the_known_ones(tmp_path: Path) -> None:
    done = await run(tmp_path, ["init", "--example", "home"])
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("llama-orch: there is no example 'home'\n  hint: valid here: ")
    assert "home-profile" in done.stderr
    assert (await run(tmp_path, ["init", "--trial", "--example", "home-profile"])).status == 2
