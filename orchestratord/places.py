"""How many connections there may be: of everybody, and of one client.

Decides who gets one more. Never opens or closes any.
"""

from __future__ import annotations

from contracts.labels import PolicyLabel


class Places:
    """The connections that are counted. ``unbounded`` clients, a trusted proxy, count for the listener alone."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self.most = most
        self.most_of_one = most_of_one
        self.taken = 0
        self._of: dict[str, int] = {}

    def of(self, client: str) -> int:
        """How many this client has."""
        return self._of.get(client, 0)

    def take(self, client: str, *, unbounded: bool = False) -> PolicyLabel | None:
        """Take one, or say which bound is met."""
        # Its own bound first: a client that has all that one may have is told so, however many there are in all.
        if not unbounded and self.of(client) >= self.most_of_one:
            return PolicyLabel.MAX_CONNECTIONS_PER_CLIENT
        if self.taken >= self.most:
            return PolicyLabel.MAX_CONNECTIONS
        self.taken += 1
        self._of[client] = self.of(client) + 1
        return None

    def leave(self, client: str) -> None:
        """Give one back."""
        self.taken -= 1
        left = self.of(client) - 1
        if left:
            self._of[client] = left
        else:
            del self._of[client]
