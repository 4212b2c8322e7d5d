"""Both daemons run, talk to each other, and their pools are ready.

Decides how their answers are told. Never asks them.
"""

from __future__ import annotations

from contracts.pools import PoolHealth, PoolList
from llama_orch.doctor.base import Kind, Result, ok, skipped
from llama_orch.errors import UNREACHABLE, ApiError

CHECK = "daemons"

UNREACHED = Kind(
    id="daemons.unreachable",
    what="orchestratord does not answer",
    why="nobody can submit a task",
    mend="llama-orch up starts both daemons, or: systemctl --user start llama-orch.target",
)
NOT_STARTED = Kind(
    id="daemons.not-started",
    what="nothing was started yet",
    why="until then nobody can submit a task",
    mend="llama-orch units install --enable --now has systemd start both daemons, and llama-orch up runs them here",
    note=True,
)
REFUSED = Kind(
    id="daemons.refused",
    what="orchestratord refuses this user, or something else answers in its place",
    why="this user's token is not the daemon's, or the address is not orchestratord's",
    mend="llama-orch token says where the token comes from; LLORCH_API_TOKEN in this shell goes before the file",
)
MANAGER_AWAY = Kind(
    id="daemons.manager-away",
    what="orchestratord cannot reach pool-managerd",
    why="no engine is started or watched",
    mend="systemctl --user status pool-managerd; journalctl --user -u pool-managerd",
)
POOL_DOWN = Kind(
    id="daemons.pool-down",
    what="a pool is not ready, and says why",
    why="its model answers nobody",
    mend="as its error says; llama-orch pools shows it",
)


def unreached(url: str, error: ApiError, pid: int | None = None, *, untouched: bool = False) -> list[Result]:
    """It did not answer as it should.

    ``pid`` is the one that runs on this configuration all the same; ``untouched`` says that no daemon ever ran here,
    that no unit is installed which would start one, and that nobody listens.
    """
    if untouched and pid is None:
        return [NOT_STARTED.found(f"{url}: {NOT_STARTED.what}")]
    text = f"{url}: {error.message}"
    if error.code == UNREACHABLE and pid is not None:
        text += f", and yet orchestratord runs (process {pid}): it starts, hangs, or began with another server.bind"
        mend = "systemctl --user restart orchestratord; or end llama-orch up, and start it again"
        return [UNREACHED.found(text, mend)]
    if error.code == UNREACHABLE:
        return [UNREACHED.found(text, error.hint)]
    why = "something else answers there" if error.code.startswith("HTTP_") else "the daemon refuses this user"
    return [REFUSED.found(text, error.hint, why=why)]


def judge(url: str, pools: PoolList) -> list[Result]:
    """What it answered."""
    return [ok(CHECK, f"orchestratord answers on {url}"), _manager(pools), *map(_pool, pools.pools)]


def _manager(pools: PoolList) -> Result:
    if pools.managed:
        return ok(CHECK, "orchestratord and pool-managerd talk to each other")
    return MANAGER_AWAY.found("pool-managerd cannot be reached")


def _pool(pool: PoolHealth) -> Result:
    if pool.ready:
        return ok(CHECK, f"pool {pool.pool_id} is ready")
    error = pool.last_error
    if error is None:
        return skipped(CHECK, f"pool {pool.pool_id} is on its way: {pool.state}")
    text = f"pool {pool.pool_id} is {pool.state}: {error.cause}: {error.message}"
    return POOL_DOWN.found(text, error.hint)
