import pytest

from contracts.engines import Finding
from daemon_core.config_file import parse
from llama_orch.doctor.judge import engine, model
from llama_orch.doctor.needs import Needs, needs_of
from tests.unit.llama_orch.doctor.support import ids, pools

LLAMA = "engine: llamacpp, model: x, ctx: 8192"
VLLM = "engine: vllm, model: x, ctx: 8192"
LACKING = Finding(check="model", message="there is no file", why="nothing to load", hint="fetch it")


@pytest.mark.parametrize(
    ("pool", "seen", "expected"),
    [
        (LLAMA, model.Seen(shown="x", here=True), ["ok"]),
        (LLAMA, model.Seen(shown="x", here=True, trained=8192), ["ok"]),
        (LLAMA, model.Seen(shown="x", here=True, trained=4096), ["context-stretched"]),
        (f'{LLAMA}, flags: ["--rope-scaling", "yarn"]', model.Seen(shown="x", here=True, trained=4096), ["ok"]),
        (f'{LLAMA}, flags: ["--rope-scale=2"]', model.Seen(shown="x", here=True, trained=4096), ["ok"]),
        (VLLM, model.Seen(shown="x", here=True, trained=4096), ["context-refused"]),
        (f'{VLLM}, env: {{VLLM_ALLOW_LONG_MAX_MODEL_LEN: "1"}}', model.Seen(here=True, trained=4096), ["ok"]),
        (LLAMA, model.Seen(shown="x"), ["to-fetch"]),
        (LLAMA, model.Seen(findings=(LACKING, LACKING)), ["unusable", "unusable"]),
        (LLAMA, model.Seen(elsewhere=True), ["skipped"]),
    ],
)
def test_a_model_and_its_context(pool: str, seen: model.Seen, expected: list[str]) -> None:
    (one,) = pools(pool)
    assert ids(model.judge([(one, seen)])) == [f"model.{each}" for each in expected]


def finding(check: str, message: str = "m") -> Finding:
    return Finding(check=check, message=message, why="w", hint="h")


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ((), ["ok"]),
        ((finding("tools"), finding("cache")), ["lacking", "lacking"]),
        ((finding("gpu"), finding("tools")), ["lacking"]),
        ((finding("gpu"),), ["skipped"]),
        ((finding("container-device"),), ["skipped"]),
        ((finding("container", "no container runtime works here: why"),), ["skipped"]),
        ((finding("container", "an image that only root can read"),), ["lacking"]),
    ],
)
def test_what_other_checks_tell_the_engine_does_not(findings: tuple[Finding, ...], expected: list[str]) -> None:
    seen = engine.Seen(pool_id="p0", about="llamacpp, mode source", findings=findings)
    assert ids(engine.judge([seen])) == [f"engine.{each}" for each in expected]


def test_what_is_found_of_devices_is_told_once() -> None:
    one, other = finding("container-device", "a"), finding("container-device", "b")
    seen = [engine.Seen(pool_id=name, about="", findings=(one, other)) for name in "pq"]
    assert engine.devices(seen) == (one, other)


def test_a_configuration_says_what_it_needs() -> None:
    assert needs_of(None) == Needs()
    text = """
pools:
  - {id: a, engine: llamacpp, model: x, devices: [0]}
  - {id: b, engine: vllm, model: x, devices: [1]}
  - {id: c, engine: openai, model: x,
     provisioning: {mode: external, external: {url: "http://127.0.0.1:9", api_key_env: KEY}}}
store: {durability: memory}
"""
    assert needs_of(parse(text, "c")) == Needs(
        containers=("b",), builds=("a",), programs=("a",), keys=("KEY",), tasks_are_kept=False
    )
    external = 'pools: [{id: a, engine: openai, model: x, provisioning: {mode: external, external: {url: "http://h"}}}]'
    assert needs_of(parse(external, "c")).no_gpu == "every pool has its engine elsewhere, and needs none"
