"""The body of a request to an engine, and of it what a receipt keeps.

Decides that the texts stand last, so that what comes before them is the settings, members in order: both are there
after one encoding. Values in, values out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from contracts.artifacts import canonical

_encode = msgspec.json.Encoder().encode


class Body(msgspec.Struct, frozen=True):
    """What is sent, as JSON."""

    whole: bytes
    settings: bytes
    """All of it but the texts and what is drawn anew for each request; canonical but for a schema in it."""


def as_it_is(schema: dict[str, Any]) -> msgspec.Raw:
    """A schema for the settings whose members stay in their order, which says in which order they are generated."""
    return msgspec.Raw(_encode(schema))


def body_of(settings: dict[str, Any], texts: dict[str, Any]) -> Body:
    """A body with these members, of which ``texts`` are no settings; neither is empty."""
    kept = canonical(settings)
    return Body(b"%b,%b" % (kept[:-1], _encode(texts)[1:]), kept)
