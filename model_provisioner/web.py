"""Asks servers for what they have, one answer at a time, with the policy asked before each step of the way.

Decides how redirects are followed (to servers only, never from outside to this machine), which headers go where (those
of the caller to the first server alone), and what a failed connection means. Never reads a body and never tries again:
whoever asks does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import aiohttp
import msgspec
from aiohttp.helpers import get_env_proxy_for_url
from yarl import URL

from daemon_core.outbound import is_this_machine, without_secrets
from daemon_core.version import version
from model_provisioner.errors import FetchError, Trouble
from model_provisioner.outbound_gate import OutboundGate

MAX_REDIRECTS = 10
TLS_HINT = (
    "a certificate of your own is added to what this machine trusts (update-ca-certificates), or named by "
    "SSL_CERT_FILE; see also that the clock is right"
)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: for a connection, and between two pieces of the answer."""

    connect_s: float = 30.0
    silence_s: float = 60.0


class TransientError(Exception):
    """Another attempt may bring it. The text is one line and holds no secret."""


class Web:
    """An open way out; ``web_of`` makes one."""

    def __init__(self, gate: OutboundGate, direct: aiohttp.ClientSession, proxied: aiohttp.ClientSession) -> None:
        self._gate = gate
        self._direct = direct
        self._proxied = proxied

    @asynccontextmanager
    async def get(
        self, url: str, *, headers: Mapping[str, str], first_only: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer of the last of the servers that each name the next one; the policy is asked of each.

        ``first_only`` is sent to the server of ``url`` and to no other. Raises TransientError, FetchError; so does
        reading the body, for what happens inside the ``async with``.
        """
        try:
            async with AsyncExitStack() as stack:
                yield await self._last(stack, parsed(url), headers, first_only)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _meaning(error, url) from error

    async def _last(
        self, stack: AsyncExitStack, place: URL, headers: Mapping[str, str], first_only: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        first = place
        for _ in range(MAX_REDIRECTS + 1):
            await self._gate.ask(str(place))
            asking = await asyncio.to_thread(self._asking, place)
            sent = {**headers, **(first_only if place.origin() == first.origin() else {})}
            async with AsyncExitStack() as hop:
                response = await hop.enter_async_context(asking(headers=sent, allow_redirects=False))
                if response.status not in _REDIRECTS:
                    stack.push_async_exit(hop.pop_all())
                    return response
                place = self._following(place, response.headers.get("Location"))
        raise FetchError(Trouble.ADDRESS, f"{without_secrets(str(first))} redirects more than {MAX_REDIRECTS} times")

    def _following(self, place: URL, location: str | None) -> URL:
        """Where a redirect leads. Raises FetchError."""
        shown = without_secrets(str(place))
        try:
            following = place.join(_spelled(location or "")).with_user(None)  # nobody tells us who we are
        except ValueError:
            following = None
        if not location or following is None or following.scheme not in {"http", "https"} or not following.host:
            raise FetchError(Trouble.ADDRESS, f"{shown} redirects to no address of a server")
        if is_this_machine(str(following)) and not is_this_machine(str(place)):
            hint = "use an address that does not lead back here"
            raise FetchError(Trouble.POLICY, f"{shown} redirects to this machine", hint=hint)
        if place.scheme == "https" and following.scheme == "http" and not self._gate.anywhere:
            raise FetchError(Trouble.ADDRESS, f"{shown} redirects to an address without TLS")
        return following

    def _asking(self, place: URL) -> Callable[..., AbstractAsyncContextManager[aiohttp.ClientResponse]]:
        """A proxy of the environment is connected to as it is configured; everything else goes through the gate.

        aiohttp would find the proxy itself, and ~/.netrc with it, whose logins are for other programs.
        """
        try:
            proxy, login = get_env_proxy_for_url(place)
        except LookupError:
            return partial(self._direct.get, place)
        return partial(self._proxied.get, place, proxy=proxy, proxy_auth=login)


@asynccontextmanager
async def web_of(gate: OutboundGate, patience: Patience) -> AsyncIterator[Web]:
    """A way out through this gate."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=patience.connect_s, sock_read=patience.silence_s)

    def session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"llama-orch/{version()}", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )

    async with (
        session(gate.connector()) as direct,
        session(aiohttp.TCPConnector(ssl=gate.tls or True)) as proxied,
    ):
        yield Web(gate, direct, proxied)


def parsed(url: str) -> URL:
    """A URL as it is written: a signature over one holds for one spelling only. Raises FetchError."""
    try:
        return _spelled(url)
    except ValueError as error:
        raise FetchError(Trouble.ADDRESS, f"{without_secrets(url)} is no address of a server") from error


def _spelled(text: str) -> URL:
    return URL(text, encoded=text.isascii() and " " not in text)


def _meaning(error: Exception, url: str) -> Exception:
    """What a failed connection means. The library's own text may hold the URL, so it stays out of ours."""
    match error:
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            reason = "it is no address of a server"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            text = f"{without_secrets(url)} cannot be fetched: the server cannot prove who it is (TLS)"
            return FetchError(Trouble.NETWORK, text, hint=TLS_HINT)
        case aiohttp.ClientHttpProxyError():
            reason = f"the proxy answers {error.status}"
        case aiohttp.ClientProxyConnectionError():
            return TransientError("the proxy of the environment cannot be reached")
        case aiohttp.ClientConnectorError():
            return TransientError(f"no connection to {error.host}:{error.port}: {error.strerror or 'refused'}")
        case TimeoutError():
            return TransientError("the server fell silent")
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return TransientError("the connection broke")
        case _:
            reason = f"the server does not speak HTTP ({type(error).__name__})"
    return FetchError(Trouble.NETWORK, f"{without_secrets(url)} cannot be fetched: {reason}")
