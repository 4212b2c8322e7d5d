"""How models read on a terminal and in a pipe.

Decides the columns, what gives way where a terminal is narrow, and the sentences. Never prints, and looks at no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import assert_never

from contracts.catalog import CatalogModel, VerifyReason, VerifyResult
from contracts.engines import ModelState
from llama_orch.amounts import size_text, tokens_text
from llama_orch.models.values import Details, File, Known, Past, Pulled, Removed, Stock, Verdict
from model_provisioner import reference
from model_provisioner.errors import ReferenceInvalidError

COLUMNS = ("MODEL", "STATE", "SIZE", "QUANT", "ARCH", "CONTEXT", "POOLS", "VERIFIED", "FROM")
OWN = "own file"
"""Where a model is from that somebody put there."""
_GAP = 2
"""Columns of space between two columns of a table."""
_FROM = COLUMNS.index("FROM")
_INDISPENSABLE = tuple(number for number, name in enumerate(COLUMNS) if name not in {"ARCH", "VERIFIED"})

_WRONG = {VerifyReason.DIGEST_MISMATCH, VerifyReason.SIZE_CHANGED}

When = Callable[[int], str]
Row = tuple[object, ...]


def row(known: Known, when: When) -> Row:
    """One model as a row under ``COLUMNS``."""
    model = known.model
    return (
        model.id,
        state_text(model),
        None if model.size_bytes is None else size_text(model.size_bytes),
        model.quant,
        model.arch,
        None if model.ctx_max is None else tokens_text(model.ctx_max),
        ", ".join(model.pools) or None,
        None if model.verified_ms is None else when(model.verified_ms),
        ref_text(model.ref),
    )


def fitting(models: Sequence[Known], when: When, width: int) -> tuple[Row, ...] | None:
    """Heading and rows with a model on a line of ``width`` columns; None where no line can hold one.

    References give way first, to what kind they are of, then what matters least; ``llama-orch models show`` has all.
    """
    rows = [COLUMNS, *(row(known, when) for known in models)]
    kinds = [
        rows[0],
        *((*cells[:_FROM], kind_of(known.model.ref)) for cells, known in zip(rows[1:], models, strict=True)),
    ]
    least = [tuple(cells[number] for number in _INDISPENSABLE) for cells in kinds]
    return next((tuple(table) for table in (rows, kinds, least) if _width(table) <= width), None)


def block(known: Known, when: When) -> list[str]:
    """One model on some lines, for a narrow terminal."""
    name, state, size, quant, arch, context, pools, verified, ref = row(known, when)
    parts = [str(part) for part in (state, size, quant, arch) if part is not None]
    parts += [f"context {context}"] if context is not None else []
    lines = [str(name), "  " + ", ".join(parts)]
    lines += [f"  used by {pools}"] if pools is not None else []
    lines += [f"  verified {verified}"] if verified is not None else []
    return [*lines, f"  {ref}"]


def totals(stock: Stock) -> str:
    """All of them in one line, and how much of the limit is taken."""
    count = len(stock.models)
    text = f"{count} model{'' if count == 1 else 's'}, {size_text(stock.size_bytes)}"
    fetched = size_text(stock.fetched_bytes)
    if stock.max_bytes is not None:
        return f"{text}; fetched: {fetched} of at most {size_text(stock.max_bytes)} (models.max_bytes)"
    return f"{text}; fetched: {fetched}" if stock.fetched_bytes else text


def beside(known: Known) -> tuple[str, str] | None:
    """What is wrong with a model, and the mend; None where nothing is."""
    model, job = known.model, known.model.job
    if not known.here:
        again = "put it back" if kind_of(model.ref) == OWN else f"llama-orch models pull {ref_text(model.ref)}"
        return f"{model.id}: {model.local_path} is gone", f"{again}; or llama-orch models rm {model.id}"
    if job is not None and job.hint is not None:
        return f"{model.id}: {job.message}", job.hint
    return None


def facts(details: Details, when: When) -> list[tuple[str, str]]:
    """All about a model, as names with their values."""
    model = details.known.model
    found = [
        ("state", state_text(model) + (f": {model.state_reason}" if model.state_reason else "")),
        ("pools", ", ".join(model.pools) or "none uses it"),
        ("size", "" if model.size_bytes is None else f"{size_text(model.size_bytes)} ({model.size_bytes} bytes)"),
        ("model", ", ".join(_traits(model))),
        ("template", _template(model)),
        ("from", ref_text(model.ref)),
        ("source", model.source or ""),
        ("path", (model.local_path or "") + ("" if details.known.here else " (gone)")),
        ("kept", _kept(model)),
        ("digest", model.digest or ""),
        ("verified", _verified(model, when)),
        ("added", when(model.created_ms) if model.created_ms else ""),
        ("job", f"{model.job.kind} {model.job.state}: {model.job.message}" if model.job else ""),
    ]
    if len(details.files) > 1:
        found += [("file", _file_text(file, model)) for file in details.files]
    past = [(line.at_ms, _past_text(line, model)) for line in details.history]
    past += [(event.at_ms, f"{event.kind}: {event.message}") for event in details.events]
    found += [("history", f"{when(at_ms)}: {text}") for at_ms, text in sorted(past)]
    return [(name, value) for name, value in found if value]


def state_text(model: CatalogModel) -> str:
    """Active, Retired, or what is being done to have it."""
    if model.state is not None:
        return str(model.state)
    return "unknown" if model.job is None else f"{model.job.kind} {model.job.state}"


def changed_text(model: CatalogModel) -> str:
    """What a model is now."""
    why = f" ({model.state_reason})" if model.state_reason else ""
    if model.state is ModelState.RETIRED:
        return f"{model.id} is Retired{why}: it stays on the disk, and no pool starts with it"
    return f"{model.id} is {model.state}"


def pulled_text(pulled: Pulled) -> str:
    """What a pull came to."""
    model = pulled.known.model
    what = ", ".join(part for part in (size_text(model.size_bytes or 0), model.digest) if part)
    if kind_of(model.ref) == OWN:
        return f"{model.id} is your own file, and is in the catalog: {what}"
    was = " already, and nothing was fetched" if pulled.fetched is False else ""
    return f"{model.id} is here{was}: {what}"


def verdict_text(verdict: Verdict) -> str:
    """What a verification found, in one line."""
    match verdict.result:
        case VerifyResult.OK:
            return f"{verdict.id}: ok, {verdict.digest or verdict.message}"
        case VerifyResult.WARNING:
            return f"{verdict.id}: not verified: {verdict.message}"
        case VerifyResult.FAILED:
            return f"{verdict.id}: {'WRONG' if verdict.reason in _WRONG else 'FAILED'}: {verdict.message}"
        case _:
            assert_never(verdict.result)


def removed_text(removed: Removed) -> str:
    """What became of a model that was removed."""
    if removed.own:
        return f"{removed.id} is not in the catalog any more; {removed.path} is your own file, and stays"
    if removed.freed_bytes is None:
        return f"removed {removed.id} and its files"
    if removed.freed_bytes == 0:
        return f"{removed.id} is not in the catalog any more; its files stay: {removed.path}"
    return f"removed {removed.id}; {size_text(removed.freed_bytes)} freed"


def kind_of(ref: str) -> str:
    """What kind of place a model is from, in a word: ``hf``, ``https``, ``s3``, ``oci``, or somebody's own file."""
    scheme = ref.partition(":")[0].lower()
    return scheme if scheme in reference.FORMS and scheme != "file" else OWN


def ref_text(ref: str) -> str:
    """A reference without what may be a secret."""
    if kind_of(ref) == OWN:
        return ref
    try:
        return reference.shown(reference.parse(ref, PurePosixPath("/")))
    except ReferenceInvalidError:
        return ref.partition("?")[0]


def _traits(model: CatalogModel) -> list[str]:
    traits = [model.format, model.arch, model.quant]
    traits += [f"{count} {name}" for count, name in ((model.layers, "layers"), (model.heads, "heads")) if count]
    traits += [f"context {model.ctx_max}"] if model.ctx_max is not None else []
    traits += [f"tokenizer {model.tokenizer}"] if model.tokenizer else []
    return [trait for trait in traits if trait]


def _template(model: CatalogModel) -> str:
    """The chat template's digest; that there is none can be said of a model that is here."""
    if model.chat_template_sha256:
        return f"sha256:{model.chat_template_sha256}"
    return "no chat template" if model.state is not None else ""


def _verified(model: CatalogModel, when: When) -> str:
    if model.verified_ms is not None:
        return when(model.verified_ms)
    return "never: no digest was known that it should have" if model.state is not None else ""


def _kept(model: CatalogModel) -> str:
    if model.state is None:
        return ""
    if not model.fetched:
        return "your own file: never removed"
    return "pinned: never removed to make room" if model.pinned else "fetched: may be removed to make room"


def _past_text(past: Past, model: CatalogModel) -> str:
    other = "" if past.digest == model.digest else f", which was {past.digest}"
    return f"{past.source or ref_text(past.ref)}{other}"


def _file_text(file: File, model: CatalogModel) -> str:
    size = "gone" if file.size_bytes is None else size_text(file.size_bytes)
    return f"{file.path.removeprefix(f'{model.local_path}/')} ({size})"


def _width(table: Sequence[Row]) -> int:
    """The columns of a terminal that a table takes when nothing in it is cut."""
    widest = [max(len("-" if cell is None else str(cell)) for cell in column) for column in zip(*table, strict=True)]
    return sum(widest) + _GAP * (len(widest) - 1)
