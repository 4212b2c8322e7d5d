"""`llama-orch init` makes what is missing and loses nothing."""

from pathlib import Path

from daemon_core import config_file
from tests.integration.llama_orch.conftest import run


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
    assert config_file.load(folder / "config.yaml").pools[0].id == "trial"
