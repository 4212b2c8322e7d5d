"""The id by which a request is found again: in its answer, in the log and at its engine.

Decides which of the clients' ids are taken over. Never repeats a secret.
"""

from __future__ import annotations

import os
import re
from types import MappingProxyType

from daemon_core.redaction import Redactor

HEADER = "X-Correlation-Id"
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_VARIANT = MappingProxyType(dict(zip("0123456789abcdef", "89ab" * 4, strict=True)))


def correlation_id_of(given: str | None, redactor: Redactor) -> str:
    """The client's id where it is well formed, else a new one. It goes far: one that holds a secret is none."""
    if given is not None and _WELL_FORMED.fullmatch(given) and redactor.text(given) == given:
        return given
    return new_correlation_id()


def new_correlation_id() -> str:
    """A UUID of version 4, for a third of what the library's own costs: nearly every request gets one."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"
