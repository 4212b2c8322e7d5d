"""``llama-orch models retire``, ``activate`` and ``rm``: what becomes of models.

Decides that every model is tried, whatever became of the one before, and that nothing is removed unasked.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
import typer

from contracts.catalog import CatalogModel
from contracts.engines import ModelState
from daemon_core.errors import EXIT_FAILURE, EXIT_RETRY, EXIT_USAGE, StartupError
from llama_orch.amounts import size_text
from llama_orch.commands.models.options import IdArgument, run, unique
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.errors import ApiError
from llama_orch.models import words
from llama_orch.models.find import find_shelf
from llama_orch.models.shelf import Shelf
from llama_orch.models.values import Known
from llama_orch.output import Output

Done = tuple[str, dict[str, object]]
"""A line for people, and the same for programs."""
Work = Callable[[str], Awaitable[Done]]


def retire(
    models: IdArgument,
    *,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever finds them retired.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what a pool uses: it gets no new task.")] = False,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Let no pool start with these models.

    They stay on the disk; `llama-orch models activate` is the way back.
    """
    shelf = find_shelf(config, url)
    return _set_state(
        models,
        Output(as_json=as_json),
        lambda name: shelf.set_state(name, ModelState.RETIRED, reason, force=force),
    )


def activate(
    models: IdArgument, *, url: UrlOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> int:
    """Take models back that were retired."""
    shelf = find_shelf(config, url)
    return _set_state(models, Output(as_json=as_json), lambda name: shelf.set_state(name, ModelState.ACTIVE))


def rm(
    models: IdArgument,
    *,
    keep_files: Annotated[bool, typer.Option("--keep-files", help="Forget the models; their files stay.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Remove models.

    What was fetched leaves the disk; a file of your own is only forgotten.
    """
    out, shelf, names = Output(as_json=as_json), find_shelf(config, url), unique(models)

    async def work(name: str) -> Done:
        removed = await shelf.remove(name, keep_files=keep_files)
        return words.removed_text(removed), msgspec.to_builtins(removed)

    if not yes and not _agreed(out, run(_known(shelf, names)), keep_files=keep_files):
        out.data({"results": []})
        out.note("nothing was removed")
        return EXIT_FAILURE
    return run(_each(names, work, out))


def _set_state(names: Sequence[str], out: Output, change: Callable[[str], Awaitable[CatalogModel]]) -> int:
    async def work(name: str) -> Done:
        model = await change(name)
        return words.changed_text(model), {"id": model.id, "state": model.state, "reason": model.state_reason}

    return run(_each(unique(names), work, out))


async def _each(names: Sequence[str], work: Work, out: Output) -> int:
    """Do it for every model; the answer is the exit status."""
    results: list[dict[str, object]] = []
    errors: list[ApiError] = []
    for name in names:
        try:
            line, result = await work(name)
        except ApiError as error:
            errors.append(error)
            result = {"id": name, "error": error.as_json()}
            if not out.as_json:
                out.note(f"llama-orch: {error.render()}")
        else:
            out.line(line)
        results.append(result)
    out.data({"results": results})
    if not errors:
        return 0
    return EXIT_RETRY if all(error.retriable for error in errors) else EXIT_FAILURE


async def _known(shelf: Shelf, names: Sequence[str]) -> list[Known]:
    return [(await shelf.details(name)).known for name in names]


def _agreed(out: Output, models: Sequence[Known], *, keep_files: bool) -> bool:
    """Ask the person at the terminal. Raises StartupError where there is none."""
    if not (sys.stdin.isatty() and out.notes_are_read):
        raise StartupError("rm asks before it removes, and nobody can answer here", "say --yes", EXIT_USAGE)
    going = [known.model for known in models if not known.model.pools]
    if not going:
        return True  # each of them is refused with its reason
    freed = 0 if keep_files else sum(model.size_bytes or 0 for model in going if model.fetched)
    what = f"{size_text(freed)} are freed" if freed else "no file is removed"
    return out.ask(f"remove {', '.join(model.id for model in going)} from the catalog? {what}")
