"""``llama-orch models list`` and ``show``: what models there are. Decides nothing but where the lines go."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from contracts.engines import ModelState
from llama_orch.amounts import ago_text
from llama_orch.commands.models.options import complete
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.models import words
from llama_orch.models.find import find_shelf
from llama_orch.models.values import Known, Stock
from llama_orch.output import Output

EMPTY = "no models; llama-orch models pull REF fetches one"


def list_models(
    *,
    state: Annotated[ModelState | None, typer.Option(case_sensitive=False, help="Only models in this state.")] = None,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models.

    With the pools that use them, and the room that the fetched ones take.
    """
    stock = asyncio.run(find_shelf(config, url).stock())
    out = Output(as_json=as_json)
    for notice in stock.notices:
        out.note(notice)
    chosen = [known for known in stock.models if state in {None, known.model.state}]
    out.data(
        {
            "models": [as_document(known) for known in chosen],
            "size_bytes": stock.size_bytes,
            "fetched_bytes": stock.fetched_bytes,
            "max_bytes": stock.max_bytes,
        }
    )
    if not chosen:
        out.line(EMPTY if state is None else f"no model is {state}")
    elif out.is_terminal:
        _on_terminal(out, stock, chosen)
    else:
        out.table(words.COLUMNS, [words.row(known, date_text) for known in chosen], EMPTY)
    for known in chosen:
        if (wrong := words.beside(known)) is not None:
            out.note(f"{wrong[0]}\n  hint: {wrong[1]}")


def _on_terminal(out: Output, stock: Stock, chosen: list[Known]) -> None:
    now_ms = time.time_ns() // 1_000_000

    def when(at_ms: int) -> str:
        return ago_text(at_ms, now_ms)

    table = words.fitting(chosen, when, out.width)
    if table is None:
        for known in chosen:
            for line in words.block(known, when):
                out.line(line)
    else:
        out.table([str(name) for name in table[0]], table[1:], EMPTY)
    out.line(words.totals(stock))


def show(
    model: Annotated[str, typer.Argument(help="Its id or its reference.", autocompletion=complete)],
    *,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of a model."""
    details = asyncio.run(find_shelf(config, url).details(model))
    out = Output(as_json=as_json)
    out.data(
        as_document(details.known) | {"files": details.files, "history": details.history, "events": details.events}
    )
    now_ms = time.time_ns() // 1_000_000
    facts = words.facts(details, lambda at_ms: f"{date_text(at_ms)} ({ago_text(at_ms, now_ms)})")
    out.line(details.known.model.id)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        out.line(f"  {name:<{width}}  {value}")


def as_document(known: Known) -> dict[str, object]:
    """A model for ``--json``."""
    return {**msgspec.to_builtins(known.model), "here": known.here}


def date_text(at_ms: int) -> str:
    """``2026-11-30 00:30``, in this machine's time zone."""
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M")
