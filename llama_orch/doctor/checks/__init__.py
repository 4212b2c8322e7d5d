"""The checks, in the order in which one mends: what a later one needs, an earlier one looks at."""

from __future__ import annotations

from llama_orch.doctor.checks import (
    clock,
    compute_capability,
    config,
    cuda,
    daemons,
    disk,
    docker,
    driver,
    engine,
    environment,
    filesystem,
    gpus,
    lan,
    linger,
    model,
    paths,
    permissions,
    podman,
    ports,
    session,
    subuid,
    token,
    toolkit_cdi,
    units,
    versions,
)
from llama_orch.doctor.checks.base import Check

CHECKS: tuple[Check, ...] = tuple(
    module.CHECK
    for module in (
        *(config, token, session, paths, filesystem, disk, permissions, clock),
        *(driver, gpus, compute_capability, cuda),
        *(podman, docker, subuid, toolkit_cdi),
        *(engine, model),
        *(units, environment, linger),
        *(lan, ports, versions, daemons),
    )
)
