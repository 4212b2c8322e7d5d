"""kill -9 of orchestratord while tasks wait, run and have ended: nothing that a client was told is taken back."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.installation import Daemon, Installation, parse_events, text_of
from tests.support.stream_grammar import check
from tests.support.tiny_gguf import slow_model
from tests.support.waiting import until

LONG = {"prompt": "once upon a time", "max_tokens": 400, "seed": 7}
STRICT = LONG | {"determinism": "strict"}
SHORT = {"prompt": "and then", "max_tokens": 4, "priority": "batch"}


@pytest.fixture
async def lab(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with Installation(tmp_path / "home", slow_model(tmp_path_factory)) as installation:
        yield await installation.up()


async def again(lab: Installation, number: signal.Signals = signal.SIGKILL) -> None:
    """Orchestratord ends, and another one starts where it was."""
    status = await lab.orchestrator.kill(number)
    assert status == (0 if number is signal.SIGTERM else -number)
    seen = len(lab.orchestrator.lines)
    await lab.orchestrator.start()
    await lab.orchestrator.logged("listening on", since=seen)


async def submitted(lab: Installation, **request: Any) -> str:  # noqa: ANN401 - any field of the request
    body = {"model_ref": await lab.model_id(), **request}
    async with lab.http.post("/v1/tasks", json=body) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["task_id"])


async def rest_of(lab: Installation, task_id: str, after: int | None = None) -> bytes:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    async with lab.http.get(f"/v1/tasks/{task_id}/stream", headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def receipts(lab: Installation) -> list[dict[str, Any]]:
    page = await lab.get("/v1/receipts?after=0&limit=100")
    return [receipt["content"] for receipt in page["receipts"]]


async def started(lab: Installation, request: dict[str, Any], tokens: int = 3) -> tuple[str, bytes]:
    """A task that runs, and what a reader has read of it."""
    async with lab.streaming(request) as response:
        task_id = response.headers["Location"].rpartition("/")[2]
        got = b""
        while got.count(b"event: token") < tokens:
            got += await response.content.readuntil(b"\n\n")
    return task_id, got


def last_token(stream: bytes) -> int:
    return int(stream.rpartition(b"\nid: ")[2].split(b"\n")[0])


@pytest.mark.req("HP-17", "HP-19", "HP-21")
async def test_waiting_running_and_ended_tasks_after_kill_9(lab: Installation) -> None:
    over = await submitted(lab, **SHORT)
    ended = await rest_of(lab, over)
    status = await lab.get(f"/v1/tasks/{over}")
    running, seen = await started(lab, LONG | {"on_disconnect": "continue"})
    async with lab.frozen():
        waiting = [await submitted(lab, **SHORT, task_id=f"w{number}") for number in range(4)]
        await again(lab)
    # What had ended is told of as it was.
    assert await lab.get(f"/v1/tasks/{over}") == status
    assert await rest_of(lab, over) == ended
    # What ran cannot be gone on with, and its reader is told so behind what it saw.
    broken = check(await rest_of(lab, running, last_token(seen)), after=last_token(seen))
    assert broken.error is not None
    assert (broken.error.code, broken.error.retriable, broken.names[-1]) == ("WORKER_RESET", True, "error")
    # What waited runs, in its order, and is the same task for whoever sends it again.
    async with lab.http.post(
        "/v1/tasks", json={"model_ref": await lab.model_id(), **SHORT, "task_id": "w3"}
    ) as response:
        assert (response.status, (await response.json())["task_id"]) == (202, "w3")
    for task_id in waiting:
        assert check(await rest_of(lab, task_id)).end is not None
    left = await receipts(lab)
    assert [each["number"] for each in left] == list(range(1, len(left) + 1))
    assert [each["task_id"] for each in left] == [over, running, *waiting]
    assert [each["interrupted"] for each in left] == [False, True, *[False] * 4]
    # And once more: all is as it was.
    await again(lab)
    assert await receipts(lab) == left
    assert [task["task_id"] for task in (await lab.get("/v1/tasks"))["tasks"]] == [*reversed(waiting), running, over]


@pytest.mark.req("HP-12", "HP-19")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "stop"])
async def test_a_strict_stream_goes_on_byte_for_byte(lab: Installation, number: signal.Signals) -> None:
    undisturbed = await lab.run(STRICT)
    running, seen = await started(lab, STRICT | {"on_disconnect": "continue"})
    await again(lab, number)
    after = last_token(seen)
    rest = await rest_of(lab, running, after)
    check(rest, after=after)
    whole = [event for event in parse_events(seen + rest) if event[0] == "token"]
    assert whole == [event for event in undisturbed if event[0] == "token"]
    assert text_of(parse_events(await rest_of(lab, running))) == text_of(undisturbed)
    end, same = parse_events(rest)[-1], undisturbed[-1]
    assert (end[0], end[1]["stream_sha256"]) == ("end", same[1]["stream_sha256"])
    [receipt] = [each for each in await receipts(lab) if each["task_id"] == running]
    assert receipt["stream_sha256"] == same[1]["stream_sha256"]
    assert receipt["attempts"] == 2


@pytest.mark.req("HP-17")
async def test_a_strict_stream_whose_engine_is_another_one_ends_and_says_why(lab: Installation) -> None:
    running, seen = await started(lab, STRICT | {"on_disconnect": "continue"})
    await lab.orchestrator.kill()
    await lab.manager.kill(signal.SIGTERM)
    document = lab.config.read_text()
    lab.config.write_text(document.replace('"ctx": 512', '"ctx": 256'))
    seen_lines = len(lab.orchestrator.lines)
    await lab.manager.start()
    await lab.orchestrator.start()
    await lab.orchestrator.logged("listening on", since=seen_lines)
    broken = check(await rest_of(lab, running, last_token(seen)), after=last_token(seen))
    assert broken.error is not None
    assert broken.error.code == "WORKER_RESET", broken.error
    assert "ctx_max was 512 and is 256" in broken.error.message


@pytest.mark.req("OP-01")
async def test_a_stop_keeps_what_waits_for_the_next_start(lab: Installation) -> None:
    running, seen = await started(lab, LONG | {"on_disconnect": "continue"})
    async with lab.frozen():
        waiting = [await submitted(lab, **SHORT) for _ in range(3)]
        await again(lab, signal.SIGTERM)
    broken = check(await rest_of(lab, running, last_token(seen)), after=last_token(seen))
    assert broken.error is not None
    assert (broken.error.code, broken.error.message) == ("POOL_UNAVAILABLE", "orchestratord is stopping")
    for task_id in waiting:
        assert check(await rest_of(lab, task_id)).end is not None
    assert [each["task_id"] for each in await receipts(lab)] == [running, *waiting]


@pytest.mark.req("HP-19")
async def test_readers_of_what_waits_are_cut_off_by_a_stop_and_read_on_afterwards(lab: Installation) -> None:
    await started(lab, LONG | {"on_disconnect": "continue"})
    async with lab.frozen(), lab.streaming(SHORT) as response:
        path = response.headers["Location"] + "/stream"
        await again(lab, signal.SIGTERM)
        with pytest.raises(aiohttp.ClientPayloadError):  # the end of the body never came, so it is no end
            await response.read()
    async with lab.http.get(path) as response:
        assert check(await response.read()).end is not None


async def test_no_descriptor_is_lost_over_many_tasks(lab: Installation) -> None:
    def held() -> int:
        return len(list(Path(f"/proc/{lab.orchestrator.pid}/fd").iterdir()))

    await lab.run(SHORT)
    before = held()
    for _ in range(30):
        await lab.run(SHORT | {"max_tokens": 1})
    # A connection to the engine may be kept, and the task store is tidied now and then.
    await until(lambda: held() <= before + 1, "the end of all that was opened for a task")


async def test_a_second_orchestratord_on_the_same_tasks_is_refused(lab: Installation) -> None:
    other = lab.config.with_name("other.json")
    other.write_text(lab.config.read_text().replace(f":{lab.port}", ":0"))
    second = await Daemon("orchestratord", other, lab.environ).start()
    assert await second.ended() != 0
    assert any("another orchestratord uses" in line for line in second.lines)
    assert (await lab.run(SHORT))[-1][0] == "end"
