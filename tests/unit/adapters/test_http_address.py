"""Where a URL leads, and what is sent there."""

from __future__ import annotations

import pytest

from adapters.http_address import Address, address_of, request_bytes

pytestmark = pytest.mark.req("AD-02")


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "target"),
    [
        ("http://127.0.0.1:8000/completion", "127.0.0.1", 8000, "127.0.0.1:8000", "/completion"),
        ("http://127.0.0.1/a", "127.0.0.1", 80, "127.0.0.1", "/a"),
        ("https://engines.example.org/v1/x?y=z", "engines.example.org", 443, "engines.example.org", "/v1/x?y=z"),
        ("https://engines.example.org:443", "engines.example.org", 443, "engines.example.org", "/"),
        ("http://[::1]:81/a", "::1", 81, "[::1]:81", "/a"),
        ("http://LOCALHOST:80/a", "localhost", 80, "localhost", "/a"),
        ("http://h/v2/models/a b/ü%20/generate", "h", 80, "h", "/v2/models/a%20b/%C3%BC%20/generate"),
        ("http://bücher.example/a", "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/a"),
    ],
)
def test_where_a_url_leads(url: str, host: str, port: int, authority: str, target: str) -> None:
    found = address_of(url)
    assert (found.host, found.port, found.authority, found.target) == (host, port, authority, target)
    assert found.tls is url.startswith("https")
    assert found.numeric is (host[0] in "1:")


@pytest.mark.parametrize(
    "url", ["", "h:80/a", "ftp://h/a", "http://", "http://:80/a", "http://h:99999/a", "http://[::1"]
)
def test_a_url_that_leads_nowhere(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        address_of(url)


def sent(address: Address, *, api_key: str | None = None, request_id: str | None = None) -> list[bytes]:
    request = request_bytes(address, b"{}", agent="agent", api_key=api_key, request_id=request_id)
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == b"{}"
    return head.split(b"\r\n")


def test_a_request_says_what_it_must_and_nothing_else() -> None:
    plain = [
        b"POST /a HTTP/1.1",
        b"Host: h:81",
        b"Accept: */*",
        b"Accept-Encoding: identity",
        b"User-Agent: agent",
        b"Content-Type: application/json",
        b"Content-Length: 2",
    ]
    address = address_of("http://h:81/a")
    assert sent(address) == [*plain, b"Connection: close"]
    assert sent(address, api_key="k") == [*plain, b"Authorization: Bearer k", b"Connection: close"]
    assert sent(address, request_id="r-1") == [*plain, b"X-Request-Id: r-1", b"Connection: close"]


def test_a_name_and_a_password_in_the_url_are_basic_credentials() -> None:
    address = address_of("http://us%40er:pass@h/a")
    assert address.authority == "h"
    assert b"Authorization: Basic dXNAZXI6cGFzcw==" in sent(address)
    with pytest.raises(ValueError, match="key"):
        sent(address, api_key="k")


@pytest.mark.parametrize("bad", ["a\r\nX-Evil: 1", "a\nb", "a\x00", "a\x7f"])
def test_nothing_that_is_sent_can_add_a_header(bad: str) -> None:
    for more in ({"api_key": bad}, {"request_id": bad}):
        with pytest.raises(ValueError, match="cannot be sent"):
            sent(address_of("http://h/a"), **more)
    with pytest.raises(ValueError, match="cannot be sent"):
        sent(address_of("http://h/a"), api_key=bad)
    assert b"\r" not in address_of("http://h/a\r\nX-Evil: 1").target.encode()
