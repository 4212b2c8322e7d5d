"""Who counts as one client, how many connections it may have, and how often the log speaks of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.labels import PolicyLabel
from orchestratord.peers import client_of, origin_of
from orchestratord.places import Places
from orchestratord.spells import Spells

pytestmark = pytest.mark.req("OP-02")


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("", ""),
        ("a.name", "a.name"),
    ],
)
def test_one_client(address: str, client: str) -> None:
    assert client_of(address) == client


@given(st.text())
def test_no_address_breaks_it(text: str) -> None:
    client_of(text)
    origin_of("127.0.0.1", text, trust_proxy=True)


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "origin"),
    [
        ("127.0.0.1", "192.0.2.7", True, "192.0.2.7"),
        ("127.0.0.1", "198.51.100.1, 192.0.2.7", True, "192.0.2.7"),
        ("127.0.0.1", "192.0.2.7", False, "127.0.0.1"),
        ("10.0.0.9", "192.0.2.7", True, "10.0.0.9"),
        ("127.0.0.1", "nonsense", True, "127.0.0.1"),
        ("127.0.0.1", None, True, "127.0.0.1"),
        (None, "192.0.2.7", True, ""),
    ],
)
def test_whose_address_counts(peer: str | None, forwarded: str | None, trusted: bool, origin: str) -> None:
    assert origin_of(peer, forwarded, trust_proxy=trusted) == origin


def test_one_client_cannot_take_every_place() -> None:
    places = Places(5, 3)
    assert [places.take("a") for _ in range(4)] == [None, None, None, PolicyLabel.MAX_CONNECTIONS_PER_CLIENT]
    assert [places.take("b") for _ in range(3)] == [None, None, PolicyLabel.MAX_CONNECTIONS]
    places.leave("a")
    assert places.take("b") is None
    assert (places.of("a"), places.of("b"), places.taken) == (2, 3, 5)


def test_a_trusted_proxy_has_no_bound_of_its_own() -> None:
    places = Places(5, 1)
    assert [places.take("proxy", unbounded=True) for _ in range(6)] == [None] * 5 + [PolicyLabel.MAX_CONNECTIONS]


@given(st.lists(st.sampled_from("abc")))
def test_places_that_are_given_back_leave_nothing(clients: list[str]) -> None:
    places = Places(1_000, 1_000)
    for client in clients:
        places.take(client)
    for client in clients:
        places.leave(client)
    assert (places.taken, places.of("a")) == (0, 0)


def test_a_spell_is_told_once_a_minute_with_how_much_was_passed_over() -> None:
    spells = Spells(again_s=60)
    assert [spells.tell("slow", "a", second) for second in (0, 1, 59)] == [0, None, None]
    assert spells.tell("slow", "b", 59) == 0
    assert spells.tell("other", "a", 59) == 0
    assert spells.tell("slow", "a", 60) == 2
    assert spells.tell("slow", "a", 61) is None


def test_spells_are_bounded() -> None:
    spells = Spells(most=10)
    for number in range(1_000):
        spells.tell("slow", str(number), 0)
        spells.tell("slow", str(number), 0)
    assert len(spells) == 10
