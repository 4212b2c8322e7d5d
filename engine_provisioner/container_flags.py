"""What of ``pools[].flags`` reaches an engine in a container, for the engines that are not llama-server.

Decides, by one small table per engine, which flags are llama-orch's (left out, with a note that says where they are
decided), which are secrets (refused) and which replace a default of ours. A flag that is in no table passes through
untouched and in its place: this program does not need to know all of an engine. Never looks at an engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import MappingProxyType

import msgspec

from contracts.config import Engine, Pool, Profile
from engine_provisioner.flags import Configured, Flag, Note, Rule, configured

_MODEL = "pools[].model says which model is served"
_ADDRESS = "llama-orch chooses the address: this machine only, and a free port"
_CTX = "set pools[].ctx, in tokens for each slot"
_SLOTS = "set pools[].slots"
_PRINTS = "it makes the engine print something and end"
_RELIES = "llama-orch decides it, because it relies on it"
_FILE = "a file of flags could say what is llama-orch's to say; put the flags into pools[].flags"
_KEY = "every start of an engine gets a fresh key by itself"
_FETCHED = "models are fetched before the engine starts"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of one engine that somebody else than the operator decides, or that have a default here."""

    flags: tuple[Flag, ...]
    abbreviates: bool = False
    """The engine's parser takes the beginning of a long flag for the flag."""
    splits: bool = False
    """The image's entry point lets a shell split every argument at white space."""

    def find(self, name: str) -> tuple[Flag, str] | None:
        """The flag that a token names, and how it is spelled here. An abbreviation names only what is not theirs."""
        name = name.replace("_", "-") if name.startswith("--") else name
        for flag in self.flags:
            if name in (flag.name, *flag.aliases):
                return flag, flag.name
            if name in flag.off:
                return flag, flag.off[0]
        if self.abbreviates and name.startswith("--") and len(name) > len("--"):
            for flag in self.flags:
                if flag.rule is not Rule.OPERATOR and any(each.startswith(name) for each in (flag.name, *flag.aliases)):
                    return flag, flag.name
        return None


def _ours(instead: str, *flags: Flag) -> tuple[Flag, ...]:
    return tuple(msgspec.structs.replace(flag, rule=Rule.OURS, instead=instead) for flag in flags)


def _secret(instead: str, *names: str) -> tuple[Flag, ...]:
    return tuple(Flag(name, rule=Rule.SECRET, instead=instead) for name in names)


def _values(*names: str) -> tuple[Flag, ...]:
    return tuple(Flag(name) for name in names)


_VLLM = Table(
    abbreviates=True,
    flags=(
        *_ours(_MODEL, *_values("--model", "--served-model-name")),
        *_ours(_ADDRESS, *_values("--host", "--port", "--uds", "--root-path")),
        *_ours(_ADDRESS, *_values("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--ssl-cert-reqs")),
        *_ours(_CTX, Flag("--max-model-len")),
        *_ours(_SLOTS, Flag("--max-num-seqs")),
        *_ours(_RELIES, Flag("--allowed-origins"), Flag("--headless", value=False), Flag("--grpc", value=False)),
        *_ours(_FILE, Flag("--config")),
        *_ours(_PRINTS, Flag("--help", ("-h",), value=False), Flag("--version", ("-v",), value=False)),
        *_secret(_KEY, "--api-key"),
        *_secret(_FETCHED, "--hf-token"),
        *_values("--generation-config", "--seed"),
        *_values("--gpu-memory-utilization", "--cpu-offload-gb", "--kv-cache-dtype", "--max-num-batched-tokens"),
        Flag("--tensor-parallel-size", ("-tp",)),
        Flag("--pipeline-parallel-size", ("-pp",)),
        Flag("--data-parallel-size", ("-dp",)),
    ),
)
_TGI = Table(
    splits=True,
    flags=(
        *_ours(_MODEL, *_values("--model-id", "--revision")),
        *_ours(_ADDRESS, Flag("--hostname"), Flag("--port", ("-p",))),
        *_ours(_ADDRESS, Flag("--ngrok", value=False), Flag("--ngrok-edge")),
        *_ours(_CTX, Flag("--max-total-tokens")),
        *_ours(_SLOTS, Flag("--max-concurrent-requests")),
        *_ours(_RELIES, Flag("--cors-allow-origin")),
        *_ours(_PRINTS, Flag("--help", ("-h",), value=False), Flag("--version", ("-V",), value=False)),
        *_secret(_KEY, "--api-key"),
        *_secret("an engine is reached from this machine only", "--ngrok-authtoken"),
        Flag("--max-input-tokens", ("--max-input-length",)),
        *_values("--cuda-memory-fraction", "--max-batch-prefill-tokens"),
        Flag("--num-shard"),
        Flag("--sharded"),
        Flag("--usage-stats"),
    ),
)

VLLM_IN_TRITON: MappingProxyType[str, type[int | float | str | bool]] = MappingProxyType(
    {
        "--dtype": str,
        "--enforce-eager": bool,
        "--generation-config": str,
        "--gpu-memory-utilization": float,
        "--kv-cache-dtype": str,
        "--max-num-batched-tokens": int,
        "--pipeline-parallel-size": int,
        "--quantization": str,
        "--seed": int,
        "--tensor-parallel-size": int,
        "--trust-remote-code": bool,
    }
)
"""The arguments of vLLM's engine that may stand in the flags of a triton pool: they are written to its ``model.json``,
and every other flag is tritonserver's own."""

_TRITON = Table(
    abbreviates=True,
    flags=(
        *_ours(_MODEL, *_values("--model-repository", "--model-store", "--load-model", "--model-control-mode")),
        *_ours(_ADDRESS, *_values("--http-address", "--http-port", "--reuse-http-port", "--allow-http")),
        *_ours(_ADDRESS, *_values("--allow-grpc", "--grpc-port", "--grpc-address", "--reuse-grpc-port")),
        *_ours(_ADDRESS, *_values("--allow-sagemaker", "--allow-vertex-ai", "--metrics-address", "--metrics-port")),
        *_ours(_RELIES, *_values("--allow-metrics", "--strict-readiness", "--exit-on-error", "--model-namespacing")),
        *_ours(_CTX, Flag("--max-model-len")),
        *_ours(_SLOTS, Flag("--max-num-seqs")),
        *_ours(_PRINTS, Flag("--help", ("-h",), value=False)),
        *_secret("only llama-orch can reach the engine", "--http-restricted-api", "--grpc-restricted-protocol"),
        *(Flag(name, value=kind is not bool) for name, kind in VLLM_IN_TRITON.items()),
    ),
)

TABLES: MappingProxyType[Engine, Table] = MappingProxyType(
    {Engine.VLLM: _VLLM, Engine.TGI: _TGI, Engine.TRITON: _TRITON}
)


def configured_of(pool: Pool, profile: Profile) -> Configured:
    """What the flags of a pool come to, whatever its engine. Total, as ``read`` is."""
    table = TABLES.get(pool.engine)
    return configured(pool.flags, profile) if table is None else read(table, pool.flags)


def read(table: Table, flags: Sequence[str]) -> Configured:
    """What the operator's flags come to. Total: whatever the strings are, this does not raise.

    An element may be a flag, a value, ``--flag=value``, or a flag with its value after white space. The last of
    duplicates wins.
    """
    todo = deque(word for element in flags for word in _words(table, element))
    settings: dict[str, tuple[str, ...]] = {}
    rest: list[str] = []
    notes: list[Note] = []
    while todo:
        token = todo.popleft()
        name, value = _split(table, token)
        found = table.find(name) if name.startswith("-") else None
        if found is None:
            rest.append(token)
            continue
        flag, spelled = found
        if value is not None and _names_a_flag(table, value):
            value = None  # the engine would read a flag there
        elif flag.value and value is None and todo and not _names_a_flag(table, todo[0]):
            value = todo.popleft()
        if flag.value and value is None:
            text = f"{name} needs a value"
            notes.append(Note(flag=flag.name, message=text, hint="add it, or remove the flag", refused=True))
        elif flag.rule is not Rule.OPERATOR:
            notes.append(_note_on(flag, name))
        else:
            settings[flag.name] = (spelled,) if value is None else (spelled, value)
    return Configured(settings=tuple(settings[name] for name in sorted(settings)), rest=tuple(rest), notes=tuple(notes))


def _words(table: Table, element: str) -> list[str]:
    """An element as the engine will see it: a flag with its value after white space is two."""
    if table.splits:
        return element.split()
    head = element.split(maxsplit=1)[:1]
    return element.split(maxsplit=1) if element.startswith("-") and "=" not in "".join(head) else [element]


def _split(table: Table, token: str) -> tuple[str, str | None]:
    """A token's name and the value that stands in it (``--flag=value``, ``-pVALUE``); the token alone where none does.

    Where the table does not know the name, nothing is made of the split.
    """
    name, equals, value = token.partition("=")
    if equals:
        return name, value
    short = token[:2]
    joined = len(token) > len(short) and not token.startswith("--") and table.find(token) is None
    return (short, token[2:]) if joined and token.startswith("-") and table.find(short) else (token, None)


def _names_a_flag(table: Table, token: str) -> bool:
    """Whether this is the next flag rather than the value of the one before it."""
    return token.startswith("-") and table.find(_split(table, token)[0]) is not None


def _note_on(flag: Flag, name: str) -> Note:
    if flag.rule is Rule.SECRET:
        text = f"{name} would put a secret into a file and into the process list"
        return Note(flag=flag.name, message=text, hint=f"remove it: {flag.instead}", refused=True)
    return Note(flag=flag.name, message=f"{name} in pools[].flags is left out", hint=flag.instead)
