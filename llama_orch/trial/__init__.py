"""What the trial profile brings along: a small model that writes haiku, its subjects, and a configuration for both.

Decides the trial's numbers, and that a configuration which stays names a copy of the model among the user's own data:
an upgrade, or another Python, takes the installation's away. Nothing here is used unless ``profile: trial`` is asked
for by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import yaml

from contracts import config
from daemon_core.errors import EXIT_FAILURE, StartupError
from daemon_core.paths import Paths, make_private_dir
from llama_orch.keeping import put, where_to_look

MODEL_FILE = "haiku.gguf"
WORDS_FILE = "words.txt"
CONTEXT = 512
POOL_ID = "trial"

_CONFIG = """\
# yaml-language-server: $schema={schema}
#
# For looking around on a machine without a GPU: a real llama.cpp server on the CPU, and a small model that knows
# nothing but haiku. Loopback only. For real work: llama-orch init (profile home, NVIDIA GPUs).
profile: trial
server:
  bind: {bind}
pools:
  - id: {pool}
    engine: llamacpp
    model: {model}
    ctx: {ctx}
    slots: 1
    flags: ["--threads", "1"]  # so small a model is fastest on one, above all on a busy machine
    provisioning:
      mode: package
      package: {{name: xllamacpp}}  # the engine, from a published wheel: the extra [trial] of docs/install.md
"""


def haiku_model_path() -> Path:
    """The model in this package. Raises StartupError where the installation lacks it."""
    return _packaged(MODEL_FILE)


def kept_model_path(environ: Mapping[str, str]) -> Path:
    """Where this user's copy of the model is, or will be. Raises PathsError."""
    return Paths.resolve(config.Paths(), environ).data / "trial" / MODEL_FILE


def keep_model(path: Path) -> None:
    """Have the model of this version there. Raises StartupError."""
    content = haiku_model_path().read_bytes()
    try:
        if not path.is_file() or path.read_bytes() != content:
            put(make_private_dir(path.parent) / path.name, content, mode=0o644)
    except OSError as error:
        hint = where_to_look(path.parent, error)
        raise StartupError(f"cannot write {path}: {error.strerror}", hint, EXIT_FAILURE) from error


def subjects() -> tuple[str, ...]:
    """The words that the model was taught to write about."""
    lines = _packaged(WORDS_FILE).read_text(encoding="utf-8").splitlines()
    return tuple(word for line in lines if (word := line.partition("#")[0].strip()))


def haiku_prompt(subject: str) -> str:
    """How the model wants to be asked."""
    return f"Write a haiku about {subject}."


def trial_config(model: Path, bind: str = "127.0.0.1:8080") -> str:
    """The text of a configuration file for the trial profile."""
    return _CONFIG.format(
        schema=schema_reference(), bind=_quoted(bind), pool=POOL_ID, model=_quoted(str(model)), ctx=CONTEXT
    )


def schema_reference() -> str:
    """Where an editor finds the schema of the configuration file."""
    return Path(str(files("contracts") / "config.schema.json")).as_uri()


def _quoted(text: str) -> str:
    """A text as YAML in one line, whatever is in it."""
    written: str = yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=False)
    return written.strip()


def _packaged(name: str) -> Path:
    path = Path(str(files(__name__) / name))
    if not path.is_file():
        raise StartupError(f"this installation lacks {path}", "install llama-orch again; a checkout: git checkout -- .")
    return path
