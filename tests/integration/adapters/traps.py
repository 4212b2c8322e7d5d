"""The ways in which engines are known to mislead their clients, and which of them concerns which adapter.

A test shows one of them with ``@pytest.mark.trap(n)``: for the engine of its ``subject``, or, with ``by=SUPERVISOR``,
for the supervisor of them all. What cannot concern somebody says here why. ``python -m tools.conformance`` makes the
matrix, and an empty field that has no reason here fails it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from contracts.config import Engine

SUPERVISOR = "pool_managerd"
ROWS = (*(str(engine) for engine in Engine), SUPERVISOR)

TRAPS: Mapping[int, str] = MappingProxyType(
    {
        1: "an error inside a 200 stream",
        2: "an error event after tokens",
        3: "comment pings against the stall timer",
        4: "a priority that the engine has no policy for",
        5: "a usage chunk with empty choices",
        6: "refused, loading and exited are three states",
        7: "UTF-8 and events split across reads, many events in one",
        8: "EOF without a final event",
        9: "a cancel before the first token",
        10: "a slot restore that reports success with cache_n 0",
        11: "a changed default port",
        12: "a renamed or absent metric",
        13: "a 200 answer that is no event stream",
        14: "a stream that never ends",
        15: "a huge single event",
        16: "an error event followed by [DONE]",
        17: "a clean EOF that is success, or failure",
        18: "a stalled stream beside a healthy /health",
        19: "an error body that is a string",
        20: "an engine that crashed with exit status 0",
        21: "children that outlive their parent",
    }
)
SUPERVISED = frozenset({6, 11, 20, 21})
"""Those that the supervisor has to deal with."""

_NOT_SUPERVISED = {(number, SUPERVISOR): "sees no stream" for number in TRAPS if number not in SUPERVISED}
_NO_SLOT_FILES = {(10, str(engine)): "has no slot files" for engine in Engine if engine is not Engine.LLAMACPP}
_NO_CHILDREN = {(21, str(engine)): "pool_managerd's alone" for engine in Engine}
NOT_APPLICABLE: Mapping[tuple[int, str], str] = MappingProxyType(
    {
        **_NOT_SUPERVISED,
        **_NO_SLOT_FILES,
        **_NO_CHILDREN,
        (1, str(Engine.TRITON)): "an error that comes first has a status of its own",
        (5, str(Engine.TRITON)): "has no usage event",
        (16, str(Engine.TRITON)): "has no [DONE]",
    }
)
