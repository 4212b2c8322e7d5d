"""What it means that other machines reach orchestratord."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from contracts.config import Tls
from daemon_core.certificate_files import CertificateFiles
from daemon_core.errors import StartupError
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import lan
from llama_orch.doctor.machine import Look, Machine


async def _run(look: Look) -> Sequence[Result]:
    config = look.machine.config
    if config is None:
        return [skipped(lan.CHECK)]
    tls = config.server.tls
    certificate = None if tls is None else await asyncio.to_thread(_certificate, look.machine, tls)
    return lan.judge(config.server.bind, certificate)


def _certificate(machine: Machine, tls: Tls) -> lan.Certificate | StartupError:
    files = CertificateFiles.of(tls, machine.config_path.absolute().parent, machine.environ)
    try:
        context = files.read()
    except StartupError as error:
        return error
    now = time.time()  # noqa: TID251 - certificates end by this clock
    return lan.Certificate(path=str(files.cert), validity=files.validity(context, now))


CHECK = Check(
    name="lan", about="what other machines reach is encrypted, by a certificate that holds", judge=lan, run=_run
)
