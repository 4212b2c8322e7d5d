"""The checks, in the order in which one mends: what a later one needs, an earlier one looks at."""

from __future__ import annotations

from llama_orch.doctor.base import Check
from llama_orch.doctor.checks import config, daemons, engine, gpus, model, paths, port, token

CHECKS: tuple[Check, ...] = (
    config.check,
    token.check,
    paths.check,
    gpus.check,
    engine.check,
    model.check,
    port.check,
    daemons.check,
)
