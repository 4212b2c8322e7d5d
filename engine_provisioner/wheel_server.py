"""The llama.cpp server of the wheel ``xllamacpp`` as a program of its own, for the trial profile.

Decides how the flags, spelled as llama-server spells them, become the server's parameters. Never reads a key from its
arguments (LLAMA_API_KEY in the environment carries it), never serves a web UI or another origin than its own, and
computes on the CPU only. Imports nothing of this package: it is started by its path, as a stranger.

Exit status: 1 with one line of ours on standard error when an argument, the model or the address is no good. A signal
ends it at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, NoReturn

WHEEL = "xllamacpp"
KEY_ENV = "LLAMA_API_KEY"
MISSING = f"the wheel {WHEEL} is not installed ({sys.executable} -m pip install {WHEEL})"

VALUES: dict[str, tuple[str, str]] = {
    "--model": ("PATH", "the GGUF file to serve"),
    "--host": ("ADDRESS", "the address to listen on"),
    "--port": ("N", "the port to listen on; 0 lets the system choose"),
    "--ctx-size": ("N", "the context in tokens, over all slots"),
    "--parallel": ("N", "the number of slots"),
    "--threads": ("N", "threads for generating (default: 1)"),
    "--threads-batch": ("N", "threads for reading prompts (default: as --threads)"),
    "--batch-size": ("N", "tokens of a logical batch"),
    "--ubatch-size": ("N", "tokens of a physical batch"),
    "--cache-ram": ("MIB", "the most memory that the prompt cache may take"),
    "--slot-save-path": ("PATH", "the directory that slots may be saved to; without one none can be erased"),
    "--sse-ping-interval": ("S", "seconds between the comments that keep a silent stream alive"),
    "--timeout": ("S", "seconds after which a silent connection is closed"),
    "--pooling": ("KIND", "how an embedding is made of the tokens: none, mean, cls, last or rank"),
    "--alias": ("NAME", "the model's name in the API"),
    "--cors-origins": ("ORIGINS", "the origins whose pages may call"),
    "--verbosity": ("N", "how much is logged: 0 nothing but the essential, 3 information, 5 everything"),
}
"""Flags with a value: its name and its meaning."""

SWITCHES: dict[str, str] = {
    "--metrics": "serve /metrics",
    "--slots": "serve /slots",
    "--no-slots": "do not serve /slots",
    "--cont-batching": "batch the slots' tokens together (the default)",
    "--no-cont-batching": "do not",
    "--no-warmup": "do not run the model once before it is served",
    "--embedding": "serve embeddings",
    "--embeddings": "the same, in its newer spelling",
    "--rerank": "serve scores of documents",
    "--reranking": "the same, in its newer spelling",
    "--no-ui": "no web UI; there never is one",
    "--no-webui": "the same, in its older spelling",
    "--version": "show the version and exit",
}
"""Flags without one."""

FLAGS = frozenset({*VALUES, *SWITCHES})
"""Every flag that this program knows, spelled as llama-server spells it."""

TEXTS = frozenset({"--model", "--host", "--alias", "--cors-origins", "--pooling", "--slot-save-path"})
POOLINGS = ("none", "mean", "cls", "last", "rank")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the exit status that llama-server has for it."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help lists what the trial engine knows")


def say(text: str) -> None:
    """Print to standard error."""
    os.write(2, f"{text}\n".encode())


def say_among_logs(line: str) -> None:
    """Print a line to standard error while the engine's own thread may be in the middle of one.

    It writes its prefix and its text in two steps; so that whoever reads us finds our line at the beginning of a line,
    it goes out in one write that ends theirs first.
    """
    say(f"\n{line}")


def fail(message: str) -> NoReturn:
    """End with one line."""
    say(f"error: {message}")
    raise SystemExit(1)


def build_parser() -> argparse.ArgumentParser:
    """The argument parser; an abbreviation is an unknown flag, as it is to llama-server."""
    parser = _Parser(prog="wheel_server", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    for flag, (metavar, meaning) in VALUES.items():
        kind = str if flag in TEXTS else port_number if flag == "--port" else int
        choices = POOLINGS if flag == "--pooling" else None
        parser.add_argument(flag, metavar=metavar, help=meaning, type=kind, choices=choices)
    for flag, meaning in SWITCHES.items():
        parser.add_argument(flag, action="store_true", help=meaning)
    return parser


def port_number(text: str) -> int:
    """A port. The engine itself would take 99999 for 34463 and say that it listens on 99999."""
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port")
    return port


def version_text(build: dict[str, Any]) -> str:
    """The two lines that llama-server prints for ``--version``."""
    number, commit = build["build_number"], build["commit"]
    first = f"version: {installed_version(WHEEL)} (build {number}, commit {commit})"
    return f"{first}\nbuilt with {build['compiler']} for {build['build_target']}"


def check_model(path: Path) -> str | None:
    """What is wrong with the file, as far as its first bytes tell; None when nothing is."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        return f"cannot read the model {path}: {error.strerror}"
    return None if magic == b"GGUF" else f"{path} is no GGUF model: it starts with {magic!r}"


def server_params(xllamacpp: Any, flags: argparse.Namespace, key: str | None) -> Any:  # noqa: ANN401 - has no types
    """The server's parameters for these flags; what is not given keeps the engine's own default."""
    params = xllamacpp.CommonParams()
    params.model.path = flags.model
    # The engine's threads wait for each other by spinning. With one per CPU, anything else that runs (the daemons,
    # another pool) slows a tiny model down a hundredfold; one alone gives it thousands of tokens a second.
    threads = flags.threads or 1
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = flags.threads_batch or threads
    given = {
        "port": flags.port,
        "n_ctx": flags.ctx_size,
        "n_parallel": flags.parallel,
        "n_batch": flags.batch_size,
        "n_ubatch": flags.ubatch_size,
        "cache_ram_mib": flags.cache_ram,
        "slot_save_path": flags.slot_save_path and flags.slot_save_path.rstrip("/") + "/",
        "sse_ping_interval": flags.sse_ping_interval,
        "timeout_read": flags.timeout,
        "timeout_write": flags.timeout,
        "verbosity": flags.verbosity,
        "hostnames": [flags.host] if flags.host else None,
        "model_alias": {flags.alias} if flags.alias else None,
        "api_keys": [key] if key else None,
    }
    for name, value in given.items():
        if value is not None:
            setattr(params, name, value)
    params.endpoint_metrics = flags.metrics
    params.endpoint_slots = not flags.no_slots
    params.cont_batching = not flags.no_cont_batching
    params.warmup = not flags.no_warmup
    ranks = flags.rerank or flags.reranking
    params.embedding = flags.embedding or flags.embeddings or ranks
    pooling = "rank" if ranks else flags.pooling
    if pooling is not None:
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    params.ui = False
    # An empty list of origins allows none; the engine's own default allows every page with credentials.
    params.cors_origins = flags.cors_origins or ""
    params.cors_origins_explicit = True
    params.cors_credentials = False
    # Fitting would lower the context silently, and there is no GPU memory to fit into.
    params.fit_params = False
    params.n_gpu_layers = 0
    return params


def main(argv: list[str]) -> None:
    """Serve until a signal comes."""
    flags = build_parser().parse_args(argv)
    try:
        import xllamacpp  # noqa: PLC0415 - 100 MB, and only the trial extra brings it
    except ImportError:
        fail(MISSING)
    if flags.version:
        try:
            say(version_text(xllamacpp.BUILD_INFO))
        except PackageNotFoundError:
            fail(MISSING)
        return
    # Without a model the engine would become a router that loads whatever a client names.
    if flags.model is None:
        fail("--model is missing")
    if problem := check_model(Path(flags.model)):
        fail(problem)
    # The interpreter's handler would wait for the main thread to run Python again; the default ends us at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    key = os.environ.get(KEY_ENV)
    try:
        server = xllamacpp.Server(server_params(xllamacpp, flags, key))
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        say_among_logs(f"error: cannot serve {flags.model} on {flags.host or '127.0.0.1'}:{flags.port or 0}: {error}")
        raise SystemExit(1) from None
    say_among_logs(f"listening on {server.listening_address}")
    while True:
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
