import re
from ipaddress import ip_address
from pathlib import Path, PurePosixPath

import pytest

from contracts.config import MODES, Engine, Mode, Profile, SourceBuild, split_bind
from contracts.engines import ModelFormat
from daemon_core.config_file import load, parse
from daemon_core.outbound import ruling_on
from engine_provisioner.container_engines import image_of, needs_of
from model_provisioner import reference
from model_provisioner.local import FORMATS
from model_provisioner.reference import HfRef, HttpsRef, LocalFile, OciRef, S3Ref

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
    assert [(pool.engine, pool.mode) for pool in config.pools] == [
        (Engine.LLAMACPP, Mode.SOURCE),
        (Engine.VLLM, Mode.CONTAINER),
    ]
    host, _ = split_bind(config.server.bind) or ("", 0)
    assert ip_address(host).is_unspecified
    assert config.auth.token_file is not None
    assert not config.auth.optional


def test_the_home_example_may_fetch_all_that_it_names() -> None:
    config = load(EXAMPLES / "home-profile" / "config.yaml")
    large, small = config.pools
    container = small.provisioning.container
    assert container is not None
    assert container.digest is None, "a digest that nobody has seen is worse than none"
    assert image_of(small, config.profile) == container
    for url in (SourceBuild().repo, f"https://{container.image}", "https://huggingface.co", large.model, small.model):
        assert url.startswith("hf:") or ruling_on(url, config.policy.outbound).allowed, url
    assert not ruling_on("https://example.org", config.policy.outbound).allowed


def test_the_image_of_the_home_example_is_the_one_that_llama_orch_knows() -> None:
    small = load(EXAMPLES / "home-profile" / "config.yaml").pools[1]
    assert small.provisioning.container == needs_of(small.engine).image


def test_the_trial_example_names_the_model_of_this_repository() -> None:
    config = load(EXAMPLES / "trial" / "config.yaml")
    assert config.profile is Profile.TRIAL
    assert (EXAMPLES.parent / config.pools[0].model).is_file()


@pytest.mark.req("EP-18")
def test_the_blocks_of_the_provisioning_page_are_valid_and_show_every_mode() -> None:
    page = (EXAMPLES.parent / "docs/provisioning.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    pools = [parse(f"pools:\n{block}", "provisioning.md").pools[0] for block in blocks]
    assert {pool.mode for pool in pools} == set(Mode)
    assert all(getattr(pool.provisioning, pool.mode) is not None for pool in pools)
    for engine, modes in MODES.items():
        row = next(line for line in page.splitlines() if line.startswith("| ") and engine in line.split("|")[1])
        assert row.split("|")[2].strip() == ", ".join(modes)


@pytest.mark.req("MP-04")
def test_the_blocks_of_the_models_page_are_valid_and_its_references_mean_what_it_says() -> None:
    page = (EXAMPLES.parent / "docs/models.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    pool = "pools: [{id: a, engine: llamacpp, model: a.gguf, devices: [0]}]\n"
    configs = [parse(block if "pools:" in block else block + pool, "models.md") for block in blocks]
    assert any(config.models.pinned and config.models.max_bytes for config in configs)
    assert any(config.policy.outbound.allow for config in configs)
    base = PurePosixPath("/")
    references = [pool.model for config in configs for pool in config.pools]
    table = page.partition("| reference |")[2].partition("\n\n")[0]
    references += [text for row in table.splitlines()[2:] for text in re.findall(r"`([^`]+)`", row.split("|")[1])]
    kinds = {type(reference.parse(text, base)) for text in references}
    assert kinds == {LocalFile, HfRef, HttpsRef, S3Ref, OciRef}
    for engine, wanted in FORMATS.items():
        row = next(line for line in page.splitlines() if line.startswith("| ") and engine in line.split("|")[1])
        assert ("GGUF" in row) is (wanted is ModelFormat.GGUF)
