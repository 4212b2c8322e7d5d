"""Finds out whether an engine answers and works.

Decides what an answer means: refused, loading and ready are three things, and that a process has exited is a fourth
that its watcher tells. Never starts or stops an engine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from enum import StrEnum

import aiohttp
import msgspec

from contracts.base import Message
from contracts.engines import HttpProbe
from contracts.pools import Cause, Endpoint
from pool_managerd.errors import StepError

_EXCERPT_CHARS = 300
_MAX_BODY_BYTES = 1 << 16
_UNSERVED = frozenset({404, 405, 501})
"""An engine's answers on a route that it was not started for."""


class Health(StrEnum):
    """What one look at the health endpoint showed."""

    REFUSED = "refused"
    """Nobody listens yet."""
    SILENT = "silent"
    """Somebody listens and does not answer."""
    LOADING = "loading"
    """503: it is coming up, or it is in trouble."""
    OK = "ok"
    ODD = "odd"
    """Another status."""


class Look(Message, frozen=True, kw_only=True):
    """One look, with what was seen in words."""

    health: Health
    detail: str


class Timing(Message, frozen=True, kw_only=True):
    """How often is looked, in seconds."""

    first_s: float = 0.025
    growth: float = 1.5
    slowest_s: float = 0.5
    """The pause between two looks at a starting engine grows from ``first_s`` to this."""
    look_s: float = 2.0
    """How long one look may take."""
    watch_s: float = 2.0
    """The pause between two looks at a ready engine."""
    misses: int = 3
    """So many failing looks in a row and a ready engine counts as unhealthy."""


class Prober:
    """Looks at engines over one HTTP client."""

    def __init__(self, client: aiohttp.ClientSession, timing: Timing | None = None) -> None:
        self._client = client
        self._timing = timing or Timing()

    async def look(self, endpoint: Endpoint, probe: HttpProbe) -> Look:
        """Ask the health endpoint once."""
        limit = aiohttp.ClientTimeout(total=self._timing.look_s)
        try:
            async with self._request(endpoint, probe, limit) as response:
                detail = f"status {response.status} from {probe.path}"
                match response.status:
                    case 200:
                        return Look(health=Health.OK, detail=detail)
                    case 503:
                        return Look(health=Health.LOADING, detail=detail)
                    case _:
                        return Look(health=Health.ODD, detail=detail)
        except aiohttp.ClientConnectorError as error:
            return Look(health=Health.REFUSED, detail=(error.os_error.strerror or str(error)).lower())
        except TimeoutError:
            return Look(health=Health.SILENT, detail=f"no answer within {self._timing.look_s:g} s")
        except aiohttp.ClientError as error:
            return Look(health=Health.ODD, detail=f"{type(error).__name__}: {error}")

    async def await_health(self, endpoint: Endpoint, probe: HttpProbe, deadline: float) -> None:
        """Look until it is healthy; ``deadline`` in ``loop.time()``. Raises StepError when the time is over."""
        timing = self._timing
        pause = timing.first_s
        look = Look(health=Health.REFUSED, detail="not looked at yet")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while (look := await self.look(endpoint, probe)).health is not Health.OK:
                    await asyncio.sleep(pause)
                    pause = min(pause * timing.growth, timing.slowest_s)
                return
        hint = "a large model can take longer: raise timeouts.start_ms, and look into the engine's log"
        raise StepError(Cause.START_TIMEOUT, f"the engine is not healthy after its start: {look.detail}", hint)

    async def prove_generation(self, endpoint: Endpoint, probe: HttpProbe, deadline: float) -> None:
        """Generate one token, or what else the engine is there for.

        Raises StepError where that does not work, or not in time.
        """
        unserved = []
        try:
            async with asyncio.timeout_at(deadline):
                status, body = await self._answer(endpoint, probe)
                while status in _UNSERVED and probe.instead is not None:
                    unserved.append(_said(status, body))
                    probe = probe.instead
                    status, body = await self._answer(endpoint, probe)
        except TimeoutError:
            hint = "raise timeouts.start_ms, and look into the engine's log"
            raise StepError(Cause.START_TIMEOUT, "the engine is healthy but generates nothing in time", hint) from None
        except aiohttp.ClientError as error:
            message = f"the engine is healthy but a generation fails: {type(error).__name__}: {error}"
            raise StepError(Cause.ENGINE_UNHEALTHY, message, "look into the engine's log") from error
        if status != 200 or _is_error(body):
            raise StepError(Cause.ENGINE_UNHEALTHY, *_refusal(status, body, unserved))

    async def watch(self, endpoint: Endpoint, probe: HttpProbe) -> None:
        """Look at a ready engine for as long as it is healthy. Raises StepError when it is not any more."""
        missed = 0
        while True:
            await asyncio.sleep(self._timing.watch_s)
            look = await self.look(endpoint, probe)
            missed = 0 if look.health is Health.OK else missed + 1
            if missed >= self._timing.misses:
                message = f"the engine was ready and is not healthy any more: {look.detail}, {missed} times in a row"
                raise StepError(Cause.ENGINE_UNHEALTHY, message, "look into the engine's log")

    async def _answer(self, endpoint: Endpoint, probe: HttpProbe) -> tuple[int, bytes]:
        async with self._request(endpoint, probe, aiohttp.ClientTimeout(total=None)) as response:
            return response.status, await _beginning(response.content)

    def _request(
        self, endpoint: Endpoint, probe: HttpProbe, limit: aiohttp.ClientTimeout
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
        url = endpoint.url + probe.path
        if probe.body is None:
            return self._client.get(url, headers=headers, timeout=limit, allow_redirects=False)
        headers["Content-Type"] = "application/json"
        body = probe.body.encode()
        return self._client.post(url, headers=headers, data=body, timeout=limit, allow_redirects=False)


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            break
    return bytes(body)


def _is_error(body: bytes) -> bool:
    """Whether a 200 carries an error after all: some engines answer so."""
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return False
    return isinstance(document, dict) and document.get("error") is not None


def _said(status: int, body: bytes) -> str:
    excerpt = body[: 4 * _EXCERPT_CHARS].decode(errors="replace")[:_EXCERPT_CHARS]
    return f"status {status}: {excerpt}"


def _refusal(status: int, body: bytes, before: Sequence[str]) -> tuple[str, str]:
    """``before``: what it said to the requests that it does not serve. A wrong name is told by the first alone."""
    said = "; ".join(dict.fromkeys((*before, _said(status, body))))
    message = f"the engine is healthy but a generation fails: {said}"
    if status in {401, 403}:
        return message, "it does not know this start's key: does another server answer on its port?"
    return message, "look into the engine's log"
