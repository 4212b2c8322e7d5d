"""What a sampler profile means never changes."""

import msgspec
import pytest
from msgspec import UnsetType

from adapters.parameters import SCALARS
from contracts.config import Config, Engine, Mode, Package, Pool, Profile, Provisioning, problems
from contracts.sampler_profiles import PROFILES, SamplerProfile
from contracts.tasks import Sampling

pytestmark = pytest.mark.req("HP-12")

DIGESTS = {
    "v1": "sha256:0f7d949be916d80794c28d50fad2019615565d0c6ca9d886ef5d2cb9b8d152cc",
    "greedy": "sha256:90d75a68c2b2412563c7885e191fffc737ab88e09dd5a1da538d0d9f4e0b8d75",
}


def test_the_values_behind_a_name_are_never_others() -> None:
    """A change of one number fails here: it needs a name of its own, beside the profile that is there."""
    assert {name: profile.digest for name, profile in PROFILES.items()} == DIGESTS
    assert {profile.name for profile in PROFILES.values()} == set(PROFILES)


@pytest.mark.parametrize(
    "field", [each for each in SamplerProfile.__struct_fields__ if each not in {"name", "further"}]
)
def test_every_value_is_part_of_the_digest(field: str) -> None:
    v1 = PROFILES["v1"]
    assert msgspec.structs.replace(v1, **{field: 0.123}).digest != v1.digest


def test_every_number_that_a_request_may_give_has_a_value_in_every_profile() -> None:
    numbers = {
        each.name for each in msgspec.structs.fields(Sampling) if UnsetType in getattr(each.type, "__args__", ())
    }
    assert numbers == set(SCALARS.values())
    for profile in PROFILES.values():
        msgspec.convert({name: getattr(profile, name) for name in numbers}, Sampling)  # and a legal one


def test_the_engines_of_further_values_are_engines() -> None:
    for profile in PROFILES.values():
        assert set(profile.further) <= set(Engine)


def test_an_unknown_profile_in_the_configuration_is_refused_with_the_known_ones() -> None:
    trial = Provisioning(mode=Mode.PACKAGE, package=Package(name="xllamacpp"))

    def found(name: str) -> list[tuple[str, str, str | None]]:
        pool = Pool(id="p", engine=Engine.LLAMACPP, model="m.gguf", provisioning=trial, sampler_profile_version=name)
        config = Config(profile=Profile.TRIAL, pools=(pool,))
        return [(each.path, each.message, each.hint) for each in problems(config)]

    text = "there is no sampler profile 'v2'"
    assert found("v2") == [("pools[0].sampler_profile_version", text, "valid here: greedy, v1")]
    assert found("greedy") == found("v1") == []
