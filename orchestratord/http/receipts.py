"""The route of receipts: the chain, a stretch at a time.

Decides how long a stretch is: as many as are asked for, and no more than an answer should weigh.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from aiohttp import web

from contracts.receipts import ReceiptPage
from orchestratord.http.edge import json_response
from orchestratord.http.queries import number
from orchestratord.ledger import Ledger
from orchestratord.shelf import Sealed, artifact_of

USUAL_LIMIT = 100
MOST = 1000
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""A page ends with the receipt that passes it: the client asks for what comes after."""
_AT_A_TIME = 32
"""How many are read before their weight is looked at: each has at most two texts of 256 KiB."""


class ReceiptRoutes:
    """Handlers over one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def table(self) -> list[web.RouteDef]:
        """Where each handler is found."""
        return [web.get("/v1/receipts", self.list)]

    async def list(self, request: web.Request) -> web.Response:
        """``GET /v1/receipts?after=&limit=``."""
        after = number(request, "after", 0, least=0, most=2**63 - 1)
        limit = number(request, "limit", USUAL_LIMIT, least=1, most=MOST)
        found = tuple(map(artifact_of, _page(self._ledger, after, limit)))
        stretch = ReceiptPage(receipts=found, first=self._ledger.first, last=self._ledger.last)
        await self._ledger.settled()
        return json_response(stretch)


def _page(ledger: Ledger, after: int, limit: int) -> Iterator[Sealed]:
    size = 0
    while limit > 0 and size < MAX_PAGE_BYTES:
        found = ledger.read(after, min(limit, _AT_A_TIME))
        for sealed in found:
            if size >= MAX_PAGE_BYTES:
                return
            size += len(sealed.content)
            yield sealed
        if len(found) < min(limit, _AT_A_TIME):
            return
        limit -= len(found)
        reached = _number_of(found[-1])
        if reached <= after:  # it does not stand where it says: from here nothing leads on
            return
        after = reached


def _number_of(sealed: Sealed) -> int:
    return msgspec.json.decode(sealed.content, type=_Numbered).number


class _Numbered(msgspec.Struct):
    number: int
