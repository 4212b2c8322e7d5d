"""Both daemons run, talk to each other, and their pools are ready."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.pools import PoolHealth, PoolList
from daemon_core.errors import StartupError
from llama_orch.client import START_HINT
from llama_orch.doctor.base import Machine, Result, failed, ok, skipped
from llama_orch.errors import UNREACHABLE, ApiError
from llama_orch.session import find_session

CHECK = "daemons"


async def check(machine: Machine) -> Sequence[Result]:
    """Ask over the public interface, with the token."""
    if machine.config is None:
        return [skipped(CHECK)]
    try:
        session = find_session(machine.config_path, machine.url, machine.environ)
    except StartupError:
        return [skipped(CHECK, "needs a usable token")]
    try:
        async with session.client() as client:
            pools = await client.pools()
    except ApiError as error:
        return [failed(CHECK, f"{session.url}: {error.message}", _why(error), error.hint or START_HINT)]
    return [ok(CHECK, f"orchestratord answers on {session.url}"), *_manager(pools), *map(_pool, pools.pools)]


def _why(error: ApiError) -> str:
    if error.code == UNREACHABLE:
        return "nobody can submit a task"
    return "something else answers there" if error.code.startswith("HTTP_") else "the daemon refuses this user"


def _manager(pools: PoolList) -> list[Result]:
    if pools.managed:
        return [ok(CHECK, "orchestratord and pool-managerd talk to each other")]
    mend = "systemctl --user status pool-managerd; journalctl --user -u pool-managerd"
    return [failed(CHECK, "pool-managerd cannot be reached", "no engine is started or watched", mend)]


def _pool(pool: PoolHealth) -> Result:
    if pool.ready:
        return ok(CHECK, f"pool {pool.pool_id} is ready")
    error = pool.last_error
    if error is None:
        return skipped(CHECK, f"pool {pool.pool_id} is on its way: {pool.state}")
    text = f"pool {pool.pool_id} is {pool.state}: {error.cause}: {error.message}"
    return failed(CHECK, text, "its model answers nobody", error.hint or "llama-orch pools")
