"""A chain of receipts: whatever is done to it is found, and by its number."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.artifacts import canonical
from contracts.receipts import Link
from daemon_core.chain import Chain, Copy, Fault, Verdict, line_of, read_line, verify

pytestmark = pytest.mark.req("HP-21", "OP-03")

LONG = 9


def sealed(number: int, previous: str | None, **more: Any) -> Copy:  # noqa: ANN401 - whatever a receipt says
    content = canonical({"number": number, "previous": previous, "task_id": f"task-{number}"} | more)
    return copy_of(content)


def copy_of(content: bytes) -> Copy:
    return Copy(id=f"sha256:{hashlib.sha256(content).hexdigest()}", receipt=msgspec.Raw(content))


def chain(length: int = LONG, first: int = 1) -> list[Copy]:
    """One that holds; one that begins later has lost its beginning to age."""
    made: list[Copy] = []
    previous = None if first == 1 else f"sha256:{'0' * 64}"
    for number in range(first, first + length):
        made.append(sealed(number, previous))
        previous = made[-1].id
    return made


def anchor(receipts: Sequence[Copy]) -> Link:
    return msgspec.json.decode(receipts[0].receipt, type=Link)


def broken(verdict: Verdict) -> list[tuple[int | None, Fault]]:
    return [(each.number, each.fault) for each in verdict.breaks]


def reread(lines: bytes) -> list[Copy | None]:
    return [read_line(line) for line in lines.split(b"\n")]


places = st.integers(0, LONG - 1)
firsts = st.sampled_from([1, 2, 8, 99])
"""The number of the first: at 8 and 99 the numbers get a digit more on the way."""


# --- one that holds ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 12), firsts, st.booleans())
def test_a_chain_that_nobody_touched_holds_from_wherever_it_begins(length: int, first: int, anchored: bool) -> None:
    receipts = chain(length, first)
    seen = verify(receipts, anchor(receipts) if anchored and receipts else None)
    assert seen.breaks == ()
    assert (seen.holds, seen.first, seen.last) == (length, *((first, first + length - 1) if length else (None, None)))
    assert seen.last_id == (receipts[-1].id if length else None)


@given(firsts)
def test_what_was_written_as_lines_is_read_back(first: int) -> None:
    receipts = chain(first=first)
    assert reread(b"\n".join(map(line_of, receipts))) == receipts


def test_the_id_of_a_line_is_the_sha256_of_what_stands_behind_receipt() -> None:
    [one] = chain(1)
    content = b'{"number":1,"previous":null,"task_id":"task-1"}'
    assert line_of(one) == b'{"id":"sha256:%b","receipt":%b}' % (hashlib.sha256(content).hexdigest().encode(), content)


# --- one that somebody changed ----------------------------------------------------------------------------------------


@given(st.data(), firsts)
def test_every_bit_of_a_receipt_counts(data: st.DataObject, first: int) -> None:
    receipts = chain(first=first)
    place = data.draw(places)
    content = bytearray(receipts[place].receipt)
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    changed = msgspec.structs.replace(receipts[place], receipt=msgspec.Raw(bytes(content)))
    seen = verify([*receipts[:place], changed, *receipts[place + 1 :]], anchor(receipts))
    assert {number for number, _ in broken(seen)} == {first + place}
    assert seen.holds == LONG - 1


@given(st.data(), firsts)
def test_every_bit_of_a_file_counts(data: st.DataObject, first: int) -> None:
    receipts = chain(first=first)
    whole = bytearray(b"\n".join(map(line_of, receipts)))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    number = first + bytes(whole[: bit // 8]).count(b"\n")
    whole[bit // 8] ^= 1 << bit % 8
    found = {place for place, _ in broken(verify(reread(bytes(whole)), anchor(receipts)))}
    assert number in found
    assert found <= {number, number + 1}, "a line break more or less concerns two, and nothing else more than one"


@given(places, firsts)
def test_a_changed_id_is_found_at_its_receipt_alone(place: int, first: int) -> None:
    receipts = chain(first=first)
    receipts[place] = msgspec.structs.replace(receipts[place], id=f"sha256:{'f' * 64}")
    assert broken(verify(receipts, anchor(receipts))) == [(first + place, Fault.CONTENT)]


@given(st.integers(0, LONG - 2), firsts)
def test_a_receipt_that_was_sealed_anew_is_given_away_by_the_next(place: int, first: int) -> None:
    receipts = chain(first=first)
    before = msgspec.json.decode(receipts[place].receipt, type=Link)
    receipts[place] = sealed(before.number, before.previous, seed=1)
    [one] = verify(receipts, anchor(receipts)).breaks
    assert (one.number, one.fault) == (first + place + 1, Fault.PREVIOUS)
    assert receipts[place].id in one.message


@given(st.integers(0, LONG - 2), firsts)
def test_one_that_is_missing_is_named(place: int, first: int) -> None:
    receipts = chain(first=first)
    seen = verify([*receipts[:place], *receipts[place + 1 :]], anchor(receipts))
    assert broken(seen) == [(first + place, Fault.MISSING)]


@given(st.data(), firsts)
def test_several_that_are_missing_are_one_break(data: st.DataObject, first: int) -> None:
    receipts = chain(first=first)
    start = data.draw(st.integers(0, LONG - 3))
    end = data.draw(st.integers(start + 2, LONG - 1))
    [one] = verify([*receipts[:start], *receipts[end:]], anchor(receipts)).breaks
    assert f"the numbers {first + start} to {first + end - 1} are missing" in one.message


@given(st.data(), firsts)
def test_two_that_changed_places_are_found_at_the_first_of_them(data: st.DataObject, first: int) -> None:
    receipts = chain(first=first)
    one, other = sorted(data.draw(st.lists(places, min_size=2, max_size=2, unique=True)))
    receipts[one], receipts[other] = receipts[other], receipts[one]
    found = broken(verify(receipts, anchor(chain(first=first))))
    assert found[0] == (first + one, Fault.MISSING)
    assert all(first + one <= (number or 0) <= first + other for number, _ in found)


@given(st.data(), firsts)
def test_one_that_stands_there_twice_is_found_where_it_does_not_belong(data: st.DataObject, first: int) -> None:
    receipts = chain(first=first)
    which, where = data.draw(places), data.draw(st.integers(0, LONG))
    seen = verify([*receipts[:where], receipts[which], *receipts[where:]], anchor(receipts))
    due = first + where
    late, early = (first + which, Fault.MISPLACED), (due, Fault.MISSING)
    assert broken(seen) == [late if which <= where else early]


@given(places, firsts, st.booleans())
def test_a_receipt_that_was_put_in_is_found_by_its_number(place: int, first: int, well_made: bool) -> None:
    receipts = chain(first=first)
    before = msgspec.json.decode(receipts[place].receipt, type=Link)
    forged = sealed(before.number, before.previous if well_made else f"sha256:{'e' * 64}", seed=1)
    seen = verify([*receipts[:place], forged, *receipts[place:]], anchor(receipts))
    assert {number for number, _ in broken(seen)} == {first + place}


def test_what_is_no_receipt_is_said_to_be_none() -> None:
    receipts: list[Copy | None] = [*chain()]
    receipts[3] = None
    assert broken(verify(receipts, Link(number=1, previous=None))) == [(4, Fault.UNREADABLE)]


def test_json_that_is_written_otherwise_is_no_receipt_although_its_id_is_right() -> None:
    spaced = copy_of(b'{"number": 1, "previous": null}')
    assert broken(verify([spaced, sealed(2, spaced.id)])) == [(1, Fault.NOT_CANONICAL)]


@pytest.mark.parametrize("line", [b"", b"{}", b"[" * 100_000, b'{"id":"sha256:0","receipt":{}} ', b"\xff", b"null"])
def test_a_line_that_is_none_is_none(line: bytes) -> None:
    assert read_line(line) is None


# --- its ends ---------------------------------------------------------------------------------------------------------


def test_a_chain_that_begins_elsewhere_than_it_should_lacks_its_beginning() -> None:
    assert broken(verify(chain()[2:], Link(number=1, previous=None))) == [(1, Fault.MISSING)]
    other = chain(first=5)
    wrong = Link(number=5, previous=f"sha256:{'1' * 64}")
    assert broken(verify(other, wrong)) == [(5, Fault.PREVIOUS)]


@pytest.mark.parametrize(("number", "previous"), [(1, f"sha256:{'0' * 64}"), (2, None), (0, None)])
def test_only_the_very_first_names_none_before_it(number: int, previous: str | None) -> None:
    assert broken(verify([sealed(number, previous)])) == [(number, Fault.PREVIOUS)]


@given(st.integers(0, LONG - 1))
def test_the_newest_are_missing_where_somebody_says_how_many_there_are(left: int) -> None:
    seen = Chain(Link(number=1, previous=None))
    for each in chain()[:left]:
        seen.take(each)
    assert broken(seen.verdict(LONG)) == [(left + 1, Fault.MISSING)]
    assert seen.verdict(left).breaks == ()


@given(places, places)
def test_an_id_that_was_kept_elsewhere_is_looked_for(kept: int, end: int) -> None:
    receipts = chain()
    seen = verify(receipts[: end + 1], expected=receipts[kept].id)
    assert broken(seen) == ([] if kept <= end else [(None, Fault.UNKNOWN)])


def test_a_chain_made_anew_holds_and_lacks_what_was_kept_elsewhere() -> None:
    anew = [sealed(1, None, seed=2)]
    anew.append(sealed(2, anew[0].id))
    assert verify(anew).breaks == ()
    assert broken(verify(anew, expected=chain(2)[-1].id)) == [(None, Fault.UNKNOWN)]
