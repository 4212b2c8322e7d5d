"""Which variables in ``pools[].env`` are not the operator's to set, for engines that are programs and in containers.

Decides by name alone. A value is never looked at, and never repeated: it may be a secret.
"""

from __future__ import annotations

from types import MappingProxyType

from contracts.config import Pool
from contracts.engines import Finding

_DEVICES = "remove it, and set pools[].devices"
_OURS = MappingProxyType(
    {
        "CUDA_VISIBLE_DEVICES": _DEVICES,
        "NVIDIA_VISIBLE_DEVICES": _DEVICES,
        "CUDA_DEVICE_ORDER": "remove it: the indices in pools[].devices are those of nvidia-smi",
    }
)
_FLAG_PREFIX = "LLAMA_ARG_"
_FLAG_NAMES = frozenset({"MTMD_BACKEND_DEVICE"})
"""What llama-server reads a flag from without the prefix."""
_KEY_HINT = "remove it: every start of an engine gets a fresh key by itself"
_WHY_OURS = "llama-orch sets it at every start: which GPUs a pool uses and who may call its engine"
_WHY_FLAG = "llama-server reads a flag from it, which then is not checked as those in pools[].flags are"


def env_finding(pool: Pool, name: str, key_env: str | None) -> Finding | None:
    """Why a variable is refused; None where it may be set. ``key_env`` is where the engine reads its key from."""
    text = f"pools[{pool.id}].env sets {name}"
    if name.startswith(_FLAG_PREFIX) or name in _FLAG_NAMES:
        return Finding(check="env", message=text, why=_WHY_FLAG, hint="remove it, and set the flag in pools[].flags")
    hint = _KEY_HINT if name == key_env else _OURS.get(name)
    return Finding(check="env", message=text, why=_WHY_OURS, hint=hint) if hint is not None else None
