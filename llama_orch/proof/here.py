"""What only the machine of the engine has for a proof: its plan, its preflight, its engine, its logs, its versions.

Decides which of it is of the task: an engine that was replaced since is not taken for the one that served. Looks only:
nothing is prepared, built or fetched.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping
from pathlib import Path

import msgspec

from catalog_core.engines import FsEngineCatalog
from catalog_core.errors import CatalogError
from contracts.config import Config, Pool
from contracts.engines import EngineEntry, PreparedEngine
from contracts.receipts import EngineIdentity, Receipt
from daemon_core.journal_entry import CORRELATION_ID, TASK_ID
from daemon_core.paths import Paths
from daemon_core.version import version
from engine_provisioner.errors import ProvisionError
from engine_provisioner.gpus import GpuUnavailable, survey_gpus
from engine_provisioner.host import CommandError, Host
from engine_provisioner.registry import provider_for
from engine_provisioner.report import Result, readable
from engine_provisioner.surroundings import Surroundings
from llama_orch.journal.line import of_the_journal
from llama_orch.proof import manifest as names
from llama_orch.proof.gather import NO_SLOT, Collected
from llama_orch.proof.log_lines import of_the_daemons, of_the_engine

JOURNAL_S = 20.0
MAX_ENTRY_BYTES = 1 << 20
"""Of one entry of the journal, which a long traceback may be."""
BEFORE_S, AFTER_S = 2, 10
"""The journal is read from so long before the task came until so long after it ended."""
MAX_LOG_BYTES = 4 << 20
MAX_FILE_BYTES = 32 << 20
"""Of a pool's log files, which are smaller: what is longer is something else."""


class Here:
    """This machine, as its configuration has it. ``config_path`` is where relative paths of models start."""

    def __init__(self, config: Config, config_path: Path, environ: Mapping[str, str]) -> None:
        self._config = config
        self._paths = Paths.resolve(config.paths, environ)
        catalog = FsEngineCatalog(self._paths.catalog)
        self._host = Host(environ=environ, catalog=catalog, cache=self._paths.cache, policy=config.policy)
        self._catalog = catalog
        self._base = config_path.absolute().parent

    async def gather(self, receipt: Receipt, into: Collected) -> None:
        """All that is to be had here."""
        into.document(names.VERSIONS, await asyncio.to_thread(versions, self._host))
        await self._log(receipt, into)
        served = receipt.engine
        if served is None:
            into.lacks(NO_SLOT, names.PLAN, names.PREFLIGHT, names.PREPARED_ENGINE, names.ENGINE_ENTRY)
            return
        prepared = self._prepared(served, into)
        self._entry(served, prepared, into)
        pool = next((each for each in self._config.pools if each.id == served.pool_id), None)
        if pool is None:
            into.lacks(f"the configuration has no pool {served.pool_id} any more", names.PLAN, names.PREFLIGHT)
            return
        await self._plan(pool, into)

    async def _plan(self, pool: Pool, into: Collected) -> None:
        try:
            provider = provider_for(pool, self._config.profile, self._host)
            into.document(names.PLAN, provider.plan(pool))
        except ProvisionError as error:
            into.lacks(error.message, names.PLAN, names.PREFLIGHT)
            return
        surroundings = Surroundings(self._config, self._base, self._paths.catalog, self._host)
        try:
            findings = (*await provider.preflight(pool), *await surroundings.findings(pool))
        except ProvisionError as error:
            into.lacks(error.message, names.PREFLIGHT)
            return
        text = readable(Result(pool_id=pool.id, findings=findings), into.redactor)
        into.raw(names.PREFLIGHT, f"{text}\n".encode())

    def _prepared(self, served: EngineIdentity, into: Collected) -> PreparedEngine | None:
        path = self._paths.prepared / f"{served.pool_id}.json"
        try:
            engine = msgspec.json.decode(path.read_bytes(), type=PreparedEngine)
        except (OSError, msgspec.MsgspecError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            into.lacks(f"{path.name} of the pool manager cannot be read: {why}", names.PREPARED_ENGINE)
            return None
        if (engine.engine_version, engine.engine_digest) != (served.engine_version, served.engine_digest):
            into.lacks(f"the pool has another engine since: {engine.engine_version}", names.PREPARED_ENGINE)
            return None
        into.document(names.PREPARED_ENGINE, engine)
        return engine

    def _entry(self, served: EngineIdentity, prepared: PreparedEngine | None, into: Collected) -> None:
        try:
            known = self._catalog.list()
        except CatalogError as error:
            into.lacks(error.message, names.ENGINE_ENTRY)
            return
        wanted = None if prepared is None else prepared.engine_catalog_id
        found = [each for each in known if _is_of(each, served, wanted)]
        if found:
            into.document(names.ENGINE_ENTRY, found[0])
        else:
            text = f"the catalog has no {served.engine} with the digest {served.engine_digest}"
            into.lacks(text, names.ENGINE_ENTRY)

    async def _log(self, receipt: Receipt, into: Collected) -> None:
        """The lines of both daemons and of the engine that carry the correlation id of this task."""
        lines, lacks = await self._journal(receipt)
        if receipt.engine is not None:
            path = self._paths.logs / f"{receipt.engine.pool_id}.log"
            read = await asyncio.to_thread(_lines_of, path)
            found = of_the_engine(read, receipt.engine.pool_id, receipt.correlation_id)
            lines += found
            lacks += [] if found else [f"{path.name} has no line of this task"]
        if not lines:
            into.lacks("; ".join(lacks) or "nothing was logged of this task", names.LOG)
            return
        clean = (into.redactor.value(line) for line in (*lines, *({"not_there": each} for each in lacks)))
        data = b"".join(msgspec.json.encode(each) + b"\n" for each in clean)
        into.raw(names.LOG, data[:MAX_LOG_BYTES].rpartition(b"\n")[0] + b"\n")

    async def _journal(self, receipt: Receipt) -> tuple[list[Mapping[str, object]], list[str]]:
        if self._host.which("journalctl") is None:
            return [], ["the daemons' lines: there is no journalctl"]
        since, until = receipt.created_ms // 1000 - BEFORE_S, receipt.ended_ms // 1000 + AFTER_S
        argv = (
            "journalctl",
            "--user",
            "--no-pager",
            "-q",
            "-a",
            "-o",
            "json",
            f"--since=@{since}",
            f"--until=@{until}",
        )
        matches = (f"{TASK_ID}={receipt.task_id}", "+", f"{CORRELATION_ID}={receipt.correlation_id}")
        lines: list[str] = []
        try:
            done = await self._host.run(
                (*argv, "-u", "orchestratord", "-u", "pool-managerd", *matches),
                timeout_s=JOURNAL_S,
                on_line=lines.append,
                line_limit=MAX_ENTRY_BYTES,
            )
        except CommandError as error:
            return [], [f"the daemons' lines: {error}"]
        if done.status != 0:
            return [], [f"the daemons' lines: journalctl ended with status {done.status}: {done.last_line}"]
        said = [line.as_object() for line in map(of_the_journal, lines) if line is not None]
        found = of_the_daemons(said, receipt.task_id, receipt.correlation_id)
        return found, [] if found else ["the daemons' lines: the user's journal has none of this task"]


def versions(host: Host) -> dict[str, object]:
    """What this machine runs. Blocks for a moment."""
    return {
        "llama_orch": version(),
        "python": platform.python_version(),
        "os": host.distribution().get("PRETTY_NAME"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "gpus": _gpus(),
    }


def _gpus() -> object:
    try:
        seen = survey_gpus()
    except GpuUnavailable as error:
        return {"none": error.message}
    return {
        "driver": next((gpu.driver for gpu in seen.gpus), None),
        "there": [{"index": gpu.index, "uuid": gpu.uuid, "name": gpu.name} for gpu in seen.gpus],
        "lost": [gpu.message for gpu in seen.lost],
    }


def _is_of(entry: EngineEntry, served: EngineIdentity, wanted: str | None) -> bool:
    """Whether a catalog entry is that of the engine that served."""
    if entry.engine is not served.engine:
        return False
    if served.engine_digest is not None:
        return entry.digest == served.engine_digest
    return wanted is not None and entry.id == wanted


def _lines_of(path: Path) -> list[str]:
    """A pool's log, the file before it first; empty where there is none."""
    found: list[str] = []
    for each in (path.with_name(f"{path.name}.1"), path):
        try:
            if each.stat().st_size <= MAX_FILE_BYTES:
                found += each.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
    return found
