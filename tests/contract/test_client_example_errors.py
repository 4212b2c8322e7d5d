"""examples/client/ask.py says in a line what is wrong, and ends: a reader of the example sees no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ASK = Path(__file__).parents[2] / "examples/client/ask.py"
pytestmark = [pytest.mark.req("HP-19", "HP-27"), pytest.mark.timeout(60)]
BAD_TOKEN = b'{"code":"BAD_TOKEN","message":"the token is wrong","retriable":false,"hint":"the right one"}'


class Handler(BaseHTTPRequestHandler):
    """Answers every question with the status and the body of its server."""

    def do_GET(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined] # the fixture sets it
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(*arguments: str, **variables: str) -> tuple[int, str]:
    environ = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run(
        [sys.executable, ASK, *arguments], env=environ, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(("arguments", "token"), [((), "t"), (("hi",), ""), (("two", "words"), "t")])
def test_without_a_question_or_a_token_it_says_how_it_is_used(arguments: tuple[str, ...], token: str) -> None:
    status, said = ask(*arguments, LLORCH_API_TOKEN=token)
    assert (status, said.splitlines()) == (1, ['usage: LLORCH_API_TOKEN=... python3 ask.py "a question"'])


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (401, BAD_TOKEN, "BAD_TOKEN: the token is wrong"),
        (404, b"<html>", "answers 404 Not Found, and that is not llama-orch"),
        (502, b"[]", "answers 502 Bad Gateway, and that is not llama-orch"),
    ],
)
def test_a_refusal_is_told_as_it_is_and_what_is_none_as_well(
    server: HTTPServer, status: int, body: bytes, line: str
) -> None:
    server.answer = (status, body)  # type: ignore[attr-defined] # read by the handler
    ended, said = ask("hi", LLORCH_API_TOKEN="t", LLORCH_URL=f"http://127.0.0.1:{server.server_port}/")
    assert ended == 1
    assert line in said
    assert "Traceback" not in said
