"""``llama-orch models verify``: read models again and compare them with what they should be.

Decides that every model is looked at, whatever became of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from contracts.catalog import VerifyResult
from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE, StartupError
from llama_orch.commands.models.options import complete, run, unique, watched
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.errors import ApiError
from llama_orch.models import words
from llama_orch.models.find import find_shelf
from llama_orch.models.shelf import Shelf
from llama_orch.models.values import Verdict
from llama_orch.output import Output


def verify(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="As `llama-orch models list` shows them.", autocompletion=complete),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every model of the catalog.")] = False,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare models with their digests.

    Exit status 1 when one is wrong; a fetched file that is wrong is set aside.
    """
    if bool(models) == every:
        raise StartupError("name the models, or say --all", "llama-orch models list shows them", EXIT_USAGE)
    out = Output(as_json=as_json)
    shelf = find_shelf(config, url)
    verdicts = run(_verify(shelf, models, out))
    bad = [verdict for verdict in verdicts if not verdict.good]
    out.data({"ok": not bad, "results": verdicts})
    if not verdicts:
        out.line("no models")
    return EXIT_FAILURE if bad else 0


async def _verify(shelf: Shelf, names: Sequence[str] | None, out: Output) -> list[Verdict]:
    if not names:
        names = [known.model.id for known in (await shelf.stock()).models]
    verdicts = []
    for name in unique(names):
        try:
            with watched(out) as progress:
                verdict = await shelf.verify(name, progress)
        except ApiError as error:
            verdict = Verdict(id=name, result=VerifyResult.FAILED, message=error.message, hint=error.hint)
        verdicts.append(verdict)
        out.line(words.verdict_text(verdict))
        if verdict.hint:
            out.line(f"  hint: {verdict.hint}")
    return verdicts
