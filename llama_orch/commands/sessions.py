"""``llama-orch sessions``: how long a conversation lives, what it has left, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from contracts.sessions import SessionInfo
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.output import Output
from llama_orch.session import Session, find_session


def show(
    session_id: Annotated[str, typer.Argument(metavar="ID", help="As the client named it.")],
    *,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how long a session lives, what it has used, and what an engine still has of it."""
    found = asyncio.run(_show(find_session(config, url), session_id))
    out = Output(as_json=as_json)
    out.data(found)
    out.line(found.session_id)
    facts = _facts(found)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        out.line(f"  {name:<{width}}  {value}")


def rm(
    session_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As the client named them.")],
    *,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End sessions, and free their slots; a turn that runs goes on to its end."""
    asyncio.run(_rm(find_session(config, url), session_ids))
    out = Output(as_json=as_json)
    out.data({"ended": session_ids})
    for session_id in session_ids:
        out.line(f"ended {session_id}")


def group() -> typer.Typer:
    """The commands as a group of their own."""
    app = typer.Typer(help="Show and end sessions.", no_args_is_help=True, rich_markup_mode=None)
    app.command("show")(show)
    app.command("rm")(rm)
    return app


async def _show(daemon: Session, session_id: str) -> SessionInfo:
    async with daemon.client() as client:
        return await client.session(session_id)


async def _rm(daemon: Session, session_ids: Sequence[str]) -> None:
    async with daemon.client() as client:
        for session_id in session_ids:
            await client.delete_session(session_id)


def _facts(found: SessionInfo) -> list[tuple[str, str]]:
    size = "" if found.kv_bytes is None else f", {found.kv_bytes / (1 << 20):.1f} MiB"
    cache = f"{found.kv_tokens} tokens{size}, on {found.replica_id}" if found.kv_tokens else "none"
    facts = [
        ("model", found.model_ref),
        ("turns", f"{found.turns} of {found.turns_max}"),
        ("ends in", f"{found.ttl_ms_remaining / 1000:.0f} s"),
        ("KV cache", cache),
        ("last turn", "warm" if found.kv_warmth else "cold"),
    ]
    if found.budgets.tokens_remaining is not None:
        facts.append(("tokens left", str(found.budgets.tokens_remaining)))
    if found.budgets.time_remaining_ms is not None:
        facts.append(("time left", f"{found.budgets.time_remaining_ms / 1000:.1f} s"))
    return facts
