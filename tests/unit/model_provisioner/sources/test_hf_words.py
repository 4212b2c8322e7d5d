"""What the hub's refusals mean, each with its mend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_provisioner.reference import HfRef
from model_provisioner.sources.hf_words import refusal

REF = HfRef(org="org", repo="repo", path="m.gguf", revision="v1")
CODES = ("GatedRepo", "RepoNotFound", "RevisionNotFound", "EntryNotFound", "Other", None)


@pytest.mark.req("MP-02")
@given(st.integers(300, 599), st.sampled_from(CODES), st.booleans())
def test_every_refusal_has_a_mend_that_can_be_followed(status: int, code: str | None, has_token: bool) -> None:
    error = refusal(REF, status, code, endpoint="https://hub.example", has_token=has_token)
    assert "org/repo" in error.message or "hub" in error.message
    assert (
        "https://hub.example/org/repo" in error.hint
        or "HF_TOKEN" in error.hint
        or "later" in error.hint
        or ("wait" in error.hint)
    )
    certain = code in {"GatedRepo", "RevisionNotFound", "EntryNotFound"}
    assert error.retriable == (not certain and (status == 429 or status >= 500))


@pytest.mark.parametrize(
    ("status", "code", "has_token", "said"),
    [
        (401, "GatedRepo", False, "then set HF_TOKEN to a token of that account"),
        (403, "GatedRepo", True, "with the account of the token that is set"),
        (404, "EntryNotFound", False, "https://hub.example/org/repo/tree/v1 lists what there is"),
        (401, None, True, "set HF_TOKEN anew"),
        (403, None, True, "the rights of HF_TOKEN"),
        (429, None, False, "or set HF_TOKEN: with one the hub allows more"),
    ],
)
def test_the_mend_fits(status: int, code: str | None, has_token: bool, said: str) -> None:
    error = refusal(REF, status, code, endpoint="https://hub.example", has_token=has_token)
    assert said in error.hint
