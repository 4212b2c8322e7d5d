"""What an address that other machines reach means: everything that is sent there can be read on the way without TLS.

Decides what is told. That it needs a token, the check ``token`` says.
"""

from __future__ import annotations

from contracts.config import is_loopback, split_bind
from llama_orch.doctor.base import Kind, Result, ok

CHECK = "lan"

PLAIN = Kind(
    id="lan.plain",
    what="orchestratord serves other machines without TLS",
    why="the token, every prompt and every answer can be read by whoever sees the network's packets",
    mend="set server.tls, or put a reverse proxy with TLS in front (docs/reverse-proxy.md)",
    note=True,
)


def judge(bind: str, *, tls: bool) -> list[Result]:
    """The address of the HTTP interface."""
    host, _ = split_bind(bind) or ("", 0)
    if is_loopback(host):
        return [ok(CHECK, f"{bind}: this machine alone")]
    return [ok(CHECK, f"{bind}: with TLS")] if tls else [PLAIN.found(f"{bind} serves other machines without TLS")]
