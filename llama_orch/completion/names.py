"""The names of pools, models and tasks: from the daemon where it answers at once, else from the configuration.

Decides how long a Tab may take. Every failure is an empty answer: a shell that completes has no place for an error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from contracts.catalog import CatalogModel
from contracts.tasks import TaskState, TaskStatus
from daemon_core import token
from daemon_core.errors import StartupError
from llama_orch.client import ApiClient
from llama_orch.completion.grammar import Candidate, Kind
from llama_orch.environment import CA_VARIABLE
from llama_orch.errors import ApiError
from llama_orch.session import Session, find_session

LIMIT_S = 0.7
LIMIT_VARIABLE = "LLORCH_COMPLETION_S"
"""For who has a daemon that is far away."""
MOST = 100
_LIVE = frozenset({TaskState.QUEUED, TaskState.RUNNING})


def names(kind: Kind, given: Mapping[str, str]) -> list[Candidate]:
    """The names of this kind; ``given`` may have another daemon or another configuration."""
    if kind is Kind.FILE:
        return []
    try:
        config = Path(given["--config"]).expanduser() if given.get("--config") else None
        daemon = find_session(config, given.get("--url"), _environ(given))
    except (StartupError, OSError, ValueError):
        return []
    found = asyncio.run(_asked(daemon, kind))
    if found is None and kind is Kind.POOL and daemon.config is not None:
        return [Candidate(word=pool.id, help=str(pool.engine)) for pool in daemon.config.pools]
    return found or []


async def _asked(daemon: Session, kind: Kind) -> list[Candidate] | None:
    try:
        async with asyncio.timeout(_limit_s()), daemon.client() as client:
            return await _ask(client, kind)
    except (ApiError, TimeoutError, OSError):
        return None


async def _ask(client: ApiClient, kind: Kind) -> list[Candidate]:
    match kind:
        case Kind.POOL:
            return [Candidate(word=pool.pool_id, help=str(pool.state)) for pool in (await client.pools()).pools]
        case Kind.MODEL:
            return [_model(model) for model in (await client.models()).models]
        case Kind.TASK:
            return [_task(task) for task in (await client.tasks(None, MOST)).tasks]
        case Kind.RUNNING:
            return [_task(task) for task in (await client.tasks(None, MOST)).tasks if task.state in _LIVE]
        case Kind.FILE:
            return []


def _environ(given: Mapping[str, str]) -> dict[str, str]:
    environ = dict(os.environ)
    if given.get("--token-file"):
        environ.pop(token.VARIABLE, None)
        environ[token.FILE_VARIABLE] = given["--token-file"]
    if given.get("--ca-file"):
        environ[CA_VARIABLE] = given["--ca-file"]
    return environ


def _limit_s() -> float:
    try:
        return float(os.environ.get(LIMIT_VARIABLE, ""))
    except ValueError:
        return LIMIT_S


def _model(model: CatalogModel) -> Candidate:
    return Candidate(word=model.id, help=model.ref)


def _task(task: TaskStatus) -> Candidate:
    return Candidate(word=task.task_id, help=f"{task.state} {task.model_ref}")
