"""The operator's stories about the catalog, told with both daemons and a real engine."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from tests.support.installation import Installation
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.waiting import looked_for

pytestmark = [
    pytest.mark.req("OP-04", "HP-20", "CAT-03"),
    pytest.mark.timeout(60),
    pytest.mark.slow,
]
scenarios("catalog.feature")

TASK = {"model_ref": "haiku", "prompt": "rain", "max_tokens": 4}
MODELS = "/v1/catalog/models"


class Story:
    """One operator's machine, and the last answer that came."""

    def __init__(self, runner: asyncio.Runner, root: Path) -> None:
        self.runner = runner
        self.root = root
        self.files = root / "files"
        self.files.mkdir()
        write_tiny_gguf(self.file("haiku"))
        self.installation = Installation(root / "home", self.file("haiku"))
        self.status = 0
        self.answer: dict[str, Any] = {}

    def file(self, name: str) -> Path:
        return self.files / f"{name}.gguf"

    def ask(self, method: str, path: str, body: object = None) -> None:
        self.runner.run(self._ask(method, path, body))

    async def _ask(self, method: str, path: str, body: object) -> None:
        async with self.installation.http.request(method, path, json=body) as answer:
            self.status = answer.status
            self.answer = await answer.json() if answer.content_type == "application/json" else {}

    def until(self, path: str, holds: Any) -> dict[str, Any]:  # noqa: ANN401 - a predicate over what is served there
        """What is served at a path as soon as it is as wanted."""
        return self.runner.run(looked_for(lambda: self.installation.get(path), holds, path))

    def pool(self, holds: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
        return self.until("/v1/pools/trial/health", holds)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    with asyncio.Runner() as runner:
        made = Story(runner, tmp_path)
        runner.run(made.installation.__aenter__())
        try:
            yield made
        finally:
            runner.run(made.installation.__aexit__(None, None, None))


# --- given ------------------------------------------------------------------------------------------------------------


@given('llama-orch serves the model "haiku"')
def serves(story: Story) -> None:
    story.runner.run(story.installation.up())


@given(parsers.parse('a model file "{name}"'))
def a_file(story: Story, name: str) -> None:
    write_tiny_gguf(story.file(name), seed=7)


# --- when -------------------------------------------------------------------------------------------------------------


@when(parsers.parse('the operator registers the file "{name}"'))
def registers(story: Story, name: str) -> None:
    story.ask("POST", MODELS, {"model_ref": str(story.file(name))})


@when(parsers.parse('the operator has "{name}" verified'))
def verifies(story: Story, name: str) -> None:
    story.ask("POST", f"{MODELS}/{name}/verify")
    assert story.status == 202, story.answer


@when(parsers.parse('the operator makes "{name}" {state}'))
def makes(story: Story, name: str, state: str) -> None:
    story.ask("POST", f"{MODELS}/{name}/state", {"state": state, "reason": "the story says so"})
    assert (story.status, story.answer["state"]) == (202, state)


@when(parsers.parse('the operator deletes "{name}"'))
def deletes(story: Story, name: str) -> None:
    story.ask("DELETE", f"{MODELS}/{name}")


@when(parsers.parse('somebody spoils the file "{name}"'))
def spoils(story: Story, name: str) -> None:
    with story.file(name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


@when("somebody damages the catalog")
def damages(story: Story) -> None:
    (story.installation.root / ".local/share/llama-orch/catalog/models.json").write_text("damaged")


@when("the manager is stopped")
def stopped(story: Story) -> None:
    story.runner.run(story.installation.manager.close())


@when("the manager is started")
def started(story: Story) -> None:
    async def start() -> None:
        await (await story.installation.manager.start()).logged("listening on")

    story.runner.run(start())
    story.until("/v1/pools", lambda page: page["managed"])


@when("the manager is restarted")
def restarted(story: Story) -> None:
    stopped(story)
    started(story)


# --- then -------------------------------------------------------------------------------------------------------------


@then(parsers.parse("the answer is {status:d}"))
def answered(story: Story, status: int) -> None:
    assert story.status == status, story.answer


@then(parsers.parse('it says that "{who}" needs it'))
def says_who(story: Story, who: str) -> None:
    assert f"is needed by {who}" in story.answer["message"]
    assert story.answer["hint"]


@then(parsers.parse('the catalog shows "{name}" as {state}'))
def shows(story: Story, name: str, state: str) -> None:
    story.ask("GET", f"{MODELS}/{name}")
    assert (story.status, story.answer["state"]) == (200, state)


@then(parsers.parse('the catalog does not show "{name}"'))
def shows_not(story: Story, name: str) -> None:
    story.ask("GET", MODELS)
    assert name not in [model["id"] for model in story.answer["models"]]


@then(parsers.parse('the file "{name}" is still there'))
def is_there(story: Story, name: str) -> None:
    assert story.file(name).is_file()


@then(parsers.parse("its verification ends as {result}"))
def verified(story: Story, result: str) -> None:
    path = f"{MODELS}/{story.answer['id']}"
    job = story.until(path, lambda model: model["job"]["ended_ms"] is not None)["job"]
    assert (job["kind"], job["result"]) == ("verify", result), job


@then(parsers.parse("the metric of verifications counts {count:d} {result}"))
def counts(story: Story, count: int, result: str) -> None:
    async def page() -> str:
        async with story.installation.http.get("/metrics") as answer:
            return await answer.text()

    wanted = f'catalog_verifications_total{{engine="none",reason="matched",result="{result}"}} {count}.0'
    assert wanted in story.runner.run(page())


@then("a task is refused with MODEL_UNAVAILABLE")
def refused(story: Story) -> None:
    story.pool(lambda pool: pool["last_error"] is not None)
    story.ask("POST", "/v1/tasks", TASK)
    assert (story.status, story.answer["code"]) == (503, "MODEL_UNAVAILABLE")


@then("a task is answered")
def task_answered(story: Story) -> None:
    story.pool(lambda pool: pool["last_error"] is None)
    events = story.runner.run(story.installation.run(TASK))
    assert events[-1][0] == "end"


@then("the pool is ready and says that its model is Retired")
def ready_and_says(story: Story) -> None:
    pool = story.pool(lambda found: found["last_error"] is not None)
    assert (pool["ready"], pool["last_error"]["cause"]) == (True, "model_retired")


@then("the pool fails because its model is Retired")
def fails(story: Story) -> None:
    pool = story.pool(lambda found: found["state"] in {"backoff", "broken"})
    assert pool["last_error"]["cause"] == "model_retired"
    assert pool["last_error"]["message"].startswith("the model haiku is Retired: verification: digest_mismatch")


@then("the pools' page says that the catalog was rebuilt")
def says_rebuilt(story: Story) -> None:
    (notice,) = story.until("/v1/pools", lambda page: page["notices"])["notices"]
    assert "models.json could not be read" in notice
