"""Ask a model and print what it says: a client of llama-orch with nothing but Python's own library.

    LLORCH_API_TOKEN=$(llama-orch token --show) python3 ask.py "Write a haiku about snow."

LLORCH_URL says where llama-orch is, if not here. It shows what every client has to do: send a task so that it may be
sent twice, wait when told to, read the stream, and come back to it after a lost connection.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from http.client import HTTPException
from typing import IO, Any

URL = os.environ.get("LLORCH_URL", "http://127.0.0.1:8080").rstrip("/")
TOKEN = os.environ.get("LLORCH_API_TOKEN", "")
LOST = (OSError, HTTPException)  # refused, cut off, timed out
SILENCE_S = 60  # a stream in which nothing happens has a comment every 15 s
AGAIN_S = 1.0


def call(path: str, body: object = None, headers: dict[str, str] | None = None) -> IO[bytes]:
    """One request."""
    known = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, headers=known)
    answer: IO[bytes] = urllib.request.urlopen(request, timeout=SILENCE_S)
    return answer


def refused(error: urllib.error.HTTPError) -> float:
    """How many seconds to wait before the same request is sent again; where that never helps, the end."""
    try:
        refusal = json.load(error)
        text = f"{refusal['code']}: {refusal['message']}\n  {refusal.get('hint', '')}"
    except (ValueError, KeyError, TypeError):  # a proxy's page, or another program
        raise SystemExit(f"{error.url} answers {error.code} {error.reason}, and that is not llama-orch") from error
    if not refusal["retriable"]:
        raise SystemExit(text) from error
    sys.stderr.write(f"{text}\n")
    return float(refusal.get("retry_after_ms", 1000 * AGAIN_S)) / 1000


def lost(error: Exception) -> float:
    """How many seconds to wait after a connection that broke, or that nobody took."""
    sys.stderr.write(f"no connection to {URL} ({error}): trying again\n")
    return AGAIN_S


def asked(path: str, body: object = None) -> dict[str, Any]:
    """Ask until there is an answer, and as often as it says. So what is sent must be such that it may come twice."""
    while True:
        try:
            with call(path, body) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            time.sleep(refused(error))
        except LOST as error:
            time.sleep(lost(error))


def events(task_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every event of a task once, in order, over as many connections as it takes."""
    last = ""
    while True:
        try:
            with call(f"/v1/tasks/{task_id}/stream", headers={"Last-Event-ID": last}) as stream:
                for event in read(stream):
                    last = event.get("id", last)
                    yield event["event"], json.loads(event["data"])
                    if event["event"] in {"end", "error"}:
                        return
            time.sleep(AGAIN_S)  # it ended in order, and the task has not
        except urllib.error.HTTPError as error:
            time.sleep(refused(error))
        except LOST as error:
            time.sleep(lost(error))


def read(stream: IO[bytes]) -> Iterator[dict[str, str]]:
    """The whole events of a connection; one that was cut off in the middle is dropped, and comes again."""
    event: dict[str, str] = {}
    for line in stream:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            event[name] = value
        elif "event" in event:
            yield event
            event = {}
        else:
            event = {}  # a comment


def main() -> int:
    """Ask, print, and say how it ended: exit status 0, or 1 where there is no whole answer."""
    if len(sys.argv) != 2 or not TOKEN:
        raise SystemExit('usage: LLORCH_API_TOKEN=... python3 ask.py "a question"')
    model = asked("/v1/capabilities")["pools"][0]["model_ref"]
    # With an id of ours it is one task and runs once, however often it is sent.
    task = {"task_id": str(uuid.uuid4()), "model_ref": model, "prompt": sys.argv[1], "max_tokens": 200}
    taken = asked("/v1/tasks", task)
    for name, data in events(taken["task_id"]):
        if name == "token":
            sys.stdout.write(data["t"])
            sys.stdout.flush()
        elif name == "end":
            sys.stderr.write(f"\n{data['tokens_out']} tokens, {data['finish_reason']}\n")
        elif name == "error":
            sys.stderr.write(f"\n{data['code']}: {data['message']}\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
