"""Every pool's model: here and readable, or to be fetched, and trained for the context that is configured.

Decides when a context is too long. Whether a model can be had, ``model_provisioner`` decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from contracts.base import Message
from contracts.config import Engine, Pool
from contracts.engines import Finding
from llama_orch.doctor.base import Kind, Result, ok, skipped

CHECK = "model"

UNUSABLE = Kind(
    id="model.unusable",
    what="a pool's model is missing, damaged, of the wrong kind, or may not be fetched",
    why="its engine has nothing to load, so the pool serves nobody",
    mend="as the finding says; llama-orch models list shows those that are here",
)
TO_FETCH = Kind(
    id="model.to-fetch",
    what="a pool's model is not here yet",
    why="the pool fetches it when it starts, which takes as long as it takes",
    mend="llama-orch models pull fetches it now and shows how far it is",
    note=True,
)
CONTEXT_REFUSED = Kind(
    id="model.context-refused",
    what="ctx of a vLLM, TGI or Triton pool is more than its model was trained with",
    why="the engine refuses to start with it",
    mend="set ctx to what the model was trained with, or give the flags that stretch it (--hf-overrides)",
)
CONTEXT_STRETCHED = Kind(
    id="model.context-stretched",
    what="ctx of a llama.cpp pool is more than its model was trained with",
    why="what lies beyond is answered with nonsense, or not served at all, and the cache for it takes VRAM",
    mend="set ctx to what the model was trained with, or give the flags that stretch it (--rope-scaling)",
    note=True,
)

_STRETCHING = frozenset(
    {"--rope-scaling", "--rope-scale", "--rope-freq-base", "--rope-freq-scale", "--yarn-orig-ctx", "--hf-overrides"}
)
_PACKAGED = "/llama_orch/trial/haiku.gguf"
"""As ``init --trial`` named the model before it made a copy: in an installation, which an upgrade may take away."""
_ALLOWED = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


class Seen(Message, frozen=True, kw_only=True):
    """What was seen of one pool's model. ``shown`` is its reference without secrets."""

    shown: str = ""
    findings: tuple[Finding, ...] = ()
    here: bool = False
    trained: int | None = None
    """With how many tokens of context; None where that is not known."""
    elsewhere: bool = False
    """An external endpoint has it."""


def judge(seen: Sequence[tuple[Pool, Seen]]) -> list[Result]:
    """Each pool in turn."""
    return [result for pool, each in seen for result in _one(pool, each)]


def _one(pool: Pool, seen: Seen) -> list[Result]:
    if seen.elsewhere:
        return [skipped(CHECK, f"pool {pool.id}: its endpoint has the model")]
    if seen.findings:
        own_copy = "llama-orch init --trial --force" if seen.shown.endswith(_PACKAGED) else None
        return [UNUSABLE.found(found.message, own_copy or found.hint, why=found.why) for found in seen.findings]
    found = _context(pool, seen.trained)
    if not seen.here:
        mend = f"llama-orch models pull {seen.shown} fetches it now and shows how far it is"
        return [TO_FETCH.found(f"pool {pool.id}: {seen.shown} is not here yet", mend), *found]
    return found or [ok(CHECK, f"pool {pool.id}: {seen.shown}")]


def _context(pool: Pool, trained: int | None) -> list[Result]:
    if trained is None or pool.ctx <= trained:
        return []
    names = {flag.partition("=")[0] for flag in pool.flags}
    if names & _STRETCHING or _ALLOWED in pool.env:
        return []
    kind = CONTEXT_STRETCHED if pool.engine is Engine.LLAMACPP else CONTEXT_REFUSED
    text = f"pool {pool.id}: ctx is {pool.ctx}, and its model was trained with {trained}"
    return [kind.found(text, f"set ctx: {trained}; or give flags that stretch the context")]
