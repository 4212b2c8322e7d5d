"""Which models go: properties of the decision, and how a refusal reads."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_provisioner.eviction import (
    LEFTOVER_KEPT_MS,
    Cached,
    CachedFile,
    NoRoom,
    Removal,
    Wanted,
    decide,
    size_of,
)

NOW = 10 * LEFTOVER_KEPT_MS
GIB = 1 << 30


def file(name: str, size: int, inode: str | None = None) -> CachedFile:
    return CachedFile(path=f"/cache/{name}", size_bytes=size, inode=inode or name)


def model(name: str, size: int, used_ms: int, *held_by: str) -> Cached:
    return Cached(id=name, files=(file(name, size),), used_ms=used_ms, held_by=held_by)


def part(name: str, size: int, used_ms: int, *held_by: str) -> Cached:
    return Cached(files=(file(name, size),), used_ms=used_ms, held_by=held_by, leftover=True)


def gone(found: Removal | NoRoom) -> list[str]:
    assert isinstance(found, Removal), found
    return [each.name for each in found.gone]


def want(size: int, limit: int | None, reserved: int = 0) -> Wanted:
    return Wanted(size_bytes=size, max_bytes=limit, reserved_bytes=reserved)


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("MP-06")
def test_the_least_recently_used_goes_first_and_only_as_many_as_needed() -> None:
    stock = (model("new", 10, 30), model("old", 10, 10), model("middle", 10, 20))
    assert gone(decide(stock, want(5, 30), NOW)) == ["old"]
    assert gone(decide(stock, want(11, 30), NOW)) == ["old", "middle"]
    assert gone(decide(stock, want(0, 30), NOW)) == []
    assert gone(decide(stock, want(30, 30), NOW)) == ["old", "middle", "new"]


@pytest.mark.req("MP-06")
def test_without_a_limit_nothing_goes_but_what_is_left_of_old_downloads() -> None:
    stock = (model("a", 10, 1), part("p", 10, NOW - LEFTOVER_KEPT_MS), part("q", 10, NOW - LEFTOVER_KEPT_MS + 1))
    forgotten = Cached(files=(file("f", 10),), used_ms=1)
    assert gone(decide((*stock, forgotten), want(1 << 50, None), NOW)) == ["/cache/p"]


@pytest.mark.req("MP-06")
def test_what_was_half_fetched_or_forgotten_goes_before_any_model() -> None:
    stock = (model("a", 10, 1), Cached(files=(file("f", 10),), used_ms=5), part("p", 10, NOW))
    assert gone(decide(stock, want(1, 30), NOW)) == ["/cache/p"]
    assert gone(decide(stock, want(11, 30), NOW)) == ["/cache/p", "/cache/f"]
    assert gone(decide(stock, want(21, 30), NOW)) == ["/cache/p", "/cache/f", "a"]


@pytest.mark.req("MP-06")
def test_what_fetches_under_way_will_write_counts() -> None:
    stock = (model("a", 10, 1), model("b", 10, 2))
    assert gone(decide(stock, want(5, 30, reserved=6), NOW)) == ["a"]


@pytest.mark.req("MP-06")
def test_a_file_that_two_models_have_goes_with_the_last_of_them() -> None:
    shared = file("shared", 8)
    one = Cached(id="one", files=(shared, file("1", 2)), used_ms=1)
    other = Cached(id="other", files=(shared, file("2", 2)), used_ms=2)
    found = decide((one, other), want(0, 10), NOW)
    assert isinstance(found, Removal)
    assert [(each.id, [each.path for each in each.files]) for each in found.gone] == [("one", ["/cache/1"])]
    assert found.freed_bytes == 2
    found = decide((one, other), want(10, 10), NOW)
    assert isinstance(found, Removal)
    assert [[each.path for each in each.files] for each in found.gone] == [
        ["/cache/1"],
        ["/cache/shared", "/cache/2"],
    ]


@pytest.mark.req("MP-06")
def test_two_names_of_one_file_take_its_room_once() -> None:
    stock = (
        Cached(id="a", files=(file("a", 10, "1:7"),), used_ms=1),
        Cached(id="b", files=(file("b", 10, "1:7"),), used_ms=2, held_by=("pool p",)),
        model("c", 10, 3),
    )
    assert size_of(stock) == 20
    assert gone(decide(stock, want(1, 20), NOW)) == ["c"], "the end of a frees nothing"


@pytest.mark.req("MP-06")
def test_a_refusal_says_the_numbers_and_who_holds_what() -> None:
    stock = (model("small", GIB, 1, "pool gpu1"), model("large", 20 * GIB, 1, "pool gpu0", "models.pinned"))
    found = decide(stock, want(5 * GIB, 24 * GIB), NOW)
    assert isinstance(found, NoRoom)
    assert found.message == (
        "no room for 5.0 GiB: models.max_bytes is 24.0 GiB, 21.0 GiB are used, and what is there is held: "
        "large (20.0 GiB) by pool gpu0 and models.pinned, small (1.0 GiB) by pool gpu1"
    )
    assert found.hint == (
        "raise models.max_bytes, or let go of one: reload or remove its pool, or take it out of models.pinned"
    )


@pytest.mark.req("MP-06")
def test_a_model_that_never_fits_is_refused_before_anything_goes() -> None:
    found = decide((model("a", 10, 1),), want(31, 30), NOW)
    assert isinstance(found, NoRoom)
    assert found.message == "no room for 31 bytes: models.max_bytes is 30 bytes, which is less than this model alone"
    assert found.hint == "raise models.max_bytes"


# --- properties -------------------------------------------------------------------------------------------------------

NAMES = "abcdefgh"
FILES = st.sampled_from(NAMES).map(lambda name: file(name, 1 + NAMES.index(name), f"inode-{NAMES.index(name) // 2}"))


@st.composite
def stocks(draw: st.DrawFn) -> tuple[Cached, ...]:
    """Models that share files, some of which are one file under two names, and leftovers with files of their own."""
    sizes = {f"inode-{number}": draw(st.integers(0, 20)) for number in range(4)}
    models = []
    for number in range(draw(st.integers(0, 5))):
        files = {each.path: each for each in draw(st.lists(FILES, min_size=1, max_size=4))}
        models.append(
            Cached(
                id=f"m{number}",
                files=tuple(
                    CachedFile(path=each.path, inode=each.inode, size_bytes=sizes[each.inode])
                    for each in files.values()
                ),
                used_ms=draw(st.integers(0, NOW)),
                held_by=("pool p",) if draw(st.booleans()) else (),
            )
        )
    rest = [
        Cached(
            files=(file(f"l{number}", draw(st.integers(0, 20))),),
            used_ms=draw(st.integers(0, NOW)),
            leftover=draw(st.booleans()),
            held_by=("a fetch under way",) if draw(st.booleans()) else (),
        )
        for number in range(draw(st.integers(0, 3)))
    ]
    return (*models, *rest)


wants = st.builds(want, st.integers(0, 40), st.one_of(st.none(), st.integers(1, 80)), st.integers(0, 20))


@pytest.mark.req("MP-06")
@settings(deadline=None)
@given(stocks(), wants)
def test_nothing_that_is_held_goes_and_no_file_of_it(stock: tuple[Cached, ...], wanted: Wanted) -> None:
    found = decide(stock, wanted, NOW)
    if isinstance(found, Removal):
        removed = {each.path for one in found.gone for each in one.files}
        names = {one.name for one in found.gone}
        kept = [one for one in stock if one.name not in names]
        assert not [one for one in found.gone if one.held_by]
        assert not removed & {each.path for one in kept for each in one.files}


@pytest.mark.req("MP-06")
@settings(deadline=None)
@given(stocks(), wants)
def test_there_is_room_afterwards_or_nothing_goes(stock: tuple[Cached, ...], wanted: Wanted) -> None:
    found = decide(stock, wanted, NOW)
    limit, need = wanted.max_bytes, wanted.size_bytes + wanted.reserved_bytes
    if isinstance(found, Removal):
        names = {one.name for one in found.gone}
        left = size_of(one for one in stock if one.name not in names)
        assert found.freed_bytes == size_of(stock) - left
        assert limit is None or left + need <= limit
        removed = {each.path for one in found.gone for each in one.files}
        paths = {each.path: each for one in stock for each in one.files}
        on_disk = {each.inode: each.size_bytes for path, each in paths.items() if path not in removed}
        assert sum(on_disk.values()) == left, "what the decision frees is what removing the files frees"
    else:
        held = size_of(one for one in stock if one.held_by)
        assert limit is not None
        assert held + need > limit, "it is refused only where removing all that may go would not help"


@pytest.mark.req("MP-06")
@settings(deadline=None)
@given(stocks(), wants)
def test_what_goes_is_the_front_of_the_line(stock: tuple[Cached, ...], wanted: Wanted) -> None:
    found = decide(stock, wanted, NOW)
    if isinstance(found, Removal):
        evicted = [one for one in found.gone if one.id is not None]
        assert [one.used_ms for one in evicted] == sorted(one.used_ms for one in evicted)
        names = {one.name for one in found.gone}
        left = [one for one in stock if one.name not in names]
        for spared in left:
            if spared.id is not None and not spared.held_by and evicted and spared.used_ms < evicted[-1].used_ms:
                without = size_of(one for one in left if one is not spared)
                assert without == size_of(left), "an older one stays only where its end would free nothing"


@pytest.mark.req("MP-06")
@settings(deadline=None)
@given(stocks(), wants)
def test_nothing_goes_that_need_not(stock: tuple[Cached, ...], wanted: Wanted) -> None:
    found = decide(stock, wanted, NOW)
    if isinstance(found, Removal) and wanted.max_bytes is not None and found.gone:
        last = found.gone[-1]
        if last.leftover and NOW - last.used_ms >= LEFTOVER_KEPT_MS:
            return
        names = {one.name for one in found.gone[:-1]}
        left = size_of(one for one in stock if one.name not in names)
        assert left + wanted.size_bytes + wanted.reserved_bytes > wanted.max_bytes
