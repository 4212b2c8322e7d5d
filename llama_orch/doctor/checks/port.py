"""orchestratord's address is free, or orchestratord has it."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from contracts.config import split_bind
from llama_orch.client import ApiClient
from llama_orch.doctor.base import Machine, Result, failed, ok, skipped
from llama_orch.session import url_of

CHECK = "port"


async def check(machine: Machine) -> Sequence[Result]:
    """Try to bind, unless the daemon answers there."""
    if machine.config is None:
        return [skipped(CHECK)]
    bind = machine.config.server.bind
    async with ApiClient(url_of(bind), None) as client:
        if await client.is_up():
            return [ok(CHECK, f"{bind}: orchestratord answers")]
    host, port = split_bind(bind) or ("127.0.0.1", 8080)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        why = "orchestratord could not listen"
        mend = f"ss -ltnp 'sport = :{port}' shows who has it; or set server.bind"
        return [failed(CHECK, f"{bind}: {error.strerror}", why, mend)]
    return [ok(CHECK, f"{bind}: free")]
