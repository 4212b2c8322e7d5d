"""Asks the policy before anything is connected to: by its name, by the addresses that the name came to, by the hook.

Decides nothing itself: ``daemon_core.outbound`` does. What is remote must be remote: an address of this machine or of a
private network is refused unless ``policy.outbound.allow`` names it, so that neither a reference nor a redirect reaches
a router, a metadata service or a neighbour. The addresses are judged where they are used: the resolver of ``connector``
hands out only what was judged, so a name that means something else a moment later gains nothing. Behind a proxy of the
environment it is the proxy that resolves and connects: the operator chose it, literal addresses and names of this
machine are refused all the same, and what any other name means there is the proxy's to know. Every ruling is logged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from contracts.config import Policy
from daemon_core.outbound import Ruling, address_ruling, is_this_machine, ruling_on
from daemon_core.policy_hook import objection
from model_provisioner.errors import FetchError, Trouble

_log = logging.getLogger(__name__)
_HOOK = "policy.hook"

Lookup = Callable[[str, int], tuple[str, ...]]
"""The addresses of a host name. Blocks. Raises OSError."""


def lookup(host: str, port: int) -> tuple[str, ...]:
    """What the system's resolver says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, kw_only=True)
class OutboundGate:
    """The way out. ``action`` is what the hook is told, ``via`` the scheme of the reference that led here.

    ``anywhere`` leaves out the judgement of addresses: for what the operator wrote down as a URL of its own. ``tls``
    is what servers have to prove themselves to; None means the system's authorities.
    """

    policy: Policy = field(default_factory=Policy)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    action: str = "model"
    via: str = ""
    anywhere: bool = False
    lookup: Lookup = lookup
    tls: ssl.SSLContext | None = None

    def through(self, scheme: str) -> OutboundGate:
        """The same for what a reference of this scheme (``hf``) leads to."""
        return replace(self, via=scheme)

    def require(self, url: str) -> tuple[str, ...]:
        """See that a URL may be reached, with the name in it resolved and its addresses judged: those are the answer.

        For clients that connect by themselves and ask before each request and each redirect (botocore's
        ``before-send``, a requests ``Session.send``). Such a client resolves once more when it connects: one that must
        not be led astray in between connects to one of the addresses that this returns. Blocks. Raises FetchError.
        """
        host = self.require_name(url)
        if self.anywhere or _goes_by_proxy(url):
            return ()
        try:
            addresses = (str(ip_address(host)),) if _is_address(host) else self.lookup(host, 0)
        except OSError as error:
            text = f"the name {host} cannot be resolved: {error.strerror or error}"
            raise FetchError(Trouble.NETWORK, text, retriable=True) from error
        for address in addresses:
            self.require_address(host, address)
        return addresses

    async def ask(self, url: str) -> None:
        """See that a URL may be reached as far as its text tells: what it names is judged by ``connector``.

        Raises FetchError.
        """
        await asyncio.to_thread(self.require_name, url)

    def require_address(self, host: str, address: str) -> None:
        """See that an address that a host came to may be reached; what is refused is logged. Raises FetchError."""
        ruling = address_ruling(host, address, self.policy.outbound)
        if not ruling.allowed:
            self._log(ruling)
            raise refusal(ruling)

    def connector(self) -> aiohttp.TCPConnector:
        """Connections to what was judged and to nothing else."""
        resolver = None if self.anywhere else _JudgingResolver(self)
        return aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, ssl=self.tls or True)

    def require_name(self, url: str) -> str:
        """The host, which may be reached as far as can be told without resolving it. Blocks. Raises FetchError."""
        ruling = self._ruling(url)
        self._log(ruling)
        if not ruling.allowed:
            raise refusal(ruling)
        return ruling.host

    def _ruling(self, url: str) -> Ruling:
        outbound = self.policy.outbound
        ruling = ruling_on(url, outbound, self.via)
        if not ruling.allowed:
            return ruling
        host = ruling.host
        if not self.anywhere:
            if _is_address(host):
                judged = address_ruling(host, host, outbound)
                if not judged.allowed:
                    return judged
            elif is_this_machine(url) and host not in {name.lower() for name in outbound.allow}:
                rule = "it is this machine, and policy.outbound.allow does not name it"
                return Ruling(allowed=False, host=host, rule=rule)
        if self.policy.hook is not None:
            reason = objection(self.policy.hook, self.action, url, host, self.environ)
            if reason is not None:
                return Ruling(allowed=False, host=host, rule=f"{_HOOK} {self.policy.hook}: {reason}")
        return ruling

    def _log(self, ruling: Ruling) -> None:
        verdict = "allowed" if ruling.allowed else "denied"
        extra = {"host": ruling.host, "verdict": verdict}
        _log.info("outbound to %s: %s by %s", ruling.host, verdict, ruling.rule, extra=extra)


def refusal(ruling: Ruling) -> FetchError:
    """The error for an address that may not be reached."""
    if ruling.rule.startswith(_HOOK):
        return FetchError(Trouble.POLICY, _refused(ruling), hint="see what that program decides, and why")
    return FetchError(Trouble.POLICY, _refused(ruling), hint=f"{ruling.mend}, or get it from somewhere that is allowed")


def _refused(ruling: Ruling) -> str:
    return f"{ruling.host or 'this address'} may not be reached: {ruling.rule}"


def _goes_by_proxy(url: str) -> bool:
    """Whether a client that goes by the environment connects to a proxy."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.netloc)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class _JudgingResolver(AbstractResolver):
    """Resolves names, and hands out addresses that may be reached: all of a name's, or none."""

    def __init__(self, gate: OutboundGate) -> None:
        self._gate = gate

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises FetchError, OSError."""
        addresses = await asyncio.to_thread(self._gate.lookup, host, port)
        judged = host.lower().removesuffix(".")
        for address in addresses:
            self._gate.require_address(judged, address)
        kinds = ((address, socket.AF_INET6 if ":" in address else socket.AF_INET) for address in addresses)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for address, kind in kinds
            if family in {socket.AF_UNSPEC, kind}
        ]

    async def close(self) -> None:
        """Nothing is held."""
