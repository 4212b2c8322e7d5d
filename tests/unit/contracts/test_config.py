"""The configuration's types and contradictions: each wrong value is refused with its place and its mend."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.base import Problem, explain
from contracts.config import MODES, Config, Engine, Mode, Profile, is_loopback, problems, split_bind
from contracts.tasks import TaskRequest

LLAMA = {"id": "gpu0", "engine": "llamacpp", "model": "m.gguf", "devices": [0]}
TRIAL = {"mode": "package", "package": {"name": "xllamacpp"}}


def config(pools: list[dict[str, Any]] | None = None, **rest: object) -> Config:
    return msgspec.convert({"pools": [LLAMA] if pools is None else pools, **rest}, Config)


def never(pattern: str) -> dict[str, Any]:
    return {"outbound": {"deny": ["*.example.com", pattern]}}


def refusal(document: object) -> Problem:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(document, Config)
    return explain(caught.value, Config)


@pytest.mark.req("ORCH-3800")
def test_the_home_profile_builds_llamacpp_and_runs_the_others_in_containers() -> None:
    assert config().pools[0].mode is Mode.SOURCE
    for engine in (Engine.VLLM, Engine.TGI, Engine.TRITON):
        assert config([LLAMA | {"engine": engine}]).pools[0].mode is Mode.CONTAINER


def test_a_pool_may_override_its_mode() -> None:
    assert config([LLAMA | {"provisioning": {"mode": "binary"}}]).pools[0].mode is Mode.BINARY


def test_three_keys_are_enough_for_the_only_pool() -> None:
    assert problems(config([{key: LLAMA[key] for key in ("id", "engine", "model")}])) == []


def test_a_pool_that_takes_every_gpu_stands_alone() -> None:
    greedy = {key: LLAMA[key] for key in ("id", "engine", "model")}
    found = problems(config([greedy, LLAMA | {"id": "b"}]))
    assert [problem.where for problem in found] == ["pools[0].devices"]
    external = LLAMA | {"id": "c", "provisioning": {"mode": "external", "external": {"url": "http://127.0.0.1:1"}}}
    assert problems(config([greedy, external])) == []


@pytest.mark.parametrize("text", ["gpu0\n", "gpu0\nx", " gpu0"])
def test_no_line_break_passes_behind_an_id(text: str) -> None:
    assert refusal({"pools": [LLAMA | {"id": text}]}).where == "pools[0].id"


@pytest.mark.req("HP-26")
@pytest.mark.parametrize(
    ("document", "where", "words"),
    [
        ({"pools": [LLAMA | {"engine": "llamacp"}]}, "pools[0].engine", "llamacpp, vllm, tgi, triton, openai"),
        ({"pools": [LLAMA | {"modl": 1}]}, "pools[0].modl", "did you mean 'model'?"),
        ({"pools": [LLAMA | {"ctx": 10**30}]}, "pools[0].ctx", "134217728"),
        ({"pools": [LLAMA | {"ctx": "big"}]}, "pools[0].ctx", "expected int, got str"),
        ({"pools": [{"id": "a", "engine": "llamacpp"}]}, "pools[0].model", "missing"),
        ({"pools": [LLAMA | {"provisioning": {"mode": "sauce"}}]}, "pools[0].provisioning.mode", "source"),
        ({"pools": [LLAMA | {"queue": {"full_policy": "wait"}}]}, "pools[0].queue.full_policy", "drop-lru"),
        ({"pools": []}, "pools", "length >= 1"),
        ({"pool": 1}, "pool", "did you mean 'pools'?"),
        ({"bind": "127.0.0.1:8080"}, "bind", "did you mean 'server.bind'?"),
        ({"devices": [0]}, "devices", "did you mean 'pools[].devices'?"),
        ({"max_bytes": 1}, "max_bytes", "'artifacts.max_bytes' or 'models.max_bytes' or 'store.max_bytes'"),
        ({"pools": [LLAMA], "server": {"tls": {"cert_file": "a"}}}, "server.tls.key_file", "missing"),
        ({"pools": [LLAMA], "server": {"max_connections": 0}}, "server.max_connections", ">= 1"),
    ],
)
def test_a_wrong_document_is_refused_with_its_place_and_the_legal_values(
    document: object, where: str, words: str
) -> None:
    problem = refusal(document)
    assert problem.where == where
    assert words in f"{problem.message} {problem.hint}"


@pytest.mark.req("HP-26")
@pytest.mark.parametrize(
    ("field", "meant"),
    [("temperature", "sampling.temperature"), ("stop", "sampling.stop"), ("content", "messages[].content")],
)
def test_a_field_of_a_task_that_belongs_further_in_is_sent_there(field: str, meant: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"model_ref": "haiku", field: 1}, TaskRequest)
    assert explain(caught.value, TaskRequest).hint == f"did you mean {meant!r}?"


@pytest.mark.req("HP-26")
@pytest.mark.parametrize(
    ("made", "where", "words"),
    [
        (config([LLAMA, LLAMA | {"devices": [1]}]), "pools[1].id", "already the id of pools[0]"),
        (config([LLAMA, LLAMA | {"id": "b"}]), "pools[1].devices", "share: true"),
        (config([LLAMA | {"devices": [-1]}]), "pools[0].devices[0]", "indices start at 0"),
        (config([LLAMA | {"devices": ["0"]}]), "pools[0].devices[0]", "nvidia-smi -L"),
        (config([LLAMA | {"devices": [0, 0]}]), "pools[0].devices", "named twice"),
        (config([LLAMA | {"flags": ["--a\0b"]}]), "pools[0].flags[0]", "null character"),
        (config([LLAMA | {"env": {"A=B": "c"}}]), "pools[0].env.A=B", "without '='"),
        (config([LLAMA | {"env": {"A": "b\0"}}]), "pools[0].env.A", "null character"),
        (config([LLAMA | {"tensor_split": [1, 2]}]), "pools[0].tensor_split", "one share per device"),
        (config([LLAMA | {"tensor_split": [0]}]), "pools[0].tensor_split", "at least one device a share above 0"),
        (config([LLAMA | {"tensor_split": [-1]}]), "pools[0].tensor_split[0]", "a number from 0 on"),
        (config([LLAMA | {"tensor_split": [float("nan")]}]), "pools[0].tensor_split[0]", "a number from 0 on"),
        (config([LLAMA | {"tensor_split": [float("inf")]}]), "pools[0].tensor_split[0]", "a number from 0 on"),
        (
            config([LLAMA | {"devices": [0, 1], "tensor_split": [0, -0.0]}]),
            "pools[0].tensor_split",
            "at least one device a share above 0",
        ),
        (
            config([LLAMA | {"engine": "vllm", "provisioning": {"mode": "source"}}]),
            "pools[0].provisioning.mode",
            "container",
        ),
        (config([LLAMA | {"provisioning": {"mode": "external"}}]), "pools[0].provisioning.external", "needs a block"),
        (
            config([LLAMA | {"provisioning": {"mode": "binary", "binary": {"url": "https://x/y"}}}]),
            "pools[0].provisioning.binary.sha256",
            "sha256sum",
        ),
        (config([LLAMA | {"provisioning": TRIAL}]), "pools[0].provisioning.package.name", "GPU only"),
        (
            config([LLAMA | {"provisioning": {"mode": "binary"}}], profile="trial"),
            "pools[0].provisioning.mode",
            "xllamacpp",
        ),
        (
            config([LLAMA | {"engine": "vllm"}], profile="trial"),
            "pools[0].provisioning.mode",
            "mode source or mode container",
        ),
        (
            config([LLAMA | {"provisioning": TRIAL}], profile="trial", server={"bind": "0.0.0.0:8080"}),
            "server.bind",
            "loopback only",
        ),
        (config(server={"bind": "8080"}), "server.bind", "host:port"),
        (config(server={"cors_origins": ["https://a.lan", "https://b.lan/"]}), "server.cors_origins[1]", "chat.lan"),
        (config(server={"cors_origins": ["*"]}), "server.cors_origins[0]", "'*' is no origin of a web page"),
        (config(server={"cors_origins": ["null"]}), "server.cors_origins[0]", "scheme, host and port"),
        (config(policy=never("https://example.org/x")), "policy.outbound.deny[1]", "write 'example.org'; a pattern is"),
        (config(policy=never("example.org:443")), "policy.outbound.deny[1]", "write 'example.org'; a pattern is"),
        (config(policy=never("10.0.0.0/8")), "policy.outbound.deny[1]", "'10.0.0.0/8' matches no address a pattern is"),
        (config(policy=never("[::1]:443")), "policy.outbound.deny[1]", "'[::1]:443' matches no address"),
        (config(policy=never("me@example.org")), "policy.outbound.deny[1]", "write 'example.org'; a pattern is"),
        (config(policy=never("")), "policy.outbound.deny[1]", "'' matches no address"),
        (config(policy={"outbound": {"allow": ["a b"]}}), "policy.outbound.allow[0]", "'a b' matches no address"),
    ],
)
def test_a_contradiction_is_found_with_its_place_and_its_mend(made: Config, where: str, words: str) -> None:
    found = [problem for problem in problems(made) if problem.where == where]
    assert len(found) == 1
    assert words in f"{found[0].message} {found[0].hint}"


@pytest.mark.parametrize(
    "provisioning",
    [TRIAL, {}, {"mode": "source"}, {"mode": "container"}, {"mode": "external", "external": {"url": "http://[::1]:1"}}],
)
def test_trial_takes_the_wheel_a_build_a_container_and_an_endpoint(provisioning: dict[str, Any]) -> None:
    assert problems(config([LLAMA | {"provisioning": provisioning}], profile="trial")) == []


@pytest.mark.req("HP-26")
def test_every_contradiction_is_told_at_once() -> None:
    made = config([LLAMA, LLAMA, LLAMA | {"id": "c", "devices": [-4]}], server={"bind": "nowhere"})
    assert {problem.where for problem in problems(made)} == {
        "server.bind",
        "pools[1].id",
        "pools[1].devices",
        "pools[2].devices[0]",
    }


@pytest.mark.parametrize(
    "pattern",
    [
        *("example.org", "*.example.org", "Example.ORG.", "bücher.example", "*", "hf:", "HTTPS:", "git+ssh:"),
        *("10.0.0.1", "10.*", "::1", "[::1]", "FD00::1", "fd00::*", "::ffff:10.0.0.1", "::", "host_[0-9].lan"),
    ],
)
def test_a_pattern_that_some_address_matches_is_no_problem(pattern: str) -> None:
    assert problems(config(policy=never(pattern))) == []


def test_two_pools_may_share_a_gpu_when_both_say_so() -> None:
    assert problems(config([LLAMA | {"share": True}, LLAMA | {"id": "b", "share": True}])) == []


@pytest.mark.req("HP-26", "OP-02")
@pytest.mark.parametrize(
    "origin", ["https://chat.lan", "http://10.0.0.5:3000", "http://localhost:5173", "http://[::1]:80"]
)
def test_an_origin_as_browsers_send_it_is_no_problem(origin: str) -> None:
    assert problems(config(server={"cors_origins": [origin]})) == []


@pytest.mark.req("OP-02")
def test_the_port_is_this_machines_own_unless_it_is_said_otherwise() -> None:
    server = config().server
    assert (server.bind, server.tls, server.cors_origins) == ("127.0.0.1:8080", None, ())


def test_the_trial_profile_needs_no_gpu() -> None:
    pool = {key: LLAMA[key] for key in ("id", "engine", "model")} | {"provisioning": TRIAL}
    assert problems(config([pool], profile=Profile.TRIAL)) == []


def test_every_engine_has_a_default_mode_among_its_modes() -> None:
    assert set(MODES) == set(Engine)
    assert all(MODES.values())


@pytest.mark.parametrize(
    ("bind", "pair"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("host.lan:65535", ("host.lan", 65535)),
        ("::1:80", None),
        ("host:65536", None),
        ("host:", None),
        (":80", None),
        ("host", None),
        ("host:8o", None),
    ],
)
def test_an_address_is_split_or_refused(bind: str, pair: tuple[str, int] | None) -> None:
    assert split_bind(bind) == pair


@given(st.text())
def test_no_text_breaks_the_address_parser(text: str) -> None:
    split_bind(text)
    is_loopback(text)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],  # noqa: S104
)
def test_loopback_is_told_from_what_the_lan_can_reach(host: str, *, local: bool) -> None:
    assert is_loopback(host) is local
