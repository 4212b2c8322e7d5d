"""How an engine is told to draw tokens: what a request asks for, under the sampler profile of its pool.

Decides which values of a profile an engine is sent, by the tables of ``parameters``, and where it takes none of them.
Never reads a stream, never asks an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import UNSET

from adapters.base import NOTHING
from adapters.parameters import GENERATING, SCALARS, TABLES, Honoured, Obstacle, out_of_range
from contracts.config import Engine
from contracts.sampler_profiles import PROFILES, SamplerProfile
from contracts.tasks import Sampling, Workload


class Drawing(msgspec.Struct, frozen=True):
    """How tokens are drawn, as an engine is told."""

    sampling: Sampling
    further: Mapping[str, Any] = NOTHING


def drawing(
    profile: SamplerProfile | None, engine: Engine, workload: Workload, sampling: Sampling, features: tuple[str, ...]
) -> Drawing:
    """What a request asks for, and what its pool's profile says besides, as far as this engine takes it.

    What the engine does not take is not sent: there it decides itself, and the receipt shows what was sent.
    """
    if profile is None or workload not in GENERATING:
        return Drawing(sampling)
    table = TABLES[engine].get(workload, {})
    values = {}
    for parameter, name in SCALARS.items():
        verdict = table.get(parameter)
        taken = isinstance(verdict, Honoured) and (verdict.needs is None or verdict.needs in features)
        if taken and getattr(sampling, name) is UNSET:
            values[name] = getattr(profile, name)
    filled = msgspec.structs.replace(sampling, **values) if values else sampling
    return Drawing(filled, profile.further.get(engine, NOTHING))


def unkept(profile: str, engine: Engine, workload: Workload, sampling: Sampling) -> Obstacle | None:
    """Why an engine cannot be told a value of the profile that the request does not replace: it takes no such value."""
    for name, found in _UNKEPT.get((profile, engine, workload), {}).items():
        if getattr(sampling, name) is UNSET:
            text = f"sampler profile {profile!r}: {found.message}"
            return Obstacle(field=found.field, message=text, hint=found.hint)
    return None


def _unkept(profile: SamplerProfile, engine: Engine, workload: Workload) -> dict[str, Obstacle]:
    wrong = {}
    for parameter, name in SCALARS.items():
        verdict, value = TABLES[engine][workload].get(parameter), getattr(profile, name)
        if not isinstance(verdict, Honoured) or (value == 0 and verdict.zero is not None):
            continue
        found = out_of_range(engine, parameter, verdict, value)
        if found is not None:
            wrong[name] = found
    return wrong


_UNKEPT: Mapping[tuple[str, Engine, Workload], Mapping[str, Obstacle]] = MappingProxyType(
    {
        (profile.name, engine, workload): found
        for profile in PROFILES.values()
        for engine, tables in TABLES.items()
        for workload in tables
        if workload in GENERATING and (found := _unkept(profile, engine, workload))
    }
)
"""The values of profiles that an engine honours and does not take; a handful."""
