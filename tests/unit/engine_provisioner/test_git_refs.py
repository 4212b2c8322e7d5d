from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_provisioner.git_refs import commit_of, is_commit, judged_url, number_of, repository_findings

A, B, C, D = (letter * 40 for letter in "abcd")
LISTING = f"""\
{A}\tHEAD
{A}\trefs/heads/master
{B}\trefs/heads/other/master
{B}\trefs/heads/b1
{C}\trefs/tags/b1
{C}\trefs/tags/v1
{D}\trefs/tags/v1^{{}}
{D}\trefs/pull/7/head
warning: not a ref
"""


@pytest.mark.req("EP-03")
@pytest.mark.parametrize(
    ("ref", "commit"),
    [
        ("master", A),  # and not other/master
        ("HEAD", A),
        ("heads/b1", B),
        ("b1", C),  # a tag before a branch
        ("v1", D),  # an annotated tag names a commit
        ("refs/pull/7/head", D),
        ("pull/7/head", D),
        ("gone", None),
    ],
)
def test_a_ref_means_what_git_takes_it_for(ref: str, commit: str | None) -> None:
    assert commit_of(ref, LISTING) == commit


def test_a_whole_commit_needs_nobody_to_tell() -> None:
    assert is_commit(A)
    assert is_commit("0" * 64)
    assert not is_commit("abc1234")
    assert not is_commit(A.upper())


def test_the_number_of_a_release_is_in_its_tag() -> None:
    assert [number_of(ref) for ref in ("b4621", "refs/tags/b99", "master", "b")] == ["4621", "99", "0", "0"]


@pytest.mark.parametrize(
    ("repo", "judged"),
    [
        ("https://github.com/x/y", "https://github.com/x/y"),
        ("git@github.com:x/y.git", "ssh://github.com/x/y.git"),
        ("host:/srv/y", "ssh://host/srv/y"),
        ("/srv/git/y", "file:///"),
        ("./y", "file:///"),
    ],
)
def test_policy_judges_the_host_that_git_will_speak_to(repo: str, judged: str) -> None:
    assert judged_url(repo) == judged


def problems(repo: str = "https://example.org/x", ref: str = "master") -> list[str]:
    return [finding.message for finding in repository_findings("p", repo, ref)]


def test_addresses_that_can_be_used_are_not_refused() -> None:
    for repo in (
        *("https://example.org/x.git", "ssh://git@example.org/x", "git@example.org:x", "git://example.org/x"),
        *("file:///srv/my repositories/x", "/srv/x"),
    ):
        assert problems(repo) == []
    for ref in ("master", "b6900", "refs/pull/7/head", "feature/x-1", A):
        assert problems(ref=ref) == []


@pytest.mark.parametrize(
    ("repo", "problem"),
    [
        ("https://me:sesame@example.org/x", "holds a user name or a password"),
        ("https://sesame@example.org/x", "holds a user name or a password"),
        ("ssh://git:sesame@example.org/x", "holds a user name or a password"),
        ("https://example.org/x?token=sesame", "holds a query or a fragment"),
        ("--upload-pack=sesame", "is no address of a git repository"),
        ("", "is no address of a git repository"),
        ("http://[sesame", "is no address of a git repository"),
        ("ext::sh -c sesame", "names a transport that runs commands"),
        ("ftp://example.org/sesame", "has a scheme that git does not know"),
    ],
)
def test_an_address_is_refused_without_being_shown(repo: str, problem: str) -> None:
    (finding,) = repository_findings("p", repo, "master")
    assert finding.message == f"pools[p].provisioning.source.repo {problem}"
    assert "sesame" not in repr(finding)


@pytest.mark.parametrize("ref", ["", "-x", "--upload-pack=x", "a b", "a..b", "a@{1}", "a\n", "a:b", "/a", "a.lock"])
def test_what_is_no_ref_is_refused(ref: str) -> None:
    (problem,) = problems(ref=ref)
    assert problem.endswith("is no git ref")


@given(st.text(), st.text())
def test_no_configuration_breaks_the_check(repo: str, ref: str) -> None:
    repository_findings("p", repo, ref)
    judged_url(repo)
    commit_of(ref, repo)
