"""Measure the haiku model with llama.cpp itself, over every subject, and print how often it does what it should.

    python training/haiku/evaluate.py llama_orch/trial/haiku.gguf

Needs the package ``xllamacpp``.  Requests go to a llama.cpp server in this process, with its default samplers.
"""

import argparse
import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import xllamacpp
from corpus import contains, is_haiku, words

PROMPTS: Final = (
    "Write a haiku about {s}.",
    "write a haiku about the {s}",
    "a haiku about {s}",
    "Write me a haiku about {s}, please.",
    "haiku: {s}",
    "{s}",
)
FAR: Final = "The quick brown fox jumps over the lazy dog and asks the way home. " * 3
TOKENS: Final = 64
SLOTS: Final = 4


@dataclass(frozen=True)
class Reply:
    """What came back for one prompt."""

    word: str
    text: str
    ended: bool


class Engine:
    """A llama.cpp server in this process."""

    def __init__(self, model: Path, port: int, threads: int) -> None:
        """Load the model and start to listen."""
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.port = port
        params.n_parallel = SLOTS
        params.n_ctx = 512 * SLOTS
        params.cpuparams.n_threads = threads
        params.verbosity = 1
        self._server = xllamacpp.Server(params)
        self._address = self._server.listening_address.removeprefix("http://")

    def post(self, path: str, body: dict[str, Any]) -> str:
        """Send one request and return the body of the answer."""
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def complete(self, word: str, prompt: str, temperature: float, seed: int) -> Reply:
        """Ask for a plain completion."""
        body = {"prompt": prompt, "n_predict": TOKENS, "temperature": temperature, "top_p": 0.95, "seed": seed}
        answer = json.loads(self.post("/completion", body))
        return Reply(word, answer["content"], answer["stop_type"] == "eos")

    def chat(self, word: str, prompt: str, temperature: float, seed: int) -> Reply:
        """Ask through the chat template, with a system message before the question."""
        messages = [{"role": "system", "content": "You are a poet."}, {"role": "user", "content": prompt}]
        body = {"messages": messages, "max_tokens": TOKENS, "temperature": temperature, "top_p": 0.95, "seed": seed}
        choice = json.loads(self.post("/v1/chat/completions", body))["choices"][0]
        return Reply(word, choice["message"]["content"], choice["finish_reason"] == "stop")

    def stream(self, prompt: str) -> list[str]:
        """Ask for a stream and return the pieces of text."""
        body = {"prompt": prompt, "n_predict": TOKENS, "seed": 1, "stream": True}
        lines = self.post("/completion", body).split("\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        return [event["content"] for event in events if event["content"]]


Ask = Callable[[str, str, float, int], Reply]


def gather(ask: Ask, prompt: str, subjects: list[str], temperature: float, seeds: range) -> list[Reply]:
    """Ask about every subject with every seed."""
    with ThreadPoolExecutor(SLOTS) as pool:
        jobs = [pool.submit(ask, word, prompt.format(s=word), temperature, seed) for seed in seeds for word in subjects]
        return [job.result() for job in jobs]


def good(reply: Reply) -> bool:
    """Three clean lines, and the subject in them."""
    lines = reply.text.split("\n")
    return len(lines) == 3 and all(line and line == line.strip() for line in lines) and contains(reply.text, reply.word)


def row(title: str, replies: list[Reply]) -> str:
    """One line of the table."""

    def share(test: Callable[[Reply], bool]) -> str:
        return f"{100 * sum(map(test, replies)) / len(replies):6.2f}"

    cells = [
        share(lambda r: r.text.count("\n") == 2),
        share(lambda r: contains(r.text, r.word)),
        share(good),
        share(lambda r: r.ended),
        share(lambda r: is_haiku(r.text)),
        str(len({r.text for r in replies})),
    ]
    return f"| {title} | {len(replies)} | {' | '.join(cells)} |"


def unknown() -> list[str]:
    """Subjects that the model was never told of."""
    return ["gpu", "blockchain", "Kubernetes", "quasar", "zebra", "Tokyo", "skateboard", "philosophy", "1984", "Ümlaut"]


def table(engine: Engine, seeds: int) -> Iterator[str]:
    """The whole table, line by line."""
    subjects, several = words(), range(1, seeds + 1)
    yield "| prompt | outputs | 3 lines % | subject % | both % | EOS % | 5-7-5 % | distinct |"
    yield "|---|---|---|---|---|---|---|---|"
    for prompt in PROMPTS:
        yield row(f"`{prompt}` at 0.8", gather(engine.complete, prompt, subjects, 0.8, several))
    yield row(f"`{PROMPTS[0]}` at 0", gather(engine.complete, PROMPTS[0], subjects, 0.0, range(1, 2)))
    yield row(f"chat: `{PROMPTS[0]}` at 0.8", gather(engine.chat, PROMPTS[0], subjects, 0.8, several))
    yield row(f"chat: `{PROMPTS[0]}` at 0", gather(engine.chat, PROMPTS[0], subjects, 0.0, range(1, 2)))
    yield row(f"chat: `{PROMPTS[4]}` at 0.8", gather(engine.chat, PROMPTS[4], subjects, 0.8, several))
    far = gather(engine.complete, f"{FAR}{PROMPTS[0]}", subjects, 0.8, range(1, 2))
    yield row("long text before the first prompt, at 0.8", far)
    yield row("unknown subjects at 0.8", gather(engine.complete, PROMPTS[0], unknown(), 0.8, range(1, 21)))


def main() -> None:
    """Print the table, one stream and some samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--port", type=int, default=18575)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--failures", type=int, default=0, help="how many failed outputs to print")
    args = parser.parse_args()
    start, engine = time.monotonic(), Engine(args.model, args.port, args.threads)
    for line in table(engine, args.seeds):
        print(line, flush=True)
    failed = [r for r in gather(engine.complete, PROMPTS[0], words(), 0.8, range(1, args.seeds + 1)) if not good(r)]
    for reply in failed[: args.failures]:
        print(f"failed: {reply}")
    print(f"\nstream: {engine.stream('Write a haiku about rain.')}\n")
    for word in ("rain", "moon", "computer", "silence", *unknown()[:2]):
        print(f"{word}:\n{engine.complete(word, PROMPTS[0].format(s=word), 0.8, 3).text}\n")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
