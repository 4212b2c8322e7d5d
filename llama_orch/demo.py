"""A haiku from a real engine on any machine: ``make demo``, or ``python -m llama_orch.demo``.

Decides what a first look shows. Everything happens in a temporary directory of its own, over the same interfaces that
every client uses; at the end nothing runs any more and nothing is left on the disk. Profile trial, on the CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from contracts.base import Message
from contracts.events import End, Started, StreamError, Token
from contracts.pools import PoolHealth, PoolState
from contracts.tasks import Determinism, TaskRequest
from daemon_core.errors import EXIT_FAILURE, StartupError
from daemon_core.token import FILE_NAME, VARIABLE, create_token_file
from llama_orch import trial
from llama_orch.children import POLL_S, Daemons, until_up
from llama_orch.client import ApiClient, new_task_id
from llama_orch.errors import EXIT_INTERRUPTED, ApiError
from llama_orch.gpus import NoGpuError, list_gpus
from llama_orch.output import Output

READY_TIMEOUT_S = 90.0
STOP_GRACE_S = 15.0
SHOWN_LOG_LINES = 15
MAX_TOKENS = 64
MAX_SEED = 2**32 - 2
_XDG = {
    "XDG_CONFIG_HOME": "config",
    "XDG_CACHE_HOME": "cache",
    "XDG_DATA_HOME": "data",
    "XDG_STATE_HOME": "state",
    "XDG_RUNTIME_DIR": "run",
}


class Answer(Message, frozen=True, kw_only=True):
    """One streamed haiku."""

    text: str
    started: Started
    end: End


class DemoError(StartupError):
    """The demo did not show what it promises."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the answer is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m llama_orch.demo", description="A haiku from a real engine.")
    parser.add_argument("--word", help="what the haiku is about (default: one of the words that the model knows)")
    parser.add_argument("--seed", type=int, help="where the randomness starts (default: drawn)")
    parser.add_argument("--model", type=Path, metavar="PATH", help="another GGUF model than the one that comes along")
    options = parser.parse_args(argv)
    out = Output(as_json=False)
    try:
        model = options.model.resolve() if options.model else trial.haiku_model_path()
        word = secrets.choice(trial.subjects()) if options.word is None else options.word
        seed = secrets.randbelow(MAX_SEED) if options.seed is None else options.seed
        asyncio.run(_demo(out, model, word, seed))
    except (StartupError, ApiError) as error:
        out.note(f"\nthe demo failed: {error.render()}")
        return EXIT_FAILURE
    except (KeyboardInterrupt, asyncio.CancelledError):
        out.note("\ninterrupted; everything is stopped")
        return EXIT_INTERRUPTED
    return 0


async def _demo(out: Output, model: Path, word: str, seed: int) -> None:
    _cancel_on_signals()
    with tempfile.TemporaryDirectory(prefix="llama-orch-demo-") as folder:
        url, config_path, environ, token = _prepare(Path(folder), model, os.environ)
        daemons = Daemons(config_path, environ, lambda _name, _line: None, readable_logs=True)
        out.line(f"llama-orch, profile trial: a real llama.cpp server on the CPU, model {model.name}")
        try:
            async with ApiClient(url, token) as client:
                await daemons.start()
                await _until_ready(out, client, daemons)
                await _show(out, client, word, seed)
        except (StartupError, ApiError):
            for line in daemons.last_lines(SHOWN_LOG_LINES):
                out.note(line)
            raise
        finally:
            left = await daemons.stop(grace_s=STOP_GRACE_S)
        if left:
            listed = "; ".join(f"{pid} {command}" for pid, command in left.items())
            raise DemoError(f"these processes outlived the daemons (they are killed now): {listed}")
    out.line("stopped; nothing is left running, and nothing on the disk")
    _tell_about_gpus(out)


def _prepare(folder: Path, model: Path, environ: Mapping[str, str]) -> tuple[str, Path, dict[str, str], str]:
    """A home of its own for this run: URL, configuration file, the daemons' environment, token."""
    places = {name: str(folder / place) for name, place in _XDG.items()}
    for place in places.values():
        Path(place).mkdir(mode=0o700)
    bind = f"127.0.0.1:{_free_port()}"
    config_path = folder / "config" / "llama-orch" / "config.yaml"
    token = create_token_file(config_path.with_name(FILE_NAME))
    config_path.write_text(trial.trial_config(model, bind), encoding="utf-8")
    unwanted = {VARIABLE, "CREDENTIALS_DIRECTORY"}
    clean = {name: value for name, value in environ.items() if name not in unwanted}
    return f"http://{bind}", config_path, clean | places, token.value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_ready(out: Output, client: ApiClient, daemons: Daemons) -> None:
    """Wait until the pool is ready, and say where it is on its way."""
    shown = ""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            if await until_up(client, daemons):
                out.line(f"orchestratord listens on {client.base_url}")
            while daemons.dead is None:
                pool = (await client.pool_health(trial.POOL_ID)) if not daemons.changed.is_set() else None
                if pool is None or pool.ready:
                    break
                _give_up_when_hopeless(pool)
                if pool.state != shown:
                    out.line(f"pool {pool.pool_id}: {pool.state}")
                    shown = pool.state
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise DemoError(f"the pool was not ready in {READY_TIMEOUT_S:.0f} s", "the lines above say why") from None
    if (dead := daemons.dead) is not None:
        raise DemoError(f"{dead.name} ended with status {dead.status}", "the lines above say why")
    out.line(f"pool {trial.POOL_ID}: ready\n")


def _give_up_when_hopeless(pool: PoolHealth) -> None:
    """What failed for a reason that no second try changes is told at once."""
    if pool.last_error is not None and pool.state in {PoolState.FAILED, PoolState.BACKOFF, PoolState.BROKEN}:
        error = pool.last_error
        raise DemoError(f"pool {pool.pool_id}: {error.cause}: {error.message}", error.hint)


async def _show(out: Output, client: ApiClient, word: str, seed: int) -> None:
    """One haiku as it comes, then the same again, which must be the same."""
    prompt = trial.haiku_prompt(word)
    out.line(f"> {prompt}  (seed {seed})\n")
    first = await _ask(out, client, prompt, seed)
    out.line(f"\n{summary(first)}\n")
    second = await _ask(None, client, prompt, seed)
    differences = differ(first, second)
    if differences:
        raise DemoError(f"the same request with the same seed gave another answer: {differences}")
    size = len(first.text.encode())
    out.line(f"asked again with the same seed: identical, {size} bytes, sha256 {first.end.stream_sha256[:16]}...")


async def _ask(out: Output | None, client: ApiClient, prompt: str, seed: int) -> Answer:
    """Stream one answer, to the terminal where ``out`` is given."""
    request = TaskRequest(
        model_ref=await _model_ref(client),
        task_id=new_task_id(),
        prompt=prompt,
        max_tokens=MAX_TOKENS,
        seed=seed,
        determinism=Determinism.STRICT,
    )
    pieces: list[str] = []
    started: Started | None = None
    end: End | None = None
    async with aclosing(client.run(request)) as events:
        async for event in events:
            match event:
                case Started():
                    started = event
                case Token(t=text):
                    pieces.append(text)
                    if out is not None:
                        out.piece(text.lstrip() if len(pieces) == 1 else text)
                case End():
                    end = event
                case StreamError():
                    raise ApiError(event.code, event.message, hint=event.hint or None, retriable=event.retriable)
                case _:
                    pass
    if out is not None:
        out.piece("\n")
    if started is None or end is None:
        raise DemoError("the stream had no beginning or no end")
    answer = Answer(text="".join(pieces), started=started, end=end)
    if sha256(answer.text) != end.stream_sha256:
        raise DemoError("the stream's sha256 is not that of the text that came")
    return answer


async def _model_ref(client: ApiClient) -> str:
    """The model as the daemon calls it."""
    return (await client.capabilities()).pools[0].model_ref


def sha256(text: str) -> str:
    """Over the UTF-8 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def summary(answer: Answer) -> str:
    """One line of what the daemon said about an answer."""
    started, end = answer.started, answer.end
    speed = 1000 * end.tokens_out / max(end.decode_time_ms, 1)
    digest = started.model_digest.removeprefix("sha256:")
    return " | ".join(
        (
            f"queue position {started.queue_position}",
            f"first token after {end.first_token_ms} ms",
            f"{end.tokens_out} tokens, {speed:.0f} tokens/s",
            f"{started.engine} {started.engine_version}",
            f"model sha256 {digest[:12]}",
            f"stream sha256 {end.stream_sha256}",
        )
    )


def differ(first: Answer, second: Answer) -> str:
    """What two answers do not have in common; empty when they are the same."""
    if first.text.encode() != second.text.encode():
        return f"{first.text!r} and {second.text!r}"
    if first.end.stream_sha256 != second.end.stream_sha256:
        return f"sha256 {first.end.stream_sha256} and {second.end.stream_sha256}"
    return ""


def _tell_about_gpus(out: Output) -> None:
    """On a machine for the home profile, the way on."""
    try:
        gpus = list_gpus()
    except NoGpuError:
        return
    names = ", ".join(gpu.name for gpu in gpus)
    out.line(f"\nThis machine has {names}. For real models on it:")
    out.line("  llama-orch init     writes the home profile for these GPUs\n  llama-orch doctor   checks the rest")
    out.line("  llama-orch up       starts both daemons")


def _cancel_on_signals() -> None:
    """Ctrl-C, SIGTERM and a closed terminal end the demo alike: everything is stopped first."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


if __name__ == "__main__":
    sys.exit(main())
