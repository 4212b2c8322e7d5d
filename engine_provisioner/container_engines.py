"""What each engine needs in a container: its image, its arguments, its environment, what it may write.

Decides all of that from the configuration alone, so the same pool always starts the same container. Never looks at an
image or a machine.

Every engine keeps to loopback by the port that is published, not by what it listens on inside. What an engine compiles
for a GPU outlives its container, in one directory of this machine; it is also the HOME inside, because compilers have
more caches there than have variables to move them. All else that is written goes to a tmpfs.
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType

import msgspec

from contracts.config import ContainerImage, Engine, Pool, Profile
from contracts.engines import Finding
from engine_provisioner.container_flags import VLLM_IN_TRITON, configured_of
from engine_provisioner.flags import HOST, MODEL, NO_ORIGIN, PORT, Configured, Note, llama_server_args
from engine_provisioner.pool_env import env_finding

CACHE = "/cache"
"""Where an engine that compiles finds its cache inside."""
REPOSITORY = "/repository"
"""Where Triton finds its model repository inside."""

_GIB = 1 << 30


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine needs of a container. Sizes in bytes."""

    image: ContainerImage
    """The CUDA image that is used where the pool names none."""
    image_bytes: int
    """About what it takes on the disk."""
    port: int
    """On which it listens, inside."""
    key_env: str | None = None
    """The variable that carries its API key; None where it has none of its own."""
    model_target: str = "/models/"
    shm_bytes: int | None = None
    """For engines whose processes share tensors: a container has 64 MiB otherwise."""
    caches: bool = False
    """It compiles for the GPU at its first start, and finds that again at the next."""
    as_root: bool = False
    """Only root can run the usual image's program."""


NEEDS: MappingProxyType[Engine, Needs] = MappingProxyType(
    {
        Engine.LLAMACPP: Needs(
            image=ContainerImage(image="ghcr.io/ggml-org/llama.cpp", tag="server-cuda"),
            image_bytes=6 * _GIB,
            port=8080,
            key_env="LLAMA_API_KEY",
        ),
        Engine.VLLM: Needs(
            image=ContainerImage(image="docker.io/vllm/vllm-openai", tag="v0.32.0"),
            image_bytes=30 * _GIB,
            port=8000,
            key_env="VLLM_API_KEY",
            shm_bytes=8 * _GIB,
            caches=True,
        ),
        Engine.TGI: Needs(
            image=ContainerImage(image="ghcr.io/huggingface/text-generation-inference", tag="3.3.5"),
            image_bytes=20 * _GIB,
            port=8000,
            key_env="API_KEY",
            # Not by its name: the image's entry point splits arguments at white space.
            model_target="/model",
            shm_bytes=_GIB,
            caches=True,
            as_root=True,
        ),
        Engine.TRITON: Needs(
            image=ContainerImage(image="nvcr.io/nvidia/tritonserver", tag="26.07-vllm-python-py3"),
            image_bytes=35 * _GIB,
            port=8000,
            # One path for every model, so that the repository does not depend on it.
            model_target="/model",
            shm_bytes=8 * _GIB,
            caches=True,
        ),
    }
)

_SECRET_HINT = "remove it: models are fetched before the engine starts, and no engine needs a secret of its own"  # noqa: S105
_SECRET_NAME = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS)$", re.IGNORECASE)
_WHY_SECRET = "a secret does not belong into a file, and every user of the machine may see what a container is given"  # noqa: S105
_WHY_FLAGS = "the engine would not start as configured, or not be safe or not compute where this pool may"


def needs_of(engine: Engine) -> Needs:
    """What an engine needs. KeyError for one that has no container: ``contracts.config.MODES`` says which have."""
    return NEEDS[engine]


def image_of(pool: Pool, profile: Profile) -> ContainerImage | None:
    """The image of a pool: the one it names, else its engine's own.

    None in profile trial where it names none: the engines' own images are made for CUDA.
    """
    if pool.provisioning.container is not None:
        return pool.provisioning.container
    return NEEDS[pool.engine].image if profile is Profile.HOME and pool.engine in NEEDS else None


def image_text(image: ContainerImage) -> str:
    """An image as people write it; a digest outranks the tag."""
    if image.digest is not None:
        return f"{image.image}@{image.digest}"
    return f"{image.image}:{image.tag or 'latest'}"


def arguments(pool: Pool, profile: Profile, gpus: int) -> tuple[str, ...]:
    """The argument vector after the image, with the placeholders for model, host and port.

    ``gpus`` is how many the container is given. What the operator says in ``pool.flags`` replaces a default of ours and
    never what is ours.
    """
    theirs = configured_of(pool, profile)
    match pool.engine:
        case Engine.LLAMACPP:
            return llama_server_args(pool, profile)
        case Engine.VLLM:
            return _vllm(pool, theirs, gpus)
        case Engine.TGI:
            return _tgi(pool, theirs, gpus)
        case Engine.TRITON:
            return _triton(pool, theirs)
        case Engine.OPENAI:
            return ()


def environment(pool: Pool, uuids: tuple[str, ...]) -> dict[str, str]:
    """The variables of the container, without the key: ours, in place of which the operator's ``pool.env`` may stand.

    ``uuids`` are the GPUs of the mask in its order; empty in profile trial, where an engine is shown none.
    """
    # Other engines than llama-server read indices here, and number the GPUs they are given from 0.
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(uuids)} if pool.engine is Engine.LLAMACPP else {}
    return {**_ENVIRONMENT[pool.engine], **pool.env, **visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def notes_on(pool: Pool, profile: Profile) -> tuple[Note, ...]:
    """What the operator should know about what is configured; the refused ones are ``findings_on`` as well."""
    notes = configured_of(pool, profile).notes
    if pool.tensor_split is None or pool.engine is Engine.LLAMACPP:
        return notes
    text = f"tensor_split is left out: {pool.engine} gives every GPU the same share"
    return (*notes, Note(flag="tensor_split", message=text, hint="remove it, or give the pool equal GPUs"))


def findings_on(pool: Pool, profile: Profile) -> tuple[Finding, ...]:
    """The configured flags and variables that must not reach an engine."""
    return (
        *(
            Finding(check="flags", message=f"pools[{pool.id}].flags: {note.message}", why=_WHY_FLAGS, hint=note.hint)
            for note in notes_on(pool, profile)
            if note.refused
        ),
        *(finding for name in sorted(pool.env) for finding in _env_finding(pool, name)),
    )


def model_name_in_triton(pool: Pool) -> str:
    """How the model is called in the repository: a name that is a directory's, which a model reference is not."""
    return pool.id


def triton_repository_files(pool: Pool, gpus: int) -> dict[str, str]:
    """Triton's model repository for its vLLM backend: the text of every file, by its path below the repository."""
    theirs = configured_of(pool, Profile.HOME)
    arguments: dict[str, object] = {
        "model": NEEDS[Engine.TRITON].model_target,
        "gpu_memory_utilization": 0.9,
        "max_model_len": pool.ctx,
        "max_num_seqs": pool.slots,
        "seed": 0,
        "generation_config": "vllm",
    }
    settings = {setting[0]: setting[1:] for setting in theirs.settings}
    if "--pipeline-parallel-size" not in settings:
        arguments["tensor_parallel_size"] = gpus
    arguments |= {_json_name(name): _json_value(name, value) for name, value in settings.items()}
    name = model_name_in_triton(pool)
    return {
        f"{name}/config.pbtxt": _TRITON_CONFIG,
        f"{name}/1/model.json": json.dumps(arguments, indent=2, sort_keys=True) + "\n",
    }


_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
_COMPILERS = {
    "HOME": CACHE,
    # PyTorch asks for the user's name, and not every image knows every number.
    "USER": "engine",
    "XDG_CACHE_HOME": CACHE,
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/torchinductor",
    "TRITON_CACHE_DIR": f"{CACHE}/triton",
}
_VLLM_ENV = {**_OFFLINE, **_COMPILERS, "VLLM_CACHE_ROOT": f"{CACHE}/vllm", "VLLM_NO_USAGE_STATS": "1"}
_ENVIRONMENT: MappingProxyType[Engine, dict[str, str]] = MappingProxyType(
    {
        Engine.LLAMACPP: {},
        Engine.VLLM: _VLLM_ENV,
        Engine.TGI: {**_OFFLINE, **_COMPILERS, "HF_HOME": f"{CACHE}/huggingface"},
        Engine.TRITON: _VLLM_ENV,
    }
)

_TRITON_CONFIG = """\
backend: "vllm"
instance_group [ { count: 1 kind: KIND_MODEL } ]
parameters: { key: "ENABLE_VLLM_HEALTH_CHECK" value: { string_value: "true" } }
"""
"""KIND_MODEL leaves the GPUs to vLLM; with the health check a model whose engine died is no longer ready."""


def _vllm(pool: Pool, theirs: Configured, gpus: int) -> tuple[str, ...]:
    """One sequence at a time is what makes vLLM repeat itself here.

    VLLM_BATCH_INVARIANT=1 in ``pool.env`` would do so for several (beta, compute capability 8.0 or newer, slower).
    """
    defaults = {"--generation-config": "vllm", "--seed": "0"}
    names = {setting[0] for setting in theirs.settings}
    if not names & {"--pipeline-parallel-size", "--data-parallel-size"}:
        defaults["--tensor-parallel-size"] = str(gpus)
    return (
        *("--model", MODEL, "--host", HOST, "--port", PORT, f"--served-model-name={pool.model}"),
        *("--max-model-len", str(pool.ctx), "--max-num-seqs", str(pool.slots)),
        *("--allowed-origins", f'["{NO_ORIGIN}"]'),
        *_merged(defaults, theirs),
    )


def _tgi(pool: Pool, theirs: Configured, gpus: int) -> tuple[str, ...]:
    defaults = {"--max-input-tokens": str(pool.ctx - 1), "--usage-stats": "off"}
    if not any(setting[0] == "--sharded" for setting in theirs.settings):
        defaults["--num-shard"] = str(gpus)
    return (
        *("--model-id", MODEL, "--hostname", HOST, "--port", PORT),
        *("--max-total-tokens", str(pool.ctx), "--max-concurrent-requests", str(pool.slots)),
        *("--cors-allow-origin", NO_ORIGIN),
        *_merged(defaults, theirs),
    )


def _triton(pool: Pool, theirs: Configured) -> tuple[str, ...]:
    return (
        *("tritonserver", "--model-repository", REPOSITORY),
        *("--model-control-mode", "explicit", "--load-model", model_name_in_triton(pool)),
        *("--http-address", HOST, "--http-port", PORT, "--allow-grpc", "false"),
        *("--metrics-address", HOST, "--metrics-port", "8002"),
        *theirs.rest,
    )


def _merged(defaults: dict[str, str], theirs: Configured) -> tuple[str, ...]:
    """The defaults, in place of which the operator's settings stand, by name; then the rest as it stood."""
    chosen: dict[str, tuple[str, ...]] = {name: (name, value) for name, value in defaults.items()}
    chosen |= {setting[0]: setting for setting in theirs.settings}
    return (*(token for name in sorted(chosen) for token in chosen[name]), *theirs.rest)


def _env_finding(pool: Pool, name: str) -> tuple[Finding, ...]:
    if (finding := env_finding(pool, name, NEEDS[pool.engine].key_env)) is not None:
        return (finding,)
    if _SECRET_NAME.search(name):
        text = f"pools[{pool.id}].env sets {name}, which by its name is a secret"
        return (Finding(check="env", message=text, why=_WHY_SECRET, hint=_SECRET_HINT),)
    return ()


def _json_name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _json_value(flag: str, value: tuple[str, ...]) -> object:
    """A setting as ``model.json`` has it; what is no number where one is wanted stays text, and vLLM refuses it."""
    kind = VLLM_IN_TRITON[flag]
    if kind is bool:
        return value in {(), ("true",), ("True",), ("1",)}
    try:
        return kind(*value)
    except ValueError:
        return value[0]
