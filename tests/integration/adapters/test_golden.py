"""The bytes of every stand-in against those that are kept: what the suite is built on cannot drift unseen."""

import pytest

from tests.standin.golden import FOLDER, PATHS, answers
from tests.standin.server import WIRES

pytestmark = pytest.mark.req("AD-03")


def test_every_engine_has_golden_answers() -> None:
    assert PATHS.keys() == WIRES.keys()


async def test_every_answer_is_the_golden_one_byte_for_byte() -> None:
    said = {name: body async for name, body in answers()}
    kept = {path.stem: path.read_bytes() for path in FOLDER.glob("*.http")}
    assert said.keys() == kept.keys()
    for name, body in said.items():
        assert body == kept[name], f"{name}.http; written anew by: python -m tests.standin.golden"


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("tgi-completion-stop", b'data:{"index":1,"token":{"id":301,"text":" two","logprob":-0.5,"special":false}'),
        ("tgi-chat-stop", b"data:[DONE]\n\n"),
        ("tgi-completion-error-first", b'data:{"error":"Request failed during generation: Server error'),
        ("vllm-completion-error", b'data: {"error": {"message": "EngineCore encountered an issue.'),
        ("vllm-chat-stop", b'"choices":[],"usage":{"prompt_tokens":'),
        (
            "triton-completion-error-first",
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/event-stream; charset=utf-8",
        ),
        ("triton-completion-length", b'{"finish_reason":"length","model_name":"m","model_version":"1",'),
        ("openai-completion-stop", b"data: [DONE]\n\n"),
        ("vllm-unauthorized", b'{"error":"Unauthorized"}'),
    ],
)
def test_the_golden_answers_have_what_the_engines_are_known_for(name: str, frame: bytes) -> None:
    assert frame in (FOLDER / f"{name}.http").read_bytes()


def test_a_stream_of_triton_ends_without_a_word() -> None:
    said = (FOLDER / "triton-completion-stop.http").read_bytes()
    assert b"[DONE]" not in said
    assert said.endswith(b"\n\n\r\n0\r\n\r\n")
