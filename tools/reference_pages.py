"""Pages of docs/ that are made from the contracts: the error codes, and what the daemons say to each other.

Decides how they are laid out. What they say is ``contracts``'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import MEANING, RETRIABLE, STATUS, ErrorCode
from contracts.examples.rpc import EXAMPLES, RpcExample

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTE = "<!-- Made from contracts/ by `make generate`; do not edit. -->"

ERRORS = """\
# Error codes

{note}

Every refusal over HTTP, and the `error` event of a stream, names one of these codes. Branch on the code: messages and
hints are for people, and get better. `retriable` says whether the same request may succeed later; where a time is
known, the body has `retry_after_ms`, and a 429 has `Retry-After` (whole seconds) and `X-Backoff-Ms` as well. The
[documents of the API](../contracts/openapi/data.yaml) show an example of each.

| code | status | try again | when |
|---|---|---|---|
{rows}

*In streams only* is what ends a task that was accepted: its status is the one that a whole answer would have.
"""

RPC = """\
# What the two daemons say to each other

{note}

`pool-managerd` has no network port. It listens on `$XDG_RUNTIME_DIR/llama-orch/pool-managerd.sock` (0600, the same user
only), and speaks JSON-RPC 2.0, one message per line, each at most 1 MiB. `hello` comes first; versions whose first
number differs are refused. After `subscribe` come notifications: `pool.changed` with the whole of a pool, `gpu.sample`,
`catalog.job`. A revision only grows, so whoever reconnects asks for everything once and misses nothing.

The types are in [contracts/rpc.py](../contracts/rpc.py). A test says every line below to the running daemon.

{calls}"""


def documents() -> dict[Path, str]:
    """Every page with its text."""
    rows = "\n".join(_row(code) for code in ErrorCode)
    calls = "\n".join(_call(example) for example in EXAMPLES)
    return {
        DOCS / "errors.md": ERRORS.format(note=NOTE, rows=rows),
        DOCS / "rpc.md": RPC.format(note=NOTE, calls=calls),
    }


def _row(code: ErrorCode) -> str:
    status = f"{STATUS[code]}, in streams only" if code in IN_STREAMS else str(STATUS[code])
    return f"| `{code}` | {status} | {'yes' if code in RETRIABLE else 'no'} | {MEANING[code]} |"


IN_STREAMS = frozenset({ErrorCode.DECODE_TIMEOUT, ErrorCode.WORKER_RESET, ErrorCode.REPLICA_EXHAUSTED})


def _call(example: RpcExample) -> str:
    answer: Any = msgspec.json.encode(example.answer).decode()
    head = "On a new connection: " if example.new_connection else ""
    return f"{head}{example.summary}.\n\n```json\n{example.sent}\n{answer}\n```\n"
