"""The trial's configuration outlives the installation that wrote it."""

from pathlib import Path

import pytest

from daemon_core import config_file
from llama_orch.trial import haiku_model_path
from tests.integration.llama_orch.conftest import CHECKOUT, run

pytestmark = pytest.mark.req("OP-01")


def named_model(home: Path) -> Path:
    return Path(config_file.load(home / ".config/llama-orch/config.yaml").pools[0].model)


async def test_it_names_a_copy_of_the_model_among_the_users_data(tmp_path: Path) -> None:
    done = await run(tmp_path, ["init", "--trial"])
    model = named_model(tmp_path)
    assert (done.status, model) == (0, tmp_path / ".local/share/llama-orch/trial/haiku.gguf")
    assert f"its model is {model}\n" in done.stdout
    assert model.read_bytes() == haiku_model_path().read_bytes()
    assert not model.is_relative_to(CHECKOUT)


async def test_a_copy_that_is_damaged_or_older_is_replaced_and_one_that_is_whole_is_not(tmp_path: Path) -> None:
    await run(tmp_path, ["init", "--trial"])
    model = named_model(tmp_path)
    before = model.stat().st_ino
    assert (await run(tmp_path, ["init", "--trial", "--force"])).status == 0
    assert model.stat().st_ino == before
    model.write_bytes(b"GGUF")
    assert (await run(tmp_path, ["init", "--force", "--example", "trial"])).status == 0
    assert model.read_bytes() == haiku_model_path().read_bytes()


async def test_where_the_model_cannot_be_written_there_is_no_configuration_either(tmp_path: Path) -> None:
    (tmp_path / ".local").write_text("a file")
    done = await run(tmp_path, ["init", "--trial"])
    assert done.status != 0
    assert str(tmp_path / ".local/share/llama-orch") in done.stderr
    assert not (tmp_path / ".config/llama-orch/config.yaml").exists()


async def test_one_that_names_an_installation_that_is_gone_is_told_how_to_get_a_new_one(tmp_path: Path) -> None:
    await run(tmp_path, ["init", "--trial"])
    config = tmp_path / ".config/llama-orch/config.yaml"
    gone = tmp_path / "lib/python3.11/site-packages/llama_orch/trial/haiku.gguf"
    config.write_text(config.read_text().replace(str(named_model(tmp_path)), str(gone)))
    done = await run(tmp_path, ["doctor", "--check", "model"])
    assert done.status == 1
    assert "llama-orch init --trial --force" in done.stdout
    # Where the installation is still there, its configuration works as it did.
    config.write_text(config.read_text().replace(str(gone), str(haiku_model_path())))
    assert (await run(tmp_path, ["doctor", "--check", "model"])).status == 0
