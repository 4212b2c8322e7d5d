"""What the address and the ref of a git repository mean.

Decides which commit a ref is, in git's own order, and which addresses and refs are refused. Never talks to a
repository: what it lists is an argument.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from contracts.engines import Finding

_SCP = re.compile(r"(?:[\w.+-]+@)?(\[[0-9a-fA-F:]+\]|[\w.-]+):(?!//)(.*)", re.DOTALL)
_BAD_REF = re.compile(r"[\x00-\x20~^:?*\[\\\x7f]|\.\.|@\{|//|^[-/]|[/.]$|\.lock$")


def is_commit(ref: str) -> bool:
    """Whether a ref is the whole name of a commit, which no server can move."""
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", ref) is not None


def ref_names(ref: str) -> tuple[str, ...]:
    """What ``git ls-remote`` is asked for: every full name that a ref can have, and the commits of annotated tags."""
    names = _full_names(ref)
    return (*names, *(f"{name}^{{}}" for name in names))


def commit_of(ref: str, listing: str) -> str | None:
    """The commit of a ref in what ``git ls-remote`` printed: a tag before a branch of its name, as git has it."""
    refs = {}
    for line in listing.splitlines():
        commit, _, name = line.partition("\t")
        if is_commit(commit):
            refs[name] = commit
    for name in _full_names(ref):
        # An annotated tag is an object of its own; the commit that it names is listed with this ending.
        if found := refs.get(f"{name}^{{}}") or refs.get(name):
            return found
    return None


def judged_url(repo: str) -> str:
    """The address as the outbound policy judges it: git's ``host:path`` is SSH, and a path is this machine."""
    if "://" in repo:
        return repo
    match = None if repo.startswith(("/", ".", "~")) else _SCP.fullmatch(repo)
    return f"ssh://{match[1]}/{match[2].lstrip('/')}" if match else "file:///"


def number_of(ref: str) -> str:
    """llama.cpp's build number, which its release tags (b4621) carry; 0 is its word for not known."""
    match = re.fullmatch(r"(?:refs/tags/)?b(\d{1,9})", ref)
    return match[1] if match else "0"


def repository_findings(pool_id: str, repo: str, ref: str) -> tuple[Finding, ...]:
    """What is wrong with a configured repository. Never repeats its address: a password may be in it."""
    where = f"pools[{pool_id}].provisioning.source"
    found = []
    if problem := _url_problem(repo):
        hint = 'for example repo: "https://github.com/ggml-org/llama.cpp"'
        why = "the source of llama.cpp is fetched from it, and a secret never stands in a file"
        found.append(Finding(check="source", message=f"{where}.repo {problem}", why=why, hint=hint))
    if not ref or _BAD_REF.search(ref):
        why = "it says what is built"
        hint = "a branch, a tag or a commit, such as master or b6900"
        found.append(Finding(check="source", message=f"{where}.ref: {ref!r} is no git ref", why=why, hint=hint))
    return tuple(found)


def _full_names(ref: str) -> tuple[str, ...]:
    return (ref, f"refs/{ref}", f"refs/tags/{ref}", f"refs/heads/{ref}")


def _url_problem(repo: str) -> str | None:
    if not repo or repo.startswith("-") or re.search(r"[\x00-\x1f\x7f]", repo):
        return "is no address of a git repository"
    if "://" not in repo:
        return "names a transport that runs commands" if re.match(r"[\w+-]+::", repo) else None
    try:
        parts = urlsplit(repo)
        user, password = parts.username, parts.password
    except ValueError:
        return "is no address of a git repository"
    if parts.scheme not in {"http", "https", "ssh", "git", "file", "git+ssh", "ssh+git"}:
        return "has a scheme that git does not know"
    if password is not None or (user is not None and parts.scheme in {"http", "https"}):
        return "holds a user name or a password"
    if parts.query or parts.fragment:
        return "holds a query or a fragment"
    return None
