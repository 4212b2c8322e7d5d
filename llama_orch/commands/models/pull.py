"""``llama-orch models pull``: fetch a model, or catalog a file that is here. Decides what an interruption says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from contracts.config import Engine
from contracts.pools import Cause
from llama_orch.commands.models.listing import as_document
from llama_orch.commands.models.options import run, watched
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.errors import EXIT_INTERRUPTED, ApiError
from llama_orch.models import words
from llama_orch.models.find import find_shelf
from llama_orch.models.values import Wish
from llama_orch.output import Output

AGAIN = "ended; run it again: it goes on where it stopped"


def pull(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="hf:org/repo/file.gguf, https://..., s3://..., oci://..., or a path.")
    ],
    *,
    digest: Annotated[
        str | None, typer.Option(metavar="SHA256", help="What it must have; with another one it is not used.")
    ] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Never remove it to make room for others.")] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask whether there is something newer, although it is here.")
    ] = False,
    engine: Annotated[
        Engine | None, typer.Option(help="The engine that is to load it, where a repository has files for several.")
    ] = None,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Fetch a model, and catalog it.

    An interrupted pull goes on where it stopped, and a model that is here is not fetched again. A file of yours is
    cataloged where it is. Secrets come from the environment alone: HF_TOKEN, AWS_ACCESS_KEY_ID and the like.
    """
    out = Output(as_json=as_json)
    shelf = find_shelf(config, url)
    wish = Wish(ref=ref, digest=digest, pinned=pin, refresh=refresh, engine=engine)
    try:
        with watched(out) as progress:
            pulled = run(shelf.pull(wish, progress))
    except ApiError as error:
        if shelf.place is None and error.code == Cause.MODEL_MISSING.upper() and (lies := _lies_here(ref)):
            raise ApiError(error.code, error.message, hint=f"here is one: give its whole path, {lies}") from error
        raise
    except KeyboardInterrupt:
        told = (
            AGAIN if shelf.place is None else f"it goes on at {shelf.place}; llama-orch models list shows how far it is"
        )
        out.data({"error": {"message": told}})
        out.note(f"llama-orch: {told}")
        return EXIT_INTERRUPTED
    out.line(words.pulled_text(pulled))
    out.data(as_document(pulled.known) | {"downloaded": pulled.fetched})
    return 0


def _lies_here(ref: str) -> str | None:
    """The whole path, as a shell takes it, of what a relative one leads to from where the command was typed."""
    path = Path(ref.removeprefix("file:"))
    return None if path.is_absolute() or not path.exists() else shlex.quote(str(path.absolute()))
