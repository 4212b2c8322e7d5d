"""What every request passes: correlation id, authentication, and one shape for every error.

Decides nothing about a request's content.
"""

from __future__ import annotations

import logging

import msgspec
from aiohttp import web
from aiohttp.hdrs import CONTENT_ENCODING, EXPECT
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from contracts.errors import ErrorCode
from daemon_core.redaction import Redactor
from orchestratord.admission import Refusal
from orchestratord.errors import ApiError, api_error
from orchestratord.http.connection import Connection
from orchestratord.http.correlation import HEADER, correlation_id_of, new_correlation_id
from orchestratord.http.cors import Cors
from orchestratord.http.door import Door
from orchestratord.http.errors import from_framework, response_of, unreadable_body
from orchestratord.http.expecting import expect
from orchestratord.http.queries import refuse_unknown

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz"})
CORRELATION_ID = web.RequestKey("correlation_id", str)
IDENTITY = web.RequestKey("identity", str)
_SHOWN = 40
"""So many characters of what a client has sent help it to find what is meant."""


async def stamp(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Put the correlation id on every response, streams included."""
    if isinstance(request.protocol, Connection):
        request.protocol.begun()
    response.headers[HEADER] = request.get(CORRELATION_ID) or new_correlation_id()
    response.headers["Server"] = "llama-orch"


def make_edge(door: Door, cors: Cors, redactor: Redactor) -> Middleware:
    """The middleware that every request passes. No refusal repeats a secret that the request holds."""

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.entered(request)
        correlation_id = request[CORRELATION_ID] = correlation_id_of(request.headers.get(HEADER), redactor)
        try:
            asked_before = cors.preflight(request)
            if asked_before is not None:
                return asked_before
            if request.path not in OPEN_PATHS:
                request[IDENTITY] = door.identify(request)
                if isinstance(connection, Connection):
                    connection.let_in()
                refuse_unknown(request)
                refuse_packed(request)
            if EXPECT in request.headers:
                await expect(request)
            return await handler(request)
        except ApiError as error:
            return response_of(without_secrets(error.refusal, redactor), correlation_id)
        except web.HTTPException as error:
            return from_framework(error, correlation_id, request.path)
        except (web.RequestPayloadError, HttpProcessingError):  # from the parser without C: the other one says nothing
            return response_of(unreadable_body(), correlation_id)
        except ConnectionResetError:
            raise  # the client has gone: there is nobody to answer
        except Exception:
            log.exception("%s %s failed", request.method, request.path, extra={"correlation_id": correlation_id})
            text = "internal error; the log has the details under this correlation id"
            return response_of(Refusal(code=ErrorCode.INTERNAL, message=text), correlation_id)

    return edge


def refuse_packed(request: web.Request) -> None:
    """Raises ApiError for a body that would have to be unpacked first: what it becomes has no bound before that."""
    if CONTENT_ENCODING not in request.headers:
        return
    coding = ", ".join(request.headers.getall(CONTENT_ENCODING))
    if coding.strip().lower() not in {"", "identity"}:
        text = f"the body is packed ({coding[:_SHOWN]!r}), and none is unpacked here"
        raise api_error(ErrorCode.INVALID_PARAMS, text, "send it as it is", field="Content-Encoding")


def without_secrets(refusal: Refusal, redactor: Redactor) -> Refusal:
    """A refusal that quotes what the client has sent, but for secrets."""
    # What helps is our own words: `Bearer <token>` in them is no token.
    told = {"message": redactor.text(refusal.message), "hint": refusal.hint and redactor.prose(refusal.hint)}
    told["field"] = refusal.field and redactor.text(refusal.field)
    return msgspec.structs.replace(refusal, **told)


def refuse_secrets(redactor: Redactor, **names: str | None) -> None:
    """Names go into addresses, logs and lists. Raises ApiError for one that holds a secret."""
    for field, name in names.items():
        if name is not None and redactor.text(name) != name:
            text = f"{field}: it holds a secret, and would stand in addresses and lists"
            raise api_error(ErrorCode.INVALID_PARAMS, text, "choose another one", field=field)


def json_response(value: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A struct as a JSON response."""
    body = msgspec.json.encode(value)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
