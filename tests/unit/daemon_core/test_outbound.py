"""The outbound policy: what beats what, and addresses that look like others."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from contracts.config import Outbound, Verdict
from daemon_core.outbound import Ruling, address_ruling, is_this_machine, private_kind, ruling_on

CLOSED = Outbound(default=Verdict.DENY)

labels = st.text(alphabet="abcxyz019-", min_size=1, max_size=6).filter(lambda text: text.strip("-") == text)
names = st.lists(labels, min_size=1, max_size=3).map(".".join).filter(lambda name: not name[-1].isdigit())
patterns = st.one_of(
    names, names.map(lambda name: f"*.{name}"), st.sampled_from(["*", "https:", "hf:", "[ab]*", "::1", "10.*"])
)
rules = st.lists(patterns, max_size=4).map(tuple)
outbounds = st.builds(Outbound, default=st.sampled_from(Verdict), allow=rules, deny=rules)
tricky = st.text(alphabet="ae.@:/\\?#[]%12x \t-", max_size=24)


def allowed(url: str, *, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> bool:
    """Whether a URL is allowed where the default is the opposite of what the patterns say."""
    default = Verdict.DENY if allow else Verdict.ALLOW
    return ruling_on(url, Outbound(default=default, allow=allow, deny=deny)).allowed


def host_of(url: str) -> str:
    return ruling_on(url, Outbound()).host


@pytest.mark.parametrize(
    ("outbound", "url", "ruling"),
    [
        (Outbound(), "https://a.org/x", (True, "a.org", "policy.outbound.default: allow")),
        (CLOSED, "https://a.org/x", (False, "a.org", "policy.outbound.default: deny")),
        (Outbound(deny=("*.org",)), "https://a.org", (False, "a.org", "policy.outbound.deny: *.org")),
        (
            Outbound(default=Verdict.DENY, allow=("a.org",)),
            "https://a.org:8443",
            (True, "a.org", "policy.outbound.allow: a.org"),
        ),
        (
            Outbound(allow=("a.org",), deny=("https:",)),
            "https://a.org",
            (False, "a.org", "policy.outbound.deny: https:"),
        ),
        (Outbound(deny=("hf:",)), "hf:org/repo@main", (False, "", "policy.outbound.deny: hf:")),
        (CLOSED, "hf:org/repo", (False, "", "policy.outbound.default: deny")),
        (Outbound(deny=("ssh:",)), "git@a.org:x/y.git", (False, "a.org", "policy.outbound.deny: ssh:")),
    ],
)
def test_a_ruling_names_the_host_and_the_rule(outbound: Outbound, url: str, ruling: tuple[bool, str, str]) -> None:
    assert ruling_on(url, outbound) == Ruling(allowed=ruling[0], host=ruling[1], rule=ruling[2])


@given(names, outbounds)
def test_deny_beats_allow_beats_the_default(name: str, outbound: Outbound) -> None:
    url = f"https://{name}/"
    denied = not ruling_on(url, Outbound(deny=outbound.deny)).allowed
    named = ruling_on(url, Outbound(default=Verdict.DENY, allow=outbound.allow)).allowed
    if denied:
        expected = False
    elif named or name == "localhost":
        expected = True
    else:
        expected = outbound.default is Verdict.ALLOW
    assert ruling_on(url, outbound).allowed is expected


@given(tricky.map(lambda text: f"http://{text}") | tricky | names, outbounds, patterns)
def test_one_more_denying_pattern_never_opens_and_one_more_allowing_never_closes(
    url: str, outbound: Outbound, pattern: str
) -> None:
    before = ruling_on(url, outbound).allowed
    stricter = Outbound(default=outbound.default, allow=outbound.allow, deny=(*outbound.deny, pattern))
    looser = Outbound(default=outbound.default, allow=(*outbound.allow, pattern), deny=outbound.deny)
    assert ruling_on(url, stricter).allowed <= before <= ruling_on(url, looser).allowed


@given(names, patterns)
def test_neither_case_nor_a_trailing_dot_changes_a_ruling(name: str, pattern: str) -> None:
    plain = allowed(f"https://{name}/", deny=(pattern,))
    assert allowed(f"HTTPS://{name.upper()}./", deny=(pattern,)) is plain
    if not pattern.endswith(":"):
        assert allowed(f"https://{name}/", deny=(f"{pattern.upper()}.",)) is plain or pattern.startswith("[")


@given(tricky.map(lambda text: f"http://{text}"))
@example("http://allowed.org@evil.org/")
@example("http://evil.org\\@allowed.org/")
@example("http://evil.org#@allowed.org/")
@example("http://evil.org?@allowed.org/")
@example("http://allowed.org:80@evil.org:80/")
@example("http://a@b@evil.org/")
@example("http://[::1]@evil.org/")
@example("http://ev\til.org/")
def test_the_host_that_is_judged_is_the_one_that_is_spoken_to(url: str) -> None:
    ruling = ruling_on(url, Outbound())
    if not ruling.allowed:
        assert ruling.rule.startswith("it is no valid address: ")
        return
    spoken_to = (URL(url).raw_host or "").removesuffix(".")
    try:
        address = ip_address(spoken_to.partition("%")[0])
    except ValueError:
        assert ruling.host == spoken_to
    else:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        assert ruling.host == str(mapped or address)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://allowed.org@evil.org/", "evil.org"),
        ("https://allowed.org:x@evil.org:443/", "evil.org"),
        ("https://evil.org/@allowed.org", "evil.org"),
        ("https://evil.org?@allowed.org/", "evil.org"),
        ("https://evil.org#@allowed.org/", "evil.org"),
        ("https://evil.org:443", "evil.org"),
        ("https://evil.org./", "evil.org"),
        ("git@evil.org:allowed.org/x", "evil.org"),
        ("evil.org:x/y.git", "evil.org"),
        ("ssh://git@evil.org/x", "evil.org"),
        ("file://evil.org/x", "evil.org"),
        ("https://[FD00:0:0::1]:443/", "fd00::1"),
        ("https://[fe80::1%25eth0]/", "fe80::1"),
        ("https://[::ffff:10.0.0.1]/", "10.0.0.1"),
        ("https://127.0.0.1./", "127.0.0.1"),
    ],
)
def test_the_host_of_an_address(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "",
        "evil.org",
        "evil.org/x",
        "//evil.org/x",
        "./x",
        "https:",
        "https:evil.org",
        "https:/evil.org",
        "https:///evil.org",
        "https://@/x",
        "https://:443/",
        "https://a@b@evil.org/",
        "https://evil.org\\@allowed.org/",
        "https://allowed.org\\.evil.org/",
        "https:\\\\evil.org",
        " https://evil.org",
        "https://evil.org\n",
        "https://ev\til.org/",
        "https://ev il.org/",
        "https://evil.org\x00.allowed.org/",
        "https://%65vil.org/",
        "https://ｅｖｉｌ.org/",  # noqa: RUF001 - the letters are the point
        "https://evil。org/",
        "https://evil..org/",
        "https://.evil.org/",
        "https://-oProxyCommand=x/",
        "ssh://-oProxyCommand=x/y",
        "git@-oProxyCommand.x:y",
        "https://evil.org:port/",
        "https://evil.org:99999/",
        "https://evil.org:80:80/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://1.2.3.4.5/",
        "https://[::1/",
        "https://::1]/",
        "https://[evil.org]/",
        "https://[::1].evil.org/",
        "https://x[::1]/",
    ],
)
def test_an_address_that_can_be_read_in_two_ways_is_refused_whatever_is_allowed(url: str) -> None:
    ruling = ruling_on(url, Outbound(allow=("*", "https:", "ssh:")))
    assert not ruling.allowed
    assert ruling.host == ""
    assert ruling.rule.startswith("it is no valid address: ")


@pytest.mark.parametrize(
    ("pattern", "url", "matches"),
    [
        ("example.org", "https://example.org", True),
        ("example.org", "https://www.example.org", False),
        ("*.example.org", "https://www.example.org", True),
        ("*.example.org", "https://example.org", False),
        ("*.example.org", "https://example.org.evil.org", False),
        ("Example.ORG.", "https://example.org", True),
        ("https:", "https://example.org", True),
        ("https:", "http://example.org", False),
        ("http", "http://example.org", False),
        ("bücher.example", "https://xn--bcher-kva.example", True),
        ("::1", "http://[0:0::1]:80", True),
        ("[::1]", "http://[::1]", True),
        ("FD00::1", "http://[fd00:0::1]", True),
        ("fd00::*", "http://[fd00::7]", True),
        ("fd00::", "http://[fd00::]", True),
        ("::ffff:10.0.0.1", "http://10.0.0.1", True),
        ("10.*", "http://10.1.2.3", True),
        ("10.*", "http://[::ffff:10.1.2.3]", True),
        ("10.0.0.1", "http://10.0.0.10", False),
        ("evil..org", "https://evil.org", False),
        ("*", "hf:org/repo", False),
    ],
)
def test_what_a_pattern_matches(pattern: str, url: str, matches: bool) -> None:
    assert allowed(url, deny=(pattern,)) is not matches
    assert allowed(url, allow=(pattern,)) is matches


@pytest.mark.parametrize(
    ("url", "pattern"),
    [
        ("http://127.0.0.1:8080/x", "127.*"),
        ("http://[::1]/x", "::1"),
        ("http://localhost./x", "localhost"),
        ("http://a.localhost/x", "*.localhost"),
        ("http://0.0.0.0/x", "0.0.0.0"),  # noqa: S104 - nothing is bound
        ("http://[::]/x", "::"),
        ("http://[::ffff:127.0.0.1]/x", "127.*"),
        ("file:///srv/x", "file:"),
        ("file://localhost/srv/my file", "localhost"),
    ],
)
def test_this_machine_is_closed_by_name_only(url: str, pattern: str) -> None:
    assert ruling_on(url, CLOSED).rule == "it is this machine"
    assert ruling_on(url, CLOSED).allowed
    assert is_this_machine(url)
    assert not allowed(url, deny=(pattern,))


def test_a_path_is_this_machine_and_nothing_else_is() -> None:
    assert ruling_on("/srv/git/llama.cpp", CLOSED).allowed
    for url in ("https://a.org", "https://localhost.org", "file://a.org/x", "hf:a/b", "https://128.0.0.1", "", "\n"):
        assert not is_this_machine(url)


@given(st.text() | tricky)
def test_no_text_makes_it_fail_or_shows_a_secret(url: str) -> None:
    ruling = ruling_on(f"https://sesame:{url}", Outbound())
    assert isinstance(ruling.allowed, bool)
    assert "sesame" not in ruling_on(f"https://sesame:sesame@a.org/{url}?sesame", Outbound()).rule


@pytest.mark.parametrize(
    ("url", "outbound", "mend"),
    [
        ("https://a.org/x", Outbound(default=Verdict.DENY), "add 'a.org' to policy.outbound.allow"),
        ("https://a.org/x", Outbound(deny=("*.org",)), "take '*.org' out of policy.outbound.deny"),
        ("nowhere", Outbound(), "write it as scheme://host/path"),
    ],
)
def test_a_refusal_says_what_would_lift_it(url: str, outbound: Outbound, mend: str) -> None:
    ruling = ruling_on(url, outbound)
    assert (ruling.allowed, ruling.mend) == (False, mend)


# --- addresses that a name came to ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "this machine"),
        ("127.255.255.254", "this machine"),
        ("0.0.0.0", "this machine"),  # noqa: S104 - nothing is bound
        ("::", "this machine"),
        ("::1", "this machine"),
        ("::ffff:127.0.0.1", "this machine"),
        ("10.0.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("fd12::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("64:ff9b::169.254.169.254", "link-local"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("100.64.0.1", "shared by a carrier's NAT"),
        ("224.0.0.251", "multicast"),
        ("ff02::fb", "multicast"),
        ("fec0::1", "not of the internet"),
        ("64:ff9b:1::1", "not of the internet"),
        ("8.8.8.8", None),
        ("172.32.0.1", None),
        ("2606:4700::1", None),
        ("64:ff9b::808:808", None),
    ],
)
def test_the_kind_of_an_address(address: str, kind: str | None) -> None:
    found = private_kind(address)
    assert (found is None) == (kind is None)
    assert kind in {found, "not of the internet"}


@pytest.mark.req("HP-23")
@pytest.mark.parametrize(
    ("allow", "deny", "address", "allowed"),
    [
        ((), (), "8.8.8.8", True),
        ((), (), "10.0.0.1", False),
        (("*", "https:", "10.*", "nas.*"), (), "10.0.0.1", False),
        (("nas.lan",), (), "10.0.0.1", True),
        (("NAS.lan.",), (), "10.0.0.1", True),
        (("10.0.0.1",), (), "::ffff:10.0.0.1", True),
        (("10.0.0.2",), (), "10.0.0.1", False),
        (("nas.lan",), ("10.*",), "10.0.0.1", False),
        ((), ("8.8.*",), "8.8.8.8", False),
        (("nas.lan",), (), "no address", False),
    ],
)
def test_a_private_address_has_to_be_named(
    allow: tuple[str, ...], deny: tuple[str, ...], address: str, allowed: bool
) -> None:
    ruling = address_ruling("nas.lan", address, Outbound(allow=allow, deny=deny))
    assert (ruling.allowed, ruling.host) == (allowed, "nas.lan")


@given(st.ip_addresses(), st.sampled_from([(), ("*",), ("https:", "hf:")]))
def test_an_address_that_is_not_global_is_never_reached_by_a_wildcard(
    address: IPv4Address | IPv6Address, allow: tuple[str, ...]
) -> None:
    if address_ruling("a.example", str(address), Outbound(allow=allow)).allowed:
        assert not address.is_private
        assert not address.is_multicast


def test_the_scheme_of_a_reference_counts_for_what_it_leads_to() -> None:
    url = "https://cdn.example/x"
    assert ruling_on(url, Outbound(default=Verdict.DENY, allow=("hf:",)), "hf").allowed
    assert not ruling_on(url, Outbound(default=Verdict.DENY, allow=("hf:",)), "s3").allowed
    assert not ruling_on(url, Outbound(deny=("HF:",)), "hf").allowed
    assert ruling_on(url, Outbound(deny=("hf:",))).allowed
