"""What a replay came to, for programs and for people.

Decides the fields and the words. Never asks and never prints.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from types import MappingProxyType
from typing import assert_never

import msgspec

from contracts.base import Message
from llama_orch.replay.compare import Difference, Grade, Sameness, Unit
from llama_orch.replay.facts import Change


class Answer(Message, frozen=True, kw_only=True):
    """One of the two runs."""

    task_id: str
    artifact_id: str | None
    pieces: int
    stream_sha256: str
    ended: str
    """``stop``, ``length``, ``canceled``, or the code of its error."""


class Report(Message, frozen=True, kw_only=True):
    """The result of ``llama-orch replay``."""

    grade: Grade
    same: Sameness
    difference: Difference | None
    why: str | None
    """What stood in the way of saying more of the difference."""
    changes: tuple[Change, ...]
    unknown: tuple[str, ...]
    """What would have to be known to call it the same engine, and is not."""
    recorded: Answer
    now: Answer
    seed: int
    pool_id: str | None
    notes: tuple[str, ...] = ()


NAMES = MappingProxyType(
    {
        "engine_version": "engine version",
        "engine_digest": "engine digest",
        "model_digest": "model digest",
        "sampler_profile_version": "sampler profile",
        "provisioning_mode": "provisioning",
        "model_ref": "model",
        "devices": "GPUs",
        "driver_version": "driver",
        "argv": "started as",
        "ctx_max": "context",
        "pool_id": "pool",
        "replica_id": "replica",
        "cache_prompt": "cache allowed",
        "cached_tokens": "tokens from the cache",
    }
)
_GRADES = MappingProxyType(
    {
        Grade.BIT_EXACT: "every byte that was recorded is there again",
        Grade.SAME_ENGINE: "engine, model and sampler profile are the same, the text is not",
        Grade.BEST_EFFORT: "engine, model or sampler profile are not the same, or that cannot be told",
    }
)


def lines(report: Report) -> list[str]:
    """The whole report."""
    now = report.now
    where = f"asked again as {now.task_id}, seed {report.seed}"
    found = [where if report.pool_id is None else f"{where}, pool {report.pool_id}", *_verdict(report)]
    if report.changes:
        found.append("changed since:")
        width = max(len(fact_name(each.fact)) for each in report.changes)
        found += [f"  {fact_name(each.fact):<{width}}  {change_text(each)}" for each in report.changes]
    elif not report.unknown:
        found.append("nothing of what the receipt tells of the engine has changed")
    if report.unknown:
        found.append(f"not known of one of the two: {', '.join(map(fact_name, report.unknown))}")
    found += [f"note: {note}" for note in report.notes]
    found.append(f"class: {report.grade} ({_GRADES[report.grade]})")
    return found


def fact_name(fact: str) -> str:
    """What people call a fact."""
    return NAMES.get(fact, fact)


def change_text(change: Change) -> str:
    """How a fact changed, in one line."""
    if change.fact == "argv" and isinstance(change.recorded, list) and isinstance(change.now, list):
        return _argv_change(change.recorded, change.now)
    return f"{_value(change.recorded)} -> {_value(change.now)}"


def _verdict(report: Report) -> list[str]:
    recorded, now = report.recorded, report.now
    match report.same:
        case Sameness.IDENTICAL:
            return [f"identical: {_count(now.pieces)}, sha256 {now.stream_sha256}"]
        case Sameness.AS_FAR:
            return [f"identical as far as it was recorded: {_count(recorded.pieces)}, then it ended: {recorded.ended}"]
        case Sameness.UNKNOWN:
            return [f"it cannot be compared: {report.why}"]
        case Sameness.DIFFERENT:
            if report.difference is None:
                return [f"it differs, and where is not known: {report.why}"]
            return _difference(report.difference)
        case _:
            assert_never(report.same)


def _difference(found: Difference) -> list[str]:
    match found.unit:
        case Unit.TOKEN:
            text = f"the first differing token is number {found.number}, as the recorded stream counts from 0"
        case Unit.CHARACTER:
            text = (
                f"the first differing character is number {found.number}, counted from 0; "
                "where tokens begin is not known: the recorded stream is not kept any more"
            )
        case Unit.RESULT:
            text = f"the first differing result is number {found.number}, counted from 0 as the inputs are"
        case _:
            assert_never(found.unit)
    before = "..." + found.before if found.before else ""
    return [
        text,
        f"  before    {_quoted(before) if before else '(it is the beginning)'}",
        f"  recorded  {_quoted(found.recorded) if found.recorded else '(it ended here)'}",
        f"  now       {_quoted(found.now) if found.now else '(it ended here)'}",
    ]


def _quoted(text: str) -> str:
    """A text in one line, with what cannot be seen in it."""
    return msgspec.json.encode(text).decode()


def _count(pieces: int) -> str:
    return "1 token" if pieces == 1 else f"{pieces} tokens"


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case str():
            return value
        case list():
            return ", ".join(map(str, value)) or "none"
        case _:
            return msgspec.json.encode(value).decode()


def _argv_change(recorded: Iterable[object], now: Iterable[object]) -> str:
    """The arguments that went and came, each stretch as a shell would read it."""
    before, after = list(map(str, recorded)), list(map(str, now))
    parts = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            gone, came = shlex.join(before[i1:i2]) or "nothing", shlex.join(after[j1:j2]) or "nothing"
            parts.append(f"{gone} -> {came}")
    return "; ".join(parts)
