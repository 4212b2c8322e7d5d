"""The words of the configuration: what a name, a span, a digest may be, and the closed lists.

Decides which engine may come from where.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Annotated

from msgspec import Meta

END = "$(?!\n)"
"""The end of the text: ``$`` alone would let a line break pass behind it."""
SHA256 = r"^[0-9a-f]{64}" + END
IDENTIFIER = r"^[a-z0-9][a-z0-9_-]{0,62}" + END

Millis = Annotated[int, Meta(ge=1, description="milliseconds")]
Id = Annotated[str, Meta(pattern=IDENTIFIER, description="lower-case letters, digits, '-' and '_', at most 63")]


class Profile(StrEnum):
    """What the whole installation is for."""

    HOME = "home"
    """NVIDIA GPUs only: without one nothing starts."""
    TRIAL = "trial"
    """Loopback only, a tiny model on the CPU: for looking around and for tests. Asked for by name, never a fallback."""


class Engine(StrEnum):
    """The engines that can be spoken to."""

    LLAMACPP = "llamacpp"
    VLLM = "vllm"
    TGI = "tgi"
    TRITON = "triton"
    OPENAI = "openai"


class Mode(StrEnum):
    """Where an engine comes from."""

    EXTERNAL = "external"
    SOURCE = "source"
    CONTAINER = "container"
    PACKAGE = "package"
    BINARY = "binary"


MODES: MappingProxyType[Engine, tuple[Mode, ...]] = MappingProxyType(
    {
        Engine.LLAMACPP: (Mode.SOURCE, Mode.CONTAINER, Mode.PACKAGE, Mode.BINARY, Mode.EXTERNAL),
        Engine.VLLM: (Mode.CONTAINER, Mode.EXTERNAL),
        Engine.TGI: (Mode.CONTAINER, Mode.EXTERNAL),
        Engine.TRITON: (Mode.CONTAINER, Mode.EXTERNAL),
        Engine.OPENAI: (Mode.EXTERNAL,),
    }
)
"""The modes that make sense for each engine; the first one is the home profile's default."""


class FullPolicy(StrEnum):
    """What a full queue does with one more task."""

    REJECT = "reject"
    DROP_LRU = "drop-lru"


class Verdict(StrEnum):
    """The default of the outbound policy."""

    ALLOW = "allow"
    DENY = "deny"


class Durability(StrEnum):
    """What an admitted task, its stream and its receipt outlive, once an answer has told of them."""

    MEMORY = "memory"
    """Nothing: a restart forgets all tasks."""
    PROCESS = "process"
    """The end of orchestratord, however it ends."""
    MACHINE = "machine"
    """A power cut, too: every answer waits for the disk."""
