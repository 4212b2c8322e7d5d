"""What waits for a disk, over a real one."""

import asyncio
from pathlib import Path

from orchestratord.database import LOG_BYTES, Database
from orchestratord.disk import Disk


async def test_the_log_stays_short_while_somebody_writes_on_and_on(tmp_path: Path) -> None:
    path = tmp_path / "data" / "tasks.sqlite3"
    database = Database.opened(path)
    disk = Disk(path, lambda: database.writes)
    log, at_once = path.with_name(f"{path.name}-wal"), 1 << 20
    try:
        for _ in range(4 * LOG_BYTES // at_once):
            tidying = asyncio.ensure_future(disk.tidied())
            for _ in range(at_once // 4096):
                database.append("t", b"x" * 1000)
                await asyncio.sleep(0)
            await tidying
            assert log.stat().st_size < LOG_BYTES + 4 * at_once
    finally:
        disk.close()
        database.close()
