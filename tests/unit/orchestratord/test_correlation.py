"""The id that a request is found by."""

from uuid import RFC_4122, UUID

import pytest

from daemon_core.redaction import Redactor
from orchestratord.http.correlation import correlation_id_of, new_correlation_id

pytestmark = pytest.mark.req("OP-02")


def test_a_new_one_is_a_uuid_of_version_4() -> None:
    made = {new_correlation_id() for _ in range(200)}
    assert len(made) == 200
    for each in made:
        read = UUID(each)
        assert (str(read), read.version, read.variant) == (each, 4, RFC_4122)


@pytest.mark.parametrize("given", ["a", "job:7", "A-b_c.d", "x" * 128])
def test_a_clients_own_is_taken_over(given: str) -> None:
    assert correlation_id_of(given, Redactor(())) == given


@pytest.mark.parametrize("given", [None, "", "a b", "a\n", "é", "../x", "x" * 129, "a-secret-of-ours"])
def test_what_is_no_id_or_holds_a_secret_is_replaced(given: str | None) -> None:
    assert UUID(correlation_id_of(given, Redactor(("a-secret-of-ours",)))).version == 4
