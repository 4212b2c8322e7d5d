"""Sees to it that a command ends when this program is killed: compilers would go on, and hold the lock of their build.

A shell of its own waits at a pipe. The kernel closes the other end with this program, however that ends, and then the
shell kills the command's whole session. Decides nothing else: a command that ends in time is none of its business.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

# Fields of /proc/<pid>/stat after the name, which may hold blanks: state, parent, group, session. Again until none is
# left, for what was started meanwhile; a zombie only waits to be taken note of. What hangs in a driver ends much later.
_WATCH = r"""
read -r _ && exit
left=1
while [ $left = 1 ]; do
  left=0
  for stat in /proc/[0-9]*/stat; do
    { read -r line < "$stat"; } 2> /dev/null || continue
    pid=${line%% *}
    set -- "$leader" ${line##*) }
    [ "$5" = "$1" ] && [ "$2" != Z ] && kill -KILL "$pid" && left=1
  done
  [ $left = 0 ] || sleep 0.1
done
"""


@asynccontextmanager
async def ends_with_us(leader: int) -> AsyncIterator[None]:
    """While this lasts the session of ``leader`` does not outlive this program. Without a shell it may."""
    try:
        watcher = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", f"leader={leader}\n{_WATCH}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.defpath},
            start_new_session=True,  # a signal from a terminal is not for it
        )
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            watcher.kill()
        await watcher.wait()
