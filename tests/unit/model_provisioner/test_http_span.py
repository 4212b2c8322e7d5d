"""Which bytes of a file an answer brings, whatever a server says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_provisioner.http_span import Refused, Span, StartOver, Whole, WrongSize, read_answer, validator_of

sizes = st.none() | st.integers(0, 1000)
numbers = st.integers(-1, 1100).map(str)
ranges = st.one_of(
    st.builds("bytes {}-{}/{}".format, numbers, numbers, numbers | st.just("*")),
    st.builds("bytes */{}".format, numbers),
    st.text(max_size=20),
)
headers = st.fixed_dictionaries(
    {}, optional={"Content-Range": ranges, "Content-Length": numbers | st.text(max_size=5), "ETag": st.just('"a"')}
)


@given(
    st.sampled_from([200, 206, 416, 404, 503]) | st.integers(100, 599),
    headers,
    st.integers(0, 1000),
    st.none() | st.just('"a"'),
    sizes,
)
def test_nothing_is_believed_that_cannot_be_checked(
    status: int, said: dict[str, str], have: int, named: str | None, size: int | None
) -> None:
    answer = read_answer(status, said, have=have, named=named, size=size)
    match answer:
        case Span(start=start, total=total):
            assert start in {0, have}
            assert (start == 0) == (status == 200)
            assert total is None or total >= start
            assert size is None or total == size
        case Whole():
            assert (status, size if size is not None else have) == (416, have)
            assert have > 0
            assert named is not None
        case WrongSize(total=total):
            assert total != size
        case Refused():
            assert status not in {200, 206, 416}
        case StartOver():
            assert status in {206, 416}


@pytest.mark.parametrize(
    ("status", "said", "have", "size", "answer"),
    [
        (200, {"Content-Length": "10"}, 4, None, Span(start=0, total=10)),
        (200, {}, 0, 10, Span(start=0, total=10)),
        (200, {}, 0, None, Span(start=0, total=None)),
        (200, {"Content-Length": "9"}, 0, 10, WrongSize(total=9)),
        (206, {"Content-Range": "bytes 4-9/10"}, 4, None, Span(start=4, total=10)),
        (206, {"Content-Range": "bytes 4-9/*"}, 4, None, Span(start=4, total=10)),
        (206, {"Content-Range": "bytes 4-9/10", "Content-Length": "6"}, 4, 10, Span(start=4, total=10)),
        (206, {"Content-Range": "bytes 4-9/10", "Content-Length": "7"}, 4, 10, StartOver()),
        (206, {"Content-Range": "bytes 4-9/10"}, 4, 11, WrongSize(total=10)),
        (206, {"Content-Range": "bytes 5-9/10"}, 4, 10, StartOver()),
        (206, {"Content-Range": "bytes 4-8/10"}, 4, 10, StartOver()),
        (206, {"Content-Range": "bytes 4-3/4"}, 4, None, StartOver()),
        (206, {}, 4, 10, StartOver()),
        (206, {"Content-Range": "bytes 0-9/10"}, 0, 10, StartOver()),
        (416, {"Content-Range": "bytes */4", "ETag": '"a"'}, 4, None, Whole()),
        (416, {"Content-Range": "bytes */4", "ETag": '"b"'}, 4, None, StartOver()),
        (416, {"Content-Range": "bytes */4", "ETag": '"a"'}, 4, 5, StartOver()),
        (416, {"Content-Range": "bytes */5", "ETag": '"a"'}, 4, None, StartOver()),
        (404, {}, 4, None, Refused(transient=False)),
        (429, {}, 4, None, Refused(transient=True)),
        (503, {}, 0, None, Refused(transient=True)),
        (304, {}, 0, None, Refused(transient=False)),
    ],
)
def test_what_an_answer_means(status: int, said: dict[str, str], have: int, size: int | None, answer: object) -> None:
    assert read_answer(status, said, have=have, named='"a"', size=size) == answer


def test_only_strong_names_are_used() -> None:
    assert validator_of({"ETag": '"a"', "Last-Modified": "x"}) == '"a"'
    assert validator_of({"ETag": 'W/"a"', "Last-Modified": "x"}) == "x"
    assert validator_of({"ETag": 'W/"a"'}) is None
    assert validator_of({}) is None
