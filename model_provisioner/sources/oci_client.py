"""Speaks to one registry: asks for manifests, and becomes somebody where the registry wants to know who asks.

Decides nothing about models. The dance of tokens is that of oras-py; what that client leaves open is done below it, in
the session that it sends everything through: policy is asked before each request and each redirect, an answer has a
largest size and a longest time, plain http goes to where it is allowed only, cookies and ~/.netrc are not used, and
nothing is retried (oras would try a refusal five times, over minutes). Of oras are not used: its manifests, which come
without a limit and without a comparison with their digest; its downloads, which cannot be resumed; its names, which
take a folder with a dot for a host; and its login files, since it starts the programs that they name.
"""

from __future__ import annotations

import io
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests
from oras.auth import get_auth_backend
from oras.provider import Registry
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.exceptions import HTTPError

from daemon_core.version import version
from model_provisioner.sources import oci_auth, oci_manifest

MAX_REDIRECTS = 5
CONNECT_S = 20.0
SILENCE_S = 30.0
ANSWER_S = 60.0
"""The longest that one answer may take, however it trickles."""
CHUNK_BYTES = 1 << 16

Require = Callable[[str], Sequence[str]]

logging.getLogger("oras.logger").setLevel(logging.CRITICAL)  # it repeats what a registry says, on our standard error


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry said at last."""

    status: int
    body: bytes


class UnauthorizedError(Exception):
    """The registry wants to know who asks, and nothing that we could say was enough. The text says how that went."""


class TooLargeError(Exception):
    """An answer is larger than any that is wanted."""


class PlainError(Exception):
    """We were sent to a server without TLS. The text is its host."""


class SlowError(Exception):
    """An answer took too long."""


class Client:
    """One registry at ``host``, for one look at it. Blocks.

    ``require`` is asked before each request, with its URL, and answers with the addresses to connect to, or with none
    where that is not known; what it raises comes out of here. ``plain`` says of a host whether it is spoken to without
    TLS.
    """

    def __init__(
        self,
        host: str,
        *,
        require: Require,
        plain: Callable[[str], bool],
        login: oci_auth.Login | None,
    ) -> None:
        self._scheme = "http" if plain(host) else "https"
        self._host = host
        self._login = login if login is not None and login.problem is None else None
        self._door = _Door(require, plain)
        self._session = _Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, self._door)
        self._registry = Registry(hostname=host, insecure=self._scheme == "http")
        self._registry.session = self._session
        self._known = False

    @property
    def origin(self) -> str:
        """Scheme and host."""
        return f"{self._scheme}://{self._host}"

    def url(self, repository: str, kind: str, reference: str) -> str:
        """The address of a manifest or a blob."""
        return f"{self.origin}/v2/{repository}/{kind}/{reference}"

    def manifest(self, repository: str, reference: str) -> Answer:
        """Ask for a manifest by tag or digest.

        Raises UnauthorizedError, TooLargeError, PlainError, SlowError, ``requests.RequestException``, and what
        ``require`` raises.
        """
        url = self.url(repository, "manifests", reference)
        headers = {"Accept": oci_manifest.ACCEPT}
        if not self._known:
            response = self._session.get(url, headers=headers)
            if response.status_code != requests.codes.unauthorized:
                return Answer(status=response.status_code, body=response.content)
            self._introduce(response.headers.get("WWW-Authenticate"))
        try:
            # Without the decorator that would try again.
            response = Registry.do_request.__wrapped__(self._registry, url, "GET", headers=headers)
        except (ValueError, AttributeError, TypeError) as error:
            if isinstance(error, requests.RequestException):
                raise
            # No token came: what was answered last came from where tokens are had.
            raise UnauthorizedError(f"{self._door.last_host} answers {self._door.last_status}") from error
        if response.status_code == requests.codes.unauthorized:
            raise UnauthorizedError(f"{self._door.last_host} answers {self._door.last_status}")
        return Answer(status=response.status_code, body=response.content)

    def authorization(self) -> tuple[tuple[str, str], ...]:
        """The headers that the blobs of the last repository are to be asked for with. Secret."""
        headers: Mapping[str, str] = self._registry.auth.get_auth_header() if self._known else {}
        return tuple(headers.items())

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def _introduce(self, header: str | None) -> None:
        """Prepare for what the registry asks for."""
        challenge = oci_auth.challenge_of(header)
        if challenge is None:
            raise UnauthorizedError("it asks for neither a token nor a password")
        if challenge.scheme == "basic" and self._login is None:
            raise UnauthorizedError("it asks for a user name and a password")
        kind = "basic" if challenge.scheme == "basic" else "token"
        self._registry.auth = get_auth_backend(kind, self._session, insecure=self._scheme == "http")
        if self._login is not None:
            self._registry.auth.set_basic_auth(self._login.user, self._login.password)
        self._known = True


class _Session(requests.Session):
    """A session that knows nobody but whom it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _as_it_is  # else ~/.netrc would be looked at
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.max_redirects = MAX_REDIRECTS
        self.headers.update({"User-Agent": f"llama-orch/{version()}", "Accept-Encoding": "identity"})

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """What we say of ourselves goes to the host that asked for it, and to none that it redirects to."""
        before, after = str(response.request.url), str(prepared_request.url)
        if urlsplit(before)[:2] != urlsplit(after)[:2]:
            prepared_request.headers.pop("Authorization", None)


class _Door(HTTPAdapter):
    """Where each request and each redirect leaves through, and each answer comes in.

    It connects to the addresses that were judged, so that a name that means something else a moment later gains
    nothing. Behind a proxy of the environment it is the proxy that resolves names.
    """

    def __init__(self, require: Require, plain: Callable[[str], bool]) -> None:
        super().__init__()
        self._require = require
        self._plain = plain
        self._address = ""
        self.last_host = ""
        self.last_status = 0

    def init_poolmanager(self, *sizes: Any, **given: Any) -> None:  # noqa: ANN401 - as requests has it
        """Trust whom this machine trusts, as the transfer does; requests by itself has a list of its own."""
        super().init_poolmanager(*sizes, **given, ssl_context=ssl.create_default_context())

    def proxy_manager_for(self, proxy: str, **given: Any) -> Any:  # noqa: ANN401 - as requests has it
        """The same behind a proxy."""
        return super().proxy_manager_for(proxy, **given, ssl_context=ssl.create_default_context())

    def send(self, request: requests.PreparedRequest, *_: Any, **given: Any) -> requests.Response:  # noqa: ANN401
        """Ask, send, and read the whole of a small answer."""
        url = str(request.url)
        parts = urlsplit(url)
        if parts.scheme != "https" and not self._plain(parts.netloc):
            raise PlainError(parts.hostname or "")
        addresses = self._require(url)
        if not addresses or select_proxy(url, given.get("proxies")):
            addresses = ("",)
        request.headers["Host"] = parts.netloc.rpartition("@")[2]
        response = self._sent(request, addresses, given | {"stream": True, "timeout": (CONNECT_S, SILENCE_S)})
        self.last_host, self.last_status = parts.hostname or "", response.status_code
        try:
            body = _bounded(response)
        except HTTPError as error:
            raise requests.ConnectionError(request=request) from error
        finally:
            response.close()
        response.raw = io.BytesIO(body)
        return response

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,  # noqa: FBT001 - as requests has it
        cert: str | tuple[str, str] | None = None,
    ) -> tuple[Any, Any]:
        """To whom a connection is made, and to whom it must belong."""
        place, how = super().build_connection_pool_key_attributes(request, verify, cert)
        if not self._address:
            return place, how
        name = place["host"]
        proof = {"server_hostname": name} if place["scheme"] == "https" else {}
        return {**place, "host": self._address}, {**how, **proof}

    def _sent(
        self, request: requests.PreparedRequest, addresses: Sequence[str], given: dict[str, Any]
    ) -> requests.Response:
        """The answer from the first address that has one. Only GET is ever sent."""
        for address in addresses[:-1]:
            self._address = address
            try:
                return super().send(request, **given)
            except requests.exceptions.SSLError:
                raise
            except requests.ConnectionError:
                continue
        self._address = addresses[-1]
        return super().send(request, **given)


def _bounded(response: requests.Response) -> bytes:
    until = time.monotonic() + ANSWER_S
    body = bytearray()
    while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
        body += chunk
        if len(body) > oci_manifest.MAX_BYTES:
            raise TooLargeError
        if time.monotonic() > until:
            raise SlowError
    return bytes(body)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
