"""docs/failures.md names tests that are there, and is as its writer writes it."""

from tests.plugins.failures import DOCUMENT, is_there, parse, write


def test_every_documented_failure_names_a_test_that_is_there() -> None:
    assert [failure.name for failure in parse(DOCUMENT.read_text()).values() if not is_there(failure.test)] == []


def test_the_document_is_not_written_by_hand() -> None:
    assert write(parse(DOCUMENT.read_text()).values()) == DOCUMENT.read_text()
