"""How a receipt and what is wrong with a chain read on a terminal.

Decides the words. Never asks and never prints; the clock's zone is that of who reads.
"""

from __future__ import annotations

import shlex
from datetime import datetime

import msgspec

from contracts.receipts import EngineIdentity, Receipt, SlotUse
from contracts.tasks import TaskRequest
from daemon_core.chain import Break, Fault, Verdict

SHOWN_BREAKS = 20
"""More are counted."""
COLUMNS = ("NUMBER", "TASK", "STATE", "ENDED", "POOL", "TOKENS", "END", "RECEIPT")
Fact = tuple[str, str]


def row(receipt_id: str, receipt: Receipt) -> tuple[object, ...]:
    """A receipt in a table."""
    end, error, served = receipt.end, receipt.error, receipt.engine
    return (
        receipt.number,
        receipt.task_id,
        receipt.state,
        moment(receipt.ended_ms),
        None if served is None else served.pool_id,
        None if end is None else end.tokens_out,
        end.finish_reason if end is not None else None if error is None else error.code,
        receipt_id,
    )


def facts(receipt: Receipt) -> list[Fact]:
    """All that a receipt says, in the order in which it is asked."""
    found = [*_task(receipt), *_request(receipt)]
    if receipt.engine is not None:
        found += _served(receipt.engine)
    if receipt.slot is not None:
        found.append(("slot", _slot(receipt.slot, receipt)))
    found += _outcome(receipt)
    found.append(("before it", receipt.previous or "none: it is the first that ever was"))
    return found


def notes(receipt: Receipt) -> list[str]:
    """What one should know before relying on it."""
    found = []
    if receipt.interrupted:
        kept = "" if receipt.end is not None else ": the text is what had been kept until then"
        found.append(f"orchestratord ended while it ran{kept}")
    if receipt.redacted:
        found.append("a secret was taken out of it: the text may hash to something else than the stream")
    if receipt.cut:
        found.append("texts were too long, and left out")
    return found


def moment(unix_ms: int) -> str:
    """Date and time where the reader is."""
    return datetime.fromtimestamp(unix_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def break_lines(breaks: tuple[Break, ...]) -> list[str]:
    """Where a chain does not hold, and why."""
    lines = [each.message if each.number is None else f"number {each.number}: {_why(each)}" for each in breaks]
    more = len(lines) - SHOWN_BREAKS
    return lines if more <= 0 else [*lines[:SHOWN_BREAKS], f"and {more} more"]


def verdict_line(seen: Verdict) -> str:
    """What a look at a chain came to."""
    if seen.first is None or seen.last is None:
        return "there are no receipts"
    span = f"number {seen.first}" if seen.first == seen.last else f"numbers {seen.first} to {seen.last}"
    if seen.breaks and all(each.fault is Fault.UNKNOWN for each in seen.breaks):
        return f"{_count(seen.holds)} {_verb(seen.holds)}: {span}; it is not the chain that was expected"
    if seen.breaks:
        places = len(seen.breaks)
        broken = "in one place" if places == 1 else f"in {places} places"
        return f"the chain is broken {broken}; {_count(seen.holds)} of {span} {_verb(seen.holds)}"
    return f"{_count(seen.holds)} {_verb(seen.holds)}: {span}"


def _count(number: int) -> str:
    return "1 receipt" if number == 1 else f"{number} receipts"


def _verb(number: int) -> str:
    return "holds" if number == 1 else "hold"


def _why(each: Break) -> str:
    own = f"number {each.number} is missing"
    return f"it is missing{each.message.removeprefix(own)}" if each.message.startswith(own) else each.message


# --- the parts of a receipt -------------------------------------------------------------------------------------------


def _task(receipt: Receipt) -> list[Fact]:
    return [
        ("task", f"{receipt.task_id}, {receipt.job_id}"),
        ("asked", f"{moment(receipt.created_ms)} by {receipt.identity}, {receipt.correlation_id}"),
        ("ended", f"{moment(receipt.ended_ms)}, {receipt.state}"),
    ]


def _request(receipt: Receipt) -> list[Fact]:
    request = msgspec.json.decode(receipt.request, type=TaskRequest)
    what = f"{request.workload} of {request.model_ref}, {request.priority}, {receipt.determinism}, seed {receipt.seed}"
    found = [("request", what)]
    if request.max_tokens is not None:
        found.append(("max_tokens", str(request.max_tokens)))
    if request.session_id is not None:
        found.append(("session", request.session_id))
    if request.prompt is not None:
        found.append(("prompt", request.prompt))
    for number, each in enumerate(request.messages or (), 1):
        found.append((f"message {number}", f"{each.role}: {each.content}"))
    found += [(f"input {number}", text) for number, text in enumerate(request.inputs or (), 1)]
    if receipt.sent is not None:
        found.append(("sent", msgspec.json.encode(receipt.sent).decode()))
    if receipt.json_schema is not None:
        found.append(("schema", receipt.json_schema))
    return found


def _served(served: EngineIdentity) -> list[Fact]:
    found = [
        ("served by", f"pool {served.pool_id}, replica {served.replica_id}"),
        ("engine", f"{served.engine} {served.engine_version or 'of a version that it does not tell'}"),
        ("its digest", served.engine_digest or "unknown"),
        ("model", served.model_ref),
        ("its digest", served.model_digest or "unknown"),
        ("sampler", served.sampler_profile_version),
        ("GPUs", ", ".join(served.devices) or "none"),
        ("driver", served.driver_version or "none"),
    ]
    if served.argv:
        found.append(("started as", shlex.join(served.argv)))
    return found


def _slot(use: SlotUse, receipt: Receipt) -> str:
    where = "the engine's choice" if use.slot is None else f"number {use.slot}"
    if receipt.engine is not None:
        where += f", of {receipt.engine.slots}"
    if not use.cache_prompt:
        return f"{where}; without what was computed before"
    if use.cached_tokens is None:
        return where
    return f"{where}; {use.cached_tokens} tokens of the prompt were there already"


def _outcome(receipt: Receipt) -> list[Fact]:
    found: list[Fact] = []
    if receipt.attempts > 1:
        found.append(("attempts", str(receipt.attempts)))
    times = [f"place {receipt.queue_position}, start foretold in {receipt.predicted_start_ms} ms"]
    times += [] if receipt.queue_time_ms is None else [f"waited {receipt.queue_time_ms} ms"]
    times += [] if receipt.first_token_ms is None else [f"first token after {receipt.first_token_ms} ms"]
    found.append(("queue", ", ".join(times)))
    end, error = receipt.end, receipt.error
    if end is not None:
        counted = f"{end.tokens_in} tokens in, {end.tokens_out} out in {end.decode_time_ms} ms"
        found.append(("end", f"{end.finish_reason}, {counted}, {receipt.pieces} pieces"))
    if error is not None:
        found.append(("error", f"{error.code}: {error.message}"))
    if receipt.transcript is not None:
        found.append(("answer", receipt.transcript))
    found.append(("stream", f"sha256 {receipt.stream_sha256}"))
    return found
