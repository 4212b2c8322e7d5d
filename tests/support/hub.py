"""A stand-in for the documented API of Hugging Face's hub, and for the CDN that its large files come from.

``GET /api/models/{repo}/revision/{revision}?blobs=true`` lists a repository at a commit, ``GET``
``/{repo}/resolve/{revision}/{path}`` gives a small file or leads to the CDN, which is another server on another port.
The errors are the hub's own: a status, and its word in ``X-Error-Code``. huggingface_hub itself talks to it in a test.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.support.file_server import FileServer, serving

LARGE = (".gguf", ".safetensors", ".bin")
"""What the hub keeps in LFS, whose sha256 it knows."""


def commit_of(files: Mapping[str, bytes]) -> str:
    """A commit, as git would make one of these files: forty hexadecimal digits."""
    lines = "".join(f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(files.items()))
    return hashlib.sha1(lines.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """A model repository: its branches, and the files of each commit."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """What the hub says of a file's sha256 in place of the truth, by path."""

    def __post_init__(self) -> None:
        self.push(self.files)

    def push(self, files: dict[str, bytes]) -> str:
        """What ``main`` is from now on; the answer is its commit."""
        self.files = files
        self.main = commit_of(files)
        self.commits[self.main] = files
        return self.main

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.main if revision == "main" else revision
        return (commit, self.commits[commit]) if commit in self.commits else None


@dataclass
class Hub:
    """The stand-in. ``token`` is the one that may see what is gated or private."""

    server: FileServer
    cdn: FileServer
    token: str = "hf_sesamesesamesesame"
    repositories: dict[str, Repository] = field(default_factory=dict)
    listing_status: list[web.Response] = field(default_factory=list)
    """Answers of the API in place of its own, used up one by one."""

    @property
    def endpoint(self) -> str:
        return self.server.base

    def add(self, repo: str, files: dict[str, bytes], *, gated: bool = False, private: bool = False) -> Repository:
        self.repositories[repo] = Repository(files=files, gated=gated, private=private)
        return self.repositories[repo]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.server.asked.append(request)
        _, org, repo, *rest = request.path.removeprefix("/api/models").split("/")
        repository = self.repositories.get(f"{org}/{repo}")
        known = request.headers.get("Authorization") == f"Bearer {self.token}"
        if repository is None or (repository.private and not known):
            return _refusal(404 if known else 401, "RepoNotFound")
        kind, revision, *path = rest
        found = repository.at(revision)
        if found is None:
            return _refusal(404, "RevisionNotFound")
        if request.path.startswith("/api/models/") and kind == "revision":
            return self.listing_status.pop(0) if self.listing_status else _listing(f"{org}/{repo}", repository, *found)
        if repository.gated and not known:
            return _refusal(401 if "Authorization" not in request.headers else 403, "GatedRepo")
        return await self._file(request, found[0], found[1].get("/".join(path)), "/".join(path))

    async def _file(self, request: web.Request, commit: str, data: bytes | None, path: str) -> web.StreamResponse:
        if data is None:
            return _refusal(404, "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"'}
        if not path.endswith(LARGE):
            return web.Response(body=data, headers=headers)
        digest = hashlib.sha256(data).hexdigest()
        self.cdn.files[f"/repos/{digest}"] = data
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{digest}"'}
        location = f"{self.cdn.base}/repos/{digest}?X-Amz-Signature=sesame"
        return web.Response(status=302, headers={**headers, "Location": location})


def _listing(repo: str, repository: Repository, commit: str, files: Mapping[str, bytes]) -> web.Response:
    siblings = []
    for name, data in files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        each: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob}
        if name.endswith(LARGE):
            digest = repository.digests.get(name, hashlib.sha256(data).hexdigest())
            each["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
        siblings.append(each)
    gated = "manual" if repository.gated else False
    body = {"_id": "1", "id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "gated": gated, "tags": []}
    return web.json_response(body)


def _refusal(status: int, code: str) -> web.Response:
    return web.json_response(
        {"error": code}, status=status, headers={"X-Error-Code": code, "X-Error-Message": f"{code} (stand-in)"}
    )


@asynccontextmanager
async def hub() -> AsyncIterator[Hub]:
    """A hub and its CDN on two ports of the loopback."""
    async with serving() as server, serving() as cdn:
        running = Hub(server=server, cdn=cdn)
        server.answer = running.answer  # type: ignore[method-assign]
        yield running
