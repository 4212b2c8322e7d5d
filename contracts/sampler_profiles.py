"""Sampler profiles: how tokens are drawn where a request does not say.

Decides the values, which are committed data: a name means the same numbers for ever, and other numbers get another
name. Every value is sent to the engine, so that no default of an engine, of a build or of a model's own files decides.
Which of them an engine honours, ``adapters.parameters`` knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import msgspec

from contracts.base import Strict


class SamplerProfile(Strict, frozen=True, kw_only=True):
    """One profile. The five fields are those of ``contracts.tasks.Sampling``; a request's own values go before them."""

    name: str
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    further: Mapping[str, Mapping[str, Any]]
    """By engine, under the engine's own names: what no request of ours can ask for, and what draws tokens all the same.
    Left out where such a name is not known to be taken by every server of the engine."""

    @property
    def digest(self) -> str:
        """Of its values: two profiles with the same digest draw alike."""
        return "sha256:" + sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


_LLAMACPP: Mapping[str, Any] = {
    "samplers": ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"),
    "min_keep": 0,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "repeat_last_n": 64,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 64,
    "adaptive_target": -1.0,
    "adaptive_decay": 0.9,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "ignore_eos": False,
}
"""llama-server's own defaults. ``dry_penalty_last_n`` has no effect while DRY is off."""
_VLLM: Mapping[str, Any] = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0, "ignore_eos": False}
_FURTHER: Mapping[str, Mapping[str, Any]] = {"llamacpp": _LLAMACPP, "vllm": _VLLM}

V1 = SamplerProfile(name="v1", temperature=0.8, top_p=0.95, top_k=40, min_p=0.05, repeat_penalty=1.0, further=_FURTHER)
"""llama.cpp's documented defaults, so that a pool of llama.cpp draws as it would if nothing were sent."""
GREEDY = SamplerProfile(
    name="greedy", temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, further=_FURTHER
)
"""Always the most likely token: the seed is of no account."""

PROFILES: Mapping[str, SamplerProfile] = MappingProxyType({each.name: each for each in (V1, GREEDY)})
