"""Decides whether an address may be reached from this machine, by ``policy.outbound``.

A pattern is a glob over host names (``*.example.org``), an IP address, or a scheme with its colon (``hf:``); a denying
pattern beats an allowing one, and without any the default holds. Loopback addresses and files are this machine: only a
denying pattern keeps from them. An address that two programs could read as two hosts is refused, so that the host that
is judged is the one that is spoken to. What a name came to is judged by ``address_ruling``: where that is no address of
the internet, an allowing pattern has to name the host or the address in full. Never connects to anything.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit, urlunsplit

from contracts.base import Message
from contracts.config import Outbound, Verdict, is_loopback


class Ruling(Message, frozen=True, kw_only=True):
    """Whether an address may be reached, and the rule that says so. Shows nothing of the address but its host."""

    allowed: bool
    host: str
    rule: str

    @property
    def mend(self) -> str:
        """What would let a refused address be reached."""
        if not self.host:
            return "write it as scheme://host/path"
        if self.rule.startswith("policy.outbound.deny"):
            return f"take {self.rule.rpartition(' ')[2]!r} out of policy.outbound.deny"
        return f"add {self.host!r} to policy.outbound.allow"


def ruling_on(url: str, outbound: Outbound, via: str = "") -> Ruling:
    """The ruling on a URL; one that names no host is judged by its scheme alone.

    ``user@host:path``, as git writes ssh addresses, is judged by its host and the scheme ``ssh:``. ``via`` is the
    scheme of the reference that led to the URL, ``hf`` for one: a pattern ``hf:`` then holds as for the URL's own.
    """
    try:
        scheme, host = _place(url)
    except ValueError as error:
        return Ruling(allowed=False, host="", rule=f"it is no valid address: {error}")
    for rules, allowed, name in ((outbound.deny, False, "deny"), (outbound.allow, True, "allow")):
        for pattern in rules:
            if _matches(pattern, scheme, host) or (via and pattern.lower() == f"{via}:"):
                return Ruling(allowed=allowed, host=host, rule=f"policy.outbound.{name}: {pattern}")
    if _is_here(scheme, host):
        return Ruling(allowed=True, host=host, rule="it is this machine")
    allowed = outbound.default is Verdict.ALLOW
    return Ruling(allowed=allowed, host=host, rule=f"policy.outbound.default: {outbound.default}")


def is_this_machine(url: str) -> bool:
    """Whether a URL leads no further than this machine: a file, or a loopback address."""
    try:
        return _is_here(*_place(url))
    except ValueError:
        return False


def address_ruling(host: str, address: str, outbound: Outbound) -> Ruling:
    """The ruling on an IP address that a remote host, which may be reached by its name, came to.

    One that is not of the internet (this machine, a private network, a metadata service) is refused unless
    ``policy.outbound.allow`` names the host or the address, without a wildcard.
    """
    try:
        spelled = _address(address)
    except ValueError:
        return Ruling(allowed=False, host=host, rule="it came to something that is no IP address")
    for pattern in outbound.deny:
        if _matches(pattern, "", spelled):
            return Ruling(allowed=False, host=host, rule=f"policy.outbound.deny: {pattern}")
    kind = private_kind(spelled)
    if kind is None:
        return Ruling(allowed=True, host=host, rule="it is an address of the internet")
    for pattern in outbound.allow:
        if _spelled(pattern.lower()) in {host, spelled}:
            return Ruling(allowed=True, host=host, rule=f"policy.outbound.allow: {pattern}")
    what = "it" if host == spelled else f"its address {spelled}"
    return Ruling(allowed=False, host=host, rule=f"{what} is {kind}, and policy.outbound.allow does not name it")


def private_kind(address: str) -> str | None:
    """What keeps an IP address from being one of the internet, in words; None where nothing does."""
    found = _innermost(ip_address(address.partition("%")[0]))
    kinds = (
        (found.is_unspecified or found.is_loopback, "this machine"),
        (found.is_link_local, "link-local"),
        (found.is_multicast, "multicast"),
        (isinstance(found, IPv4Address) and found in _SHARED, "shared by a carrier's NAT"),
        (found.is_private, "private"),
        (isinstance(found, IPv6Address) and found in _LOCAL_NAT64, "private"),
        (found.is_reserved or not found.is_global or getattr(found, "is_site_local", False), "not of the internet"),
    )
    return next((kind for holds, kind in kinds if holds), None)


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user name, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no valid url)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


_SHARED = IPv4Network("100.64.0.0/10")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")


def _innermost(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, where it does; a gateway would lead there."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_here(scheme: str, host: str) -> bool:
    if not host:
        return scheme in _LOCAL
    # Whoever connects to an unspecified address reaches this machine.
    return is_loopback(host) or host.endswith(".localhost") or host in {"0.0.0.0", "::"}  # noqa: S104 - none is bound


_LOCAL = frozenset({"", "file"})
"""The schemes of what is on this machine's disk; a path has none."""

_UNSEEN = re.compile(r"[\x00-\x1f\x7f]|^\s|\s$")
_SSH = re.compile(r"(?:(?P<user>[^/@:]+)@)?(?P<host>\[[^\[\]]*\]|[^/@:\[\]]+):(?!//)")
_AUTHORITY = re.compile(r"(?:[^@\\\[\]]*@)?(?P<host>\[[^\[\]@]*\]|[^\[\]@:]*)(?::(?P<port>[0-9]{0,5}))?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")


def _place(url: str) -> tuple[str, str]:
    """Scheme and host of an address. Raises ValueError, whose text holds nothing of the address."""
    if _UNSEEN.search(url):
        raise ValueError("there is a control character in it, or a space around it")
    if url.startswith("/") and not url.startswith("//"):
        return "", ""
    ssh = _SSH.match(url)
    if ssh and (ssh["user"] or "." in ssh["host"]):
        return "ssh", _host(ssh["host"])
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError("its host cannot be read") from error
    if not parts.scheme:
        raise ValueError("it names no scheme")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if authority is None or int(authority["port"] or 0) > 65_535:
        raise ValueError("what stands between its scheme and its path is no host")
    if authority["host"]:
        return parts.scheme, _host(authority["host"])
    if parts.scheme in {"http", "https"} or parts.netloc or (parts.scheme != "file" and "://" in url):
        raise ValueError("it names no host")
    return parts.scheme, ""


def _host(text: str) -> str:
    """A host in the one spelling that patterns are compared with. Raises ValueError."""
    name = text.lower()
    if name.startswith("["):
        return _address(name[1:-1])
    name = name.removesuffix(".")
    if not _NAME.fullmatch(name):
        raise ValueError("its host is no name of letters, digits, '-' and '.' (other letters: write it as xn--...)")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return _address(name)  # short, octal and hexadecimal forms of an address are another spelling of it
    return name


def _address(text: str) -> str:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError as error:
        raise ValueError("its host is no IP address in its usual form") from error
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _matches(pattern: str, scheme: str, host: str) -> bool:
    pattern = pattern.lower()
    if _SCHEME.fullmatch(pattern):
        return pattern == f"{scheme}:"
    return bool(host) and fnmatchcase(host, _spelled(pattern))


def _spelled(pattern: str) -> str:
    """A pattern in the spelling of hosts; one that cannot be written so is left as it is."""
    bare = pattern[1:-1] if pattern.startswith("[") and ":" in pattern else pattern.removesuffix(".")
    try:
        return _address(bare)
    except ValueError:
        pass
    try:
        return bare.encode("idna").decode("ascii")
    except UnicodeError:
        return bare
