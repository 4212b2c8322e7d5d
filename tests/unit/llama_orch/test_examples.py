from ipaddress import ip_address
from pathlib import Path

import pytest

from contracts.config import Mode, Profile, split_bind
from daemon_core.config_file import load

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_example_is_valid_and_names_the_schema(path: Path) -> None:
    load(path)
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("=")[2]).is_file()


@pytest.mark.req("OP-02")
def test_the_home_example_has_two_gpus_and_serves_the_lan_with_a_token() -> None:
    config = load(EXAMPLES / "home-profile" / "config.yaml")
    assert config.profile is Profile.HOME
    assert [pool.devices for pool in config.pools] == [(0,), (1,)]
    assert [pool.mode for pool in config.pools] == [Mode.SOURCE, Mode.SOURCE]
    host, _ = split_bind(config.server.bind) or ("", 0)
    assert ip_address(host).is_unspecified
    assert config.auth.token_file is not None
    assert not config.auth.optional


def test_the_trial_example_names_the_model_of_this_repository() -> None:
    config = load(EXAMPLES / "trial" / "config.yaml")
    assert config.profile is Profile.TRIAL
    assert (EXAMPLES.parent / config.pools[0].model).is_file()
