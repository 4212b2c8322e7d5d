"""Who a request is from, and whether it may come in.

Decides nothing: ``auth`` compares the token, ``failures`` says whose is looked at, ``web_pages`` who may come without.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from orchestratord.admission import Refusal
from orchestratord.auth import LOCALHOST, Authenticator, mark_of
from orchestratord.errors import ApiError, api_error
from orchestratord.failures import Blocked, Failures
from orchestratord.http.connection import Connection
from orchestratord.http.cors import Cors
from orchestratord.peers import NOBODY, client_of, origin_of
from orchestratord.web_pages import stranger

log = logging.getLogger(__name__)

CLIENT = web.RequestKey("client", str)
"""The address of the client, behind a trusted proxy as that tells it; of IPv6 the /64."""
PAGE_HINT = "send the token; or name the origin in server.cors_origins, and the host as localhost or 127.0.0.1"


class Door:
    """What every request but those of the open paths passes."""

    def __init__(self, authenticator: Authenticator, failures: Failures, cors: Cors) -> None:
        self._authenticator = authenticator
        self._failures = failures
        self._cors = cors

    def identify(self, request: web.Request) -> str:
        """The caller's identity. Raises ApiError where it has none, or may not have its token looked at."""
        headers = request.headers
        client = request[CLIENT] = self._client(request)
        authorization = headers.get("Authorization")
        if authorization is None:
            return self._without_token(request)
        now = asyncio.get_running_loop().time()
        blocked = self._failures.look(client, now)
        if blocked is not None and self._failures.guesses(client, now):
            raise ApiError(self._waits(blocked))
        found = self._authenticator.check(authorization, request.remote, None)  # the token is all that counts
        if not isinstance(found, Refusal):
            self._failures.succeeded(client, now)
            return found
        if self._failures.failed(client, mark_of(authorization), now):
            text = "%s has used up its wrong tokens: %d in a minute are looked at (auth.failures_per_minute)"
            log.warning(text, client, self._failures.per_minute, extra={"client": client})
        raise ApiError(found if blocked is None else self._waits(blocked))

    def _client(self, request: web.Request) -> str:
        connection = request.protocol
        if not self._authenticator.trust_proxy and isinstance(connection, Connection):
            return connection.client or NOBODY
        return client_of(
            origin_of(request.remote, _forwarded_for(request), trust_proxy=self._authenticator.trust_proxy)
        )

    def _without_token(self, request: web.Request) -> str:
        found = self._authenticator.check(None, request.remote, _forwarded_for(request))
        if isinstance(found, Refusal):
            raise ApiError(found)
        if found == LOCALHOST:
            headers = request.headers
            origin, host, site = (headers.get(name) for name in ("Origin", "Host", "Sec-Fetch-Site"))
            why = stranger(origin, host, site, self._cors.origins)
            if why is not None:
                raise api_error(
                    ErrorCode.POLICY_DENIED, f"{why}, and auth.optional is for this machine alone", PAGE_HINT
                )
        return found

    def _waits(self, blocked: Blocked) -> Refusal:
        return Refusal(
            code=ErrorCode.ADMISSION_REJECT,
            message=f"{self._failures.per_minute} wrong tokens of this client were looked at within a minute",
            hint="see that each of its programs has the right token; auth.failures_per_minute sets the bound",
            retry_after_ms=blocked.retry_ms,
            policy_label=PolicyLabel.AUTH_FAILURES,
        )


def _forwarded_for(request: web.Request) -> str | None:
    """All that proxies added. Some add a header of their own behind the client's instead of extending it."""
    forwarded = request.headers.getall("X-Forwarded-For", ())
    return ", ".join(forwarded) if forwarded else None
