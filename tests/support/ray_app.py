"""An application on Ray Serve that speaks the OpenAI protocol. Ray loads it, no test does.

A prompt is also what the application is to do: "die after 3" ends its process then, "slowly" takes its time.
"""

import asyncio
import json
import os
import random
import re
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve

MODEL = "toy"
WORDS = (" rain", " snow", " météo", " 雨", " leaf", " stone", " 🌧", " wind", " river", " moon", " night", " a", " the")
PAUSE_S = 0.05

api = FastAPI()  # Ray packs what the class needs when it reads the decorators, so the class comes last


def _answer(body: dict[str, Any], prompt: str, choice: Any) -> Response:  # noqa: ANN401 - a function of two strings
    if body.get("model", MODEL) != MODEL:
        message = f"The model `{body['model']}` does not exist"
        return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "code": 404}}, 404)
    return StreamingResponse(_events(body, prompt, choice), media_type="text/event-stream")


async def _events(body: dict[str, Any], prompt: str, choice: Any) -> AsyncIterator[str]:  # noqa: ANN401 - as above
    drawn = random.Random(f"{prompt}|{body.get('seed')}|{body.get('temperature')}")
    limit = body.get("max_tokens") or 16
    dies = re.search(r"die after (\d+)", prompt)
    for number in range(limit):
        if dies is not None and number == int(dies[1]):
            os._exit(9)
        reason = "length" if number == limit - 1 else None
        yield _event(choices=[choice(drawn.choice(WORDS), reason)])
        if "slowly" in prompt or dies is not None:
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=PAUSE_S)
    if (body.get("stream_options") or {}).get("include_usage"):
        counts = {"prompt_tokens": len(prompt.split()), "completion_tokens": limit}
        yield _event(choices=[], usage=counts | {"total_tokens": sum(counts.values())})
    yield "data: [DONE]\n\n"


def _event(**fields: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    return f"data: {json.dumps({'object': 'text_completion', 'model': MODEL, **fields})}\n\n"


@serve.deployment(num_replicas=1, max_ongoing_requests=1, max_queued_requests=1)
@serve.ingress(api)
class App:
    """One replica that answers one request at a time; one more may wait."""

    @api.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "test"}]}

    @api.post("/v1/completions")
    async def completions(self, request: Request) -> Response:
        body = await request.json()
        return _answer(body, body["prompt"], lambda text, reason: {"index": 0, "text": text, "finish_reason": reason})

    @api.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        body = await request.json()
        said = body["messages"][-1]["content"]
        return _answer(body, said, lambda text, why: {"index": 0, "delta": {"content": text}, "finish_reason": why})


app = App.bind()
