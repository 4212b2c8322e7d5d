"""Takes secrets out of text before anybody reads it.

Decides what is a secret: every value that was registered, in the spellings that texts give it, and what looks like one
(``secret_shapes``). Never prints and never logs. What may be long can be looked at in steps, each of which takes little
time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

from daemon_core import secret_shapes
from daemon_core.secret_shapes import SHORT, Shape, exactly, in_steps, shapeless, without_shapes
from daemon_core.steps import Steps, finished

MASK = secret_shapes.MASK
MOST_USUAL = 256
"""How many texts a Redactor remembers to hold no secret."""
DEEPEST = 450
"""A value that is nested deeper is not looked at."""
AT_ONCE = 16
"""So many short texts are one step."""
LEAST_LENGTH = 8
"""Characters of a variable's value below which it is no secret: a mask in place of every ``1`` hides the text."""


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The values of the variables whose name says that they hold a secret (``HF_TOKEN``), for a Redactor."""
    return tuple(value for name, value in environ.items() if len(value) >= LEAST_LENGTH and names_a_secret(name))


def fingerprint(token: str) -> str:
    """Six hexadecimal digits that tell tokens apart in a log without telling the token."""
    return hashlib.sha256(token.encode()).hexdigest()[:6]


class Redactor:
    """Knows the secrets of one program. More can be registered while it runs."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._spellings: set[str] = set()
        self._known: Shape | None = None
        self.registered = 0
        """How many secrets it was told."""
        self._usual: dict[str, bool] = {}
        for secret in secrets:
            self.register(secret)

    def register(self, secret: str) -> None:
        """From now on this value appears in no text; an empty one is no secret."""
        secret = secret.strip()
        if not secret or (spellings := _spellings(secret)) <= self._spellings:
            return
        self.registered += 1
        self._spellings |= spellings
        self._usual.clear()
        # The longest first: a secret that begins with another one must not leave its rest behind.
        longest_first = sorted(self._spellings, key=lambda spelling: (-len(spelling), spelling))
        self._known = exactly(longest_first)

    @property
    def reach(self) -> int:
        """Whether a secret begins at a character of a text, fewer characters than this behind and before it decide."""
        return secret_shapes.CONTEXT + (secret_shapes.REACH if self._known is None else self._known.reach)

    def text(self, text: str) -> str:
        """The text with ``***`` in place of every secret."""
        return without_shapes(self.prose(text))

    def harmless(self, text: str) -> bool:
        """Whether there is nothing to take out of a text, nor of any piece of it: one look for a whole log line."""
        return not any(spelling in text for spelling in self._spellings) and shapeless(text)

    def usual(self, text: str) -> bool:
        """Whether ``text`` would come back as it is, remembered: for one that is looked at again and again."""
        known = self._usual.get(text)
        if known is None:
            if len(self._usual) >= MOST_USUAL:
                self._usual.clear()
            known = self._usual[text] = self.text(text) == text
        return known

    def prose(self, text: str) -> str:
        """The text with ``***`` in place of every registered secret: for what we wrote ourselves.

        What only looks like a secret stays. What another program said, and what somebody configured, wants ``text``.
        """
        if self._known is None or not any(spelling in text for spelling in self._spellings):
            return text
        return finished(in_steps(text, (self._known,)))

    def value(self, value: object) -> object:
        """A log field with its secrets taken out; what is not JSON comes back as its redacted text."""
        match value:
            case None | bool() | int() | float():
                return value
            case str():
                return self.text(value)
            case _:
                return finished(self.in_steps(value))

    def in_steps(self, value: object, depth: int = 0) -> Steps[object]:
        """The same in steps, each of which takes no longer than a few milliseconds.

        Raises RecursionError for what is nested too deeply; ``depth``: how deep this is.
        """
        if depth > DEEPEST:
            raise RecursionError
        match value:
            case None | bool() | int() | float():
                return value
            case str() if len(value) > SHORT:
                return (yield from self._text_in_steps(value))
            case str():
                return self.text(value)
            case dict():
                return (yield from self._members_in_steps(value, depth + 1))
            case list() | tuple() | set() | frozenset():
                items = []
                for number, item in enumerate(value, 1):
                    items.append((yield from self.in_steps(item, depth + 1)))
                    if number % AT_ONCE == 0:
                        yield
                return items
            case _:
                return (yield from self.in_steps(str(value)))

    def member(self, key: object, value: object) -> object:
        """A named field with its secrets taken out: the name alone (``api_key``) can make its value one."""
        if isinstance(value, str) and value and names_a_secret(str(key)):
            return MASK
        return self.value(value)

    def _members_in_steps(self, members: Mapping[object, object], depth: int) -> Steps[dict[object, object]]:
        clean = {}
        for number, (key, item) in enumerate(members.items(), 1):
            name = str(key)
            if isinstance(item, str) and item and (yield from _names_a_secret_in_steps(name)):
                shown: object = MASK
            else:
                shown = yield from self.in_steps(item, depth)
            clean[(yield from self.in_steps(name))] = shown
            if number % AT_ONCE == 0:
                yield
        return clean

    def _text_in_steps(self, text: str) -> Steps[str]:
        if self._known is not None:
            text = yield from in_steps(text, (self._known,))
        return (yield from in_steps(text))


@lru_cache(maxsize=1024)
def names_a_secret(key: str) -> bool:
    """Whether a field of this name holds a secret whatever its value looks like."""
    return without_shapes(f"{key}=x").endswith(f"={MASK}")


def _names_a_secret_in_steps(key: str) -> Steps[bool]:
    if len(key) <= SHORT:
        return names_a_secret(key)
    return (yield from in_steps(f"{key}=x")).endswith(f"={MASK}")


def _spellings(secret: str) -> set[str]:
    """How a secret looks in plain text, in a URL, in JSON and in a Python repr."""
    return {
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }
