"""Clients that ask before they send a body: ``Expect: 100-continue``.

Decides when such a client is told to go on: once it may come in and its body may be so long, and not before, as aiohttp
would by itself. Whatever else it may expect is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aiohttp import HttpVersion11, web
from aiohttp.hdrs import EXPECT

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def unanswered(routes: Iterable[web.RouteDef]) -> Iterator[web.RouteDef]:
    """The same routes, whose expectations aiohttp leaves to ``expect``."""
    for each in routes:
        yield web.RouteDef(each.method, each.path, each.handler, {**each.kwargs, "expect_handler": _later})


async def _later(_request: web.Request) -> None:
    """Say nothing yet."""


async def expect(request: web.Request) -> None:
    """Answer what the client expects. Raises the HTTPException for what it cannot have."""
    if request.version < HttpVersion11:  # it may have come through a proxy that does not know of this
        return
    if request.match_info.http_exception is not None:  # there is no such route, and aiohttp has answered by itself
        return
    if request.headers[EXPECT].lower() != "100-continue":
        raise web.HTTPExpectationFailed
    length = request.content_length or 0
    if length > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, length)
    if not request.content.is_eof():
        await request.writer.write(CONTINUE)
        request.writer.output_size = 0  # it is no part of the answer
