"""Asks a server a question whose answer is small, as ``locate`` has to, by way of the gate.

Decides how much of an answer is read and when the question is put again. Never fetches a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import aiohttp
import msgspec
from multidict import CIMultiDictProxy
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_base, wait_random_exponential

from daemon_core.outbound import without_secrets
from model_provisioner.errors import FetchError, Trouble
from model_provisioner.http_span import TRANSIENT
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.web import Patience, TransientError, web_of

ATTEMPTS = 3
_NOTHING: Mapping[str, str] = MappingProxyType({})
_PAUSE = wait_random_exponential(multiplier=0.5, max=10)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server answered. ``headers`` takes a name in any spelling."""

    status: int
    reason: str
    headers: CIMultiDictProxy[str]
    body: bytes


class Asker:
    """Asks by way of a gate."""

    def __init__(self, gate: OutboundGate, *, patience: Patience | None = None, pause: wait_base = _PAUSE) -> None:
        self._gate = gate
        self._patience = patience or Patience()
        self._pause = pause

    async def ask(
        self, url: str, *, headers: Mapping[str, str] = _NOTHING, first_only: Mapping[str, str] = _NOTHING, limit: int
    ) -> Answer:
        """The answer, whatever its status, with ``limit`` bytes of its body at most.

        ``first_only`` are headers for the server of ``url`` and no other. A server that is busy or broken is asked
        again, and its last word is the answer. Raises FetchError, also for a longer body.
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=self._pause,
            retry=retry_if_exception_type((TransientError, _BusyError)),
            reraise=True,
        )
        try:
            return await retrying(self._ask, url, headers, first_only, limit)
        except _BusyError as error:
            return error.answer
        except TransientError as error:
            text = f"{without_secrets(url)} cannot be asked: {error} ({ATTEMPTS} attempts)"
            raise FetchError(Trouble.NETWORK, text, retriable=True) from error

    async def _ask(self, url: str, headers: Mapping[str, str], first_only: Mapping[str, str], limit: int) -> Answer:
        async with (
            web_of(self._gate, self._patience) as web,
            web.get(url, headers=headers, first_only=first_only) as response,
        ):
            body = b"" if limit == 0 else await _bounded(response, url, limit)
            answer = Answer(status=response.status, reason=response.reason or "", headers=response.headers, body=body)
        if answer.status in TRANSIENT:
            raise _BusyError(answer)
        return answer


class _BusyError(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def _bounded(response: aiohttp.ClientResponse, url: str, limit: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise FetchError(Trouble.SIZE, f"{without_secrets(url)} answers with more than {limit >> 20} MiB")
    return bytes(body)
