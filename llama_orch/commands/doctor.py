"""``llama-orch doctor``: everything that must hold on this machine, each with its mend."""

from __future__ import annotations

import asyncio
import os

from daemon_core.errors import EXIT_FAILURE
from daemon_core.paths import default_config_path
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.doctor import Machine, Status, examine
from llama_orch.output import Output

_MARKS = {Status.OK: "ok     ", Status.NOTE: "note   ", Status.FAILED: "FAILED ", Status.SKIPPED: "skipped"}


def doctor(*, url: UrlOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Check configuration, token, paths, ports, GPUs, engines and daemons; exit status 1 when one check fails."""
    environ = dict(os.environ)
    machine = Machine(config_path=config or default_config_path(environ), url=url, environ=environ)
    results = asyncio.run(examine(machine))
    out = Output(as_json=as_json)
    out.data({"ok": all(result.status is not Status.FAILED for result in results), "checks": results})
    for result in results:
        out.line(f"{_MARKS[result.status]}  {result.check}: {result.what}")
        if result.why:
            out.line(f"           why:  {result.why}")
        if result.mend:
            out.line(f"           {'next' if result.status is Status.NOTE else 'mend'}: {result.mend}")
    return EXIT_FAILURE if any(result.status is Status.FAILED for result in results) else 0
