"""``llama-orch init``: the first configuration and the token.

Decides that an existing file is never replaced without --force, and an existing token never: clients use it. The
trial's model is copied to where this user's data is, see ``llama_orch.trial``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from contracts.config import Profile
from contracts.pools import Gpu
from daemon_core import config_file
from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE, StartupError
from daemon_core.paths import default_config_path
from daemon_core.token import FILE_NAME, create_token_file
from llama_orch import trial
from llama_orch.commands.options import ConfigOption, JsonOption
from llama_orch.gpus import NoGpuError, list_gpus
from llama_orch.home_profile import home_config
from llama_orch.keeping import put, where_to_look
from llama_orch.output import Output
from llama_orch.shipped import EXAMPLES, shipped

CONFIG = "config.yaml"
_SCHEMA = re.compile(r"^# yaml-language-server: \$schema=.*$", re.MULTILINE)


def init(
    *,
    for_trial: Annotated[
        bool, typer.Option("--trial", help="For looking around without a GPU: a tiny model on the CPU, loopback only.")
    ] = False,
    example: Annotated[
        str | None, typer.Option("--example", metavar="NAME", help="One of the examples that come along: home-profile.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing configuration file.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a configuration for this machine, and a token that only you can read."""
    path = config or default_config_path(os.environ)
    if path.exists() and not force:
        _only_the_token(path, Output(as_json=as_json))
        return
    if example is not None and for_trial:
        raise StartupError("--trial and --example exclude each other", None, EXIT_USAGE)
    # In a checkout the example names the model beside it, which is no place for a user's configuration to name.
    model = trial.kept_model_path(os.environ) if for_trial or example == "trial" else None
    text = _text(example) if model is None else trial.trial_config(model)
    written = config_file.parse(text, str(path))
    token_path = path.parent / FILE_NAME
    if model is not None:
        trial.keep_model(model)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _token(token_path)
        # For this user's eyes alone: ``env:`` may hold secrets some day.
        kept = put(path, text, mode=0o600, keep=True)
    except OSError as error:
        hint = where_to_look(path.parent, error)
        raise StartupError(f"cannot write {path}: {error.strerror}", hint, EXIT_FAILURE) from error

    out = Output(as_json=as_json)
    out.line(f"wrote {path} (profile {written.profile}: {', '.join(pool.id for pool in written.pools)})")
    if model is not None:
        out.line(f"its model is {model}")
    if kept is not None:
        out.line(f"kept the old one as {kept}")
    out.line(f"token in {token_path}; {_finds_it(config)}")
    if example is not None:
        out.line("it is an example: see that its GPUs, models and addresses are yours")
    if written.profile is Profile.HOME:
        out.line("next: llama-orch preflight finds what this machine lacks, llama-orch ensure prepares the engines")
    for line in _what_next(config):
        out.line(line)
    out.data(
        {
            "config": str(path),
            "token_file": str(token_path),
            "profile": written.profile,
            "kept": None if kept is None else str(kept),
        }
    )


def _text(example: str | None) -> str:
    """The configuration that is asked for, other than the trial's. Raises StartupError."""
    if example is None:
        return home_config(_gpus(), trial.schema_reference())
    known = sorted(path.parent.name for path in shipped(EXAMPLES).glob(f"*/{CONFIG}"))
    if example not in known:
        raise StartupError(f"there is no example {example!r}", f"valid here: {', '.join(known)}", EXIT_USAGE)
    text = (shipped(EXAMPLES) / example / CONFIG).read_text(encoding="utf-8")
    return _SCHEMA.sub(lambda _: f"# yaml-language-server: $schema={trial.schema_reference()}", text, count=1)


def _only_the_token(path: Path, out: Output) -> None:
    """The configuration is there: make the token if that is what is missing. Raises StartupError where nothing is."""
    token_path = path.parent / FILE_NAME
    if not _token(token_path):
        hint = f"edit it; or replace it with --force, which keeps it as {path.name}.old"
        raise StartupError(f"{path} is there already", hint, EXIT_FAILURE)
    out.line(f"made a new token in {token_path}; {path} stays as it is")
    out.data({"config": str(path), "token_file": str(token_path)})


def _token(path: Path) -> bool:
    """Make the token where there is none, or an empty one; whether it was made."""
    if path.exists() and path.stat().st_size:
        return False
    path.unlink(missing_ok=True)
    create_token_file(path)
    return True


def _is_the_usual(config: Path | None) -> bool:
    """Whether it is the one that the units and a command without --config read."""
    return config is None or config.absolute() == default_config_path(os.environ).absolute()


def _finds_it(config: Path | None) -> str:
    if _is_the_usual(config):
        return "this program finds it by itself"
    return f"this program finds it with --config {quote(str(config))}"


def _what_next(config: Path | None) -> tuple[str, ...]:
    if _is_the_usual(config):
        return (
            "next: llama-orch up, or llama-orch units install --enable --now; llama-orch doctor says what is wrong",
        )
    option = f"--config {quote(str(config))}"
    return (
        f"next: llama-orch up {option}; llama-orch doctor {option} says what is wrong",
        f"the units read {default_config_path(os.environ)}; two at once need server.bind and paths: of their own",
    )


def _gpus() -> tuple[Gpu, ...]:
    try:
        return list_gpus()
    except NoGpuError as error:
        hint = f"{error.hint} (llama-orch init --trial)"
        raise NoGpuError(error.message, hint) from error
