"""What it means that other machines reach orchestratord."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence

from contracts.config import Tls
from daemon_core.paths import expand, home_dir
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import lan
from llama_orch.doctor.machine import Look, Machine


async def _run(look: Look) -> Sequence[Result]:
    config = look.machine.config
    if config is None:
        return [skipped(lan.CHECK)]
    tls = config.server.tls
    certificate = None if tls is None else await _certificate(look.machine, tls)
    now = time.time()  # noqa: TID251 - certificates end by this clock
    return lan.judge(config.server.bind, certificate, now)


async def _certificate(machine: Machine, tls: Tls) -> lan.Certificate:
    home, base = home_dir(machine.environ), machine.config_path.absolute().parent
    cert, key = base / expand(tls.cert_file, home), base / expand(tls.key_file, home)

    def problem() -> str | None:
        try:
            if key.stat().st_mode & 0o077:
                return f"{key} can be used by others (mode {key.stat().st_mode & 0o777:04o})"
            # An empty passphrase: without one OpenSSL would ask at the terminal for that of a locked key.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
        except ssl.SSLError as error:
            return f"{cert} and {key}: {(error.reason or 'they are no PEM').replace('_', ' ').lower()}"
        except OSError as error:
            return f"{error.filename or cert}: {error.strerror}"
        return None

    if (found := await asyncio.to_thread(problem)) is not None:
        return lan.Certificate(path=str(cert), problem=found)
    printed = await machine.run("openssl", "x509", "-noout", "-enddate", "-in", str(cert))
    return lan.Certificate(path=str(cert), until_s=lan.until(printed.output) if printed else None)


CHECK = Check(name="lan", about="what other machines reach is encrypted, by a certificate that holds", run=_run)
