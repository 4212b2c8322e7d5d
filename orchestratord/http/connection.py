"""One connection of the HTTP port: aiohttp's own, and beside it what its client may do.

Decides nothing: ``conduct`` says when a client is too slow or asks for too much, and ``last_words`` what it hears.
aiohttp bounds lines and headers by itself; that a head or a body has to come within a time it leaves to others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Self

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import StreamReader

from contracts.config import Server, is_loopback
from orchestratord.conduct import Bounds, Conduct, Fault
from orchestratord.http import last_words
from orchestratord.http.correlation import HEADER, new_correlation_id
from orchestratord.http.errors import response_of
from orchestratord.peers import NOBODY
from orchestratord.spells import Spells

log = logging.getLogger(__name__)

AIOHTTP_IDLE_S = 24 * 3600.0
"""aiohttp's own limit knows no head that has begun; ours comes sooner."""
FAREWELL_S = 1.0
"""So long a client that was cut off may go on sending, so that it can read why: data nobody reads would reset it."""
_TOO_MANY = "Too many headers"

Enter = Callable[["Connection", asyncio.Transport], str | None]


class Watch(msgspec.Struct, frozen=True):
    """What all connections of one listener share."""

    limits: Server
    bounds: Bounds
    """The same, for one connection."""
    trust_proxy: bool
    """Whether a client on this machine is a proxy that is believed."""
    spells: Spells
    """What was told of which client in the log."""

    @classmethod
    def over(cls, limits: Server, *, trust_proxy: bool) -> Self:
        """A watch that nothing has happened to."""
        bounds = Bounds(
            header_s=limits.header_timeout_ms / 1000,
            body_s=limits.body_timeout_ms / 1000,
            idle_s=limits.keep_alive_ms / 1000,
            header_bytes=limits.max_header_bytes,
            body_bytes=limits.max_body_bytes,
        )
        return cls(limits, bounds, trust_proxy, Spells())

    def trusts(self, address: str) -> bool:
        """Whether the other end of a connection is a proxy: one that has many clients, and tells of each."""
        return self.trust_proxy and is_loopback(address)

    def tell(self, kind: str, client: str, text: str, level: int = logging.INFO) -> None:
        """One line for each client and spell."""
        passed_over = self.spells.tell(kind, client, asyncio.get_running_loop().time())
        if passed_over is not None:
            more = f" ({passed_over} more since it was last told)" if passed_over else ""
            log.log(level, "%s: %s%s", client, text, more, extra={"client": client})


class Connection(web.RequestHandler):
    """aiohttp's protocol with a watch on its client."""

    __slots__ = ("body", "client", "conduct", "enter", "leave", "loop", "over", "watch", "watching")

    def __init__(self, server: web.Server, watch: Watch, enter: Enter, leave: Callable[[str], None]) -> None:
        """``enter`` names the client, or turns it away; ``leave`` is called when one that was named is gone."""
        self.loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=self.loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp's own way to have none
            logger=log,
            keepalive_timeout=AIOHTTP_IDLE_S,
            max_line_size=watch.limits.max_header_bytes,
            max_field_size=watch.limits.max_header_bytes,
            max_headers=watch.limits.max_headers,
            # It would unpack in the event loop, for everybody who reaches the port, and stop all streams meanwhile.
            auto_decompress=False,
        )
        self.watch = watch
        self.enter = enter
        self.leave = leave
        self.client: str | None = None
        self.conduct = Conduct(watch.bounds, self.loop.time())
        self.body: StreamReader | None = None
        self.watching: asyncio.TimerHandle | None = None
        self.over = False

    # --- what the loop says -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # of a stream, always
        """It is open; over TLS, the handshake is done."""
        self.transport = transport
        self.client = self.enter(self, transport)
        if self.client is None:
            self.over = True
            return
        self.conduct.known = self.watch.trusts(self.client)
        super().connection_made(transport)
        self.watching = self.loop.call_later(self.watch.bounds.soonest_s, self._look)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self.over:
            return
        if data:  # aiohttp itself calls with none, to have parsed what it holds
            body_open = self._body_open
            fault = self.conduct.received(data, self.loop.time(), body_open=body_open)
            if fault is not None:
                self._part(fault)
                return
            super().data_received(data)
            if body_open:
                self._give_up_body()
        else:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone."""
        if self.client is None:
            return
        if self.watching is not None:
            self.watching.cancel()
        super().connection_lost(exc)
        self.leave(self.client)

    # --- what aiohttp says --------------------------------------------------------------------------------------------

    def entered(self, request: web.BaseRequest) -> None:
        """A request is with its handler."""
        self.body = request.content
        self.conduct.entered(self.loop.time())
        if self._messages:
            self._give_up_body()

    def let_in(self) -> None:
        """It is of somebody who may ask."""
        self.conduct.known = True

    def begun(self) -> None:
        """Its answer has begun."""
        self.conduct.begun = True

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:  # noqa: ARG002 - aiohttp's
        """It has been answered: what aiohttp calls then. There is no access log."""
        self.conduct.answered(self.loop.time(), body_open=self._body_open)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What could not be parsed, in our words. Anything else aiohttp answers by itself."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        large = isinstance(exc, LineTooLong) or exc.message.startswith(_TOO_MANY)
        correlation_id = new_correlation_id()
        refusal = last_words.large_head(self.watch.limits) if large else last_words.no_http()
        self.watch.tell("malformed", self.client or NOBODY, f"bytes that are no HTTP: {type(exc).__name__}")
        response = response_of(refusal, correlation_id)
        response.set_status(431 if large else 400)
        response.headers.update({HEADER: correlation_id, "Server": "llama-orch"})
        response.force_close()
        return response

    def log_exception(self, *args: object, **kw: object) -> None:
        """What aiohttp met: anybody who can reach the port may send bytes that fail, and not fill the log with that."""
        error = kw.get("exc_info")
        if isinstance(error, HttpProcessingError | web.RequestPayloadError):
            self.watch.tell("malformed", self.client or NOBODY, f"a body that is no HTTP: {type(error).__name__}")
        else:
            super().log_exception(*args, **kw)

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _body_open(self) -> bool:
        """Whether of the body of the request at hand something is still to come."""
        return self.body is not None and not self.body.is_eof()

    def _give_up_body(self) -> None:
        """Tell a handler that waits for its body where the rest of it cannot be parsed: it would wait until it is late.

        Behind a body that is not over no request can stand: what does is aiohttp's note that it met no HTTP.
        """
        if self._messages and self.body is not None and not self.body.is_eof() and self.body.exception() is None:
            self.body.set_exception(web.RequestPayloadError("the body is not what its head says"))

    def _look(self) -> None:
        """See whether the client goes on. A timer that were moved at every byte would cost more than it."""
        found = self.conduct.look(self.loop.time(), body_open=self._body_open)
        if isinstance(found, Fault):
            self._part(found)
        else:
            self.watching = self.loop.call_at(found, self._look)

    def _part(self, fault: Fault) -> None:
        """Say why, where something can be said, and close."""
        transport, self.over = self.transport, True
        if transport is None or transport.is_closing():
            return
        said = last_words.of_fault(fault, self.watch.limits)
        if said is None:
            transport.close()
            return
        self.watch.tell(fault, self.client or NOBODY, f"cut off: {fault}")
        transport.write(said)
        if transport.can_write_eof():
            transport.write_eof()
            self.loop.call_later(FAREWELL_S, transport.abort)
        else:
            transport.close()
