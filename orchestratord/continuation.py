"""The answer of a task that is run again, behind what its client has already been sent.

Decides whether the second run says the same as the first, byte for byte, whatever the pieces in which it comes. Only
what follows is passed on. Values in, values out.
"""

from __future__ import annotations

from collections.abc import Sequence


class DiffersError(Exception):
    """The second run says something else. ``number``: of the first token that differs."""

    def __init__(self, number: int) -> None:
        super().__init__(f"run again after a restart, the engine said something else from token {number} on")
        self.number = number


class Continuation:
    """What was sent, and how much of it has come again."""

    def __init__(self, sent: Sequence[str]) -> None:
        self._sent = sent
        self._text = "".join(sent)
        self._seen = 0
        self._empty = sum(not piece for piece in sent)
        """Empty pieces that may come again; more of them are new."""

    @property
    def over(self) -> bool:
        """Whether all that was sent has come again."""
        return self._seen == len(self._text)

    def take(self, texts: Sequence[str]) -> list[str]:
        """What of these is new. Raises DiffersError."""
        fresh = []
        for text in texts:
            if not text and (self._empty or not self.over):
                self._empty = max(0, self._empty - 1)
                continue
            due = self._text[self._seen : self._seen + len(text)]
            if text[: len(due)] != due:
                agreed = next(n for n, (a, b) in enumerate(zip(due, text, strict=False)) if a != b)
                raise DiffersError(self._number(self._seen + agreed))
            self._seen += len(due)
            if len(due) < len(text) or not text:
                fresh.append(text[len(due) :])
        return fresh

    def end(self) -> None:
        """The second run has ended. Raises DiffersError where it is shorter than what was sent."""
        if not self.over:
            raise DiffersError(self._number(self._seen))

    def _number(self, place: int) -> int:
        """The token in which a place of the text stands."""
        end = 0
        for number, piece in enumerate(self._sent):
            end += len(piece)
            if place < end:
                return number
        return len(self._sent)
