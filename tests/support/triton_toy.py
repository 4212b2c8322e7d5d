"""A model for the real Triton's Python backend: words drawn from a seed, sent one by one. Only Triton loads it.

A prompt is also what the model is to do: "refuse" is refused before the first word, "break after 3" breaks then,
"slowly" takes its time over every word. What befalls it is said on standard output, for a test to wait for.
"""

from __future__ import annotations

import json
import random
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

WORDS = (" rain", " snow", " météo", " 雨", " leaf", " stone", " 🌧", " wind", " river", " moon", " night", " a", " the")
PAUSE_S = 0.02
MANY = 1 << 20


class TritonPythonModel:
    """What the backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads of which build this is, since another build draws other words, and waits for its gate."""
        config = json.loads(args["model_config"])
        told = {name: parameter["string_value"] for name, parameter in config["parameters"].items()}
        self.build = told["build"]
        self.outputs = {output["name"] for output in config["output"]}
        print("toy: loads", flush=True)  # noqa: T201 - the backend's own log cannot be followed
        while told["gate"] and not Path(told["gate"]).exists():
            threading.Event().wait(PAUSE_S)

    def execute(self, requests: list[Any]) -> None:
        """Answers each request in a thread of its own, as a decoupled model may."""
        for request in requests:
            threading.Thread(target=self._answer, args=(request, request.get_response_sender()), daemon=True).start()

    def _answer(self, request: Any, sender: Any) -> None:  # noqa: ANN401 - the backend has no types
        asked = _asked(request)
        final = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            for response in self._words(asked, sender):
                sender.send(triton.InferenceResponse(response))
        except ValueError as error:
            print(f"toy: refused or broke: {error}", flush=True)  # noqa: T201 - as above
            sender.send(triton.InferenceResponse(error=triton.TritonError(str(error))), flags=final)
        else:
            sender.send(flags=final)

    def _words(self, asked: dict[str, Any], sender: Any) -> Any:  # noqa: ANN401 - the backend has no types
        prompt = asked.get("text_input", "")
        limit = int(asked.get("max_tokens", 16))
        stops = asked.get("stop", [])
        drawn = random.Random(f"{self.build}|{prompt}|{asked.get('seed', 0)}|{asked.get('temperature', 1.0)}")
        breaks = re.search(r"break after (\d+)", prompt)
        pause = PAUSE_S if "slowly" in prompt else 0.0
        if "refuse" in prompt:
            raise ValueError("the model refuses this prompt")
        print(f"toy: begins with {json.dumps(asked, sort_keys=True)}", flush=True)  # noqa: T201 - as above
        for number in range(limit):
            if sender.is_cancelled():
                print(f"toy: cancelled after {number}", flush=True)  # noqa: T201 - as above
                return
            if breaks is not None and number == int(breaks[1]):
                raise ValueError(f"the model broke after {number} tokens")
            threading.Event().wait(pause)
            word = drawn.choice(WORDS)
            if word in stops:
                yield self._tensors("", asked, prompt, reason="stop")
                return
            yield self._tensors(word, asked, prompt, reason="length" if number == limit - 1 else None)
        print("toy: done", flush=True)  # noqa: T201 - as above

    def _tensors(self, word: str, asked: dict[str, Any], prompt: str, reason: str | None) -> list[Any]:
        """The text, and what the model was asked to tell beside it."""
        tensors = {"text_output": _text(word)}
        if asked.get("return_finish_reason"):
            tensors["finish_reason"] = _text(reason or "")
        if asked.get("return_num_input_tokens"):
            tensors["num_input_tokens"] = np.array([len(prompt.split())], dtype=np.uint32)
        if asked.get("return_num_output_tokens"):
            tensors["num_output_tokens"] = np.array([1 if word else 0], dtype=np.uint32)
        return [triton.Tensor(name, value) for name, value in tensors.items() if name in self.outputs]


def _asked(request: Any) -> dict[str, Any]:  # noqa: ANN401 - the backend has no types
    """Every input that came, by its name. What ``sampling_parameters`` or the request's parameters hold counts too."""
    asked: dict[str, Any] = {}
    for tensor in request.inputs():
        values = [value.decode() if isinstance(value, bytes) else value.item() for value in tensor.as_numpy().flat]
        asked[tensor.name()] = values if tensor.name() == "stop" else values[0]
    more = asked.pop("sampling_parameters", None) or request.parameters() or "{}"
    return asked | json.loads(more)


def _text(word: str) -> Any:  # noqa: ANN401 - the backend has no types
    return np.array([word.encode()], dtype=np.object_)
