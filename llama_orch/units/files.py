"""Unit files: from template to installed file, and whose a file is that lies there already.

Decides that an installed file says of itself who wrote it and whether it was changed since: its first line has the
version and the digest of the rest. So nothing has to be remembered elsewhere, and nothing can be forgotten. Never reads
or writes a file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum

from contracts.base import Message

PLACE = "@BINDIR@"
MARK = re.compile(r"# Written by llama-orch (?P<version>\S+) \(sha256 (?P<digest>[0-9a-f]{64})\)[^\n]*\n")
_MARK = (
    "# Written by llama-orch {version} (sha256 {digest}). Changes belong in a drop-in: systemctl --user edit {name}\n"
)
_SUFFIXES = (".service", ".socket", ".target", ".slice", ".timer", ".path")


class Standing(StrEnum):
    """What a file in the folder of the user's units is to us."""

    MISSING = "missing"
    CURRENT = "current"
    """What would be written now."""
    OLDER = "older"
    """Ours, untouched, and another version would be written now."""
    EDITED = "edited"
    """Ours, and somebody has changed it."""
    FOREIGN = "foreign"
    """Somebody else's."""
    LINK = "link"
    """A link: masked, or kept somewhere else by somebody."""


class Found(Message, frozen=True, kw_only=True):
    """A file as it lies there: its text, or where it points to."""

    text: str = ""
    link: str | None = None


def is_unit(name: str) -> bool:
    """Whether a file of this name is a unit."""
    return name.endswith(_SUFFIXES)


def why_not(bindir: str) -> str | None:
    """Why programs in this folder cannot be named in a unit; None where they can."""
    bad = sorted({sign for sign in bindir if sign in '"\\' or not sign.isprintable()})
    return f"systemd takes no {' '.join(map(repr, bad))} in the path of a program" if bad else None


def rendered(name: str, template: str, bindir: str, version: str) -> str:
    """The file to be installed."""
    place = bindir.replace("%", "%%")
    lines = (line if line.startswith(("#", ";")) else line.replace(PLACE, place) for line in template.splitlines())
    body = "".join(f"{line}\n" for line in lines)
    return _MARK.format(version=version, digest=_digest(body), name=name) + body


def standing(found: Found | None, wanted: str) -> Standing:
    """What lies there, compared with what is to be there."""
    if found is None:
        return Standing.MISSING
    if found.link is not None:
        return Standing.LINK
    if found.text == wanted:
        return Standing.CURRENT
    if found.text == MARK.sub("", wanted, count=1):
        return Standing.OLDER  # written by hand from the same template
    return ownership(found)


def ownership(found: Found) -> Standing:
    """Whose a file is that we do not write now: older, edited, foreign or a link."""
    if found.link is not None:
        return Standing.LINK
    mark = MARK.match(found.text)
    if mark is None:
        return Standing.FOREIGN
    return Standing.OLDER if mark["digest"] == _digest(found.text[mark.end() :]) else Standing.EDITED


def version_of(found: Found) -> str | None:
    """Which version of ours wrote a file."""
    mark = MARK.match(found.text)
    return None if mark is None else mark["version"]


def stale(found: Mapping[str, Found], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Units that an older version of ours brought and this one does not have, untouched since."""
    return tuple(
        name for name, file in sorted(found.items()) if name not in wanted and ownership(file) is Standing.OLDER
    )


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
