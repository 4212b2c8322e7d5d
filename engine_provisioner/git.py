"""The source of an engine, out of a git repository.

Decides which commit a ref means and how little of a repository is fetched for it. Never asks anybody anything: where a
repository wants a password and no helper knows one, that is the failure. And never follows a redirect: the policy has
judged the address that stands in the configuration, and no other. Nor has it to do with a repository that we happen to
run in.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from contracts.pools import Cause
from engine_provisioner.build_errors import (
    Context,
    git_trouble,
    is_absence,
    is_redirect,
    moved_trouble,
    redirect_target,
)
from engine_provisioner.errors import ProvisionError
from engine_provisioner.git_refs import commit_of, is_commit, judged_url, ref_names
from engine_provisioner.host import CommandError, CommandResult, Host
from engine_provisioner.plan import without_secrets

NOWHERE = Path("/")
"""Where git looks for a repository when it needs none: it reads its configuration, and fails where that is broken."""
ASK_S = 60.0
FETCH_S = 3600.0

ENVIRONMENT: dict[str, str | None] = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "GCM_INTERACTIVE": "never",
    "LC_ALL": "C",
    # Set where we run below a git hook, and then meant for another repository.
    **dict.fromkeys(("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR")),
}
_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=20"
_CONFIG = (
    *("-c", "core.autocrlf=false", "-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false"),
    *("-c", "gc.auto=0", "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60"),
    *("-c", "http.followRedirects=false"),
)


class Repository:
    """A repository that somebody serves. ``keep_open`` are descriptors that git inherits."""

    def __init__(self, host: Host, git: Path, url: str, context: Context, keep_open: tuple[int, ...] = ()) -> None:
        self._host = host
        self._git = str(git)
        self._url = url
        self._context = context
        self._keep_open = keep_open

    async def commit(self, ref: str) -> str | None:
        """The commit that a ref is now; None for one that only the whole history can tell, such as a short commit.

        Raises ProvisionError.
        """
        if is_commit(ref):
            return ref
        await self._host.require_outbound(judged_url(self._url))
        # Only what can be meant: a repository such as llama.cpp has tens of thousands of refs.
        result = await self._run("ls-remote", "--", self._url, *ref_names(ref), timeout_s=ASK_S)
        await self._must(result)
        commit = commit_of(ref, result.output)
        if commit is None and not re.fullmatch(r"[0-9a-f]{7,}", ref):
            text = f"{without_secrets(self._url)} has no ref {ref!r}"
            hint = "set provisioning.source.ref to a branch, a tag or a commit that git ls-remote shows"
            raise ProvisionError(Cause.ENGINE_FETCH, text, hint)
        return commit

    async def checkout(self, ref: str, commit: str | None, target: Path) -> str:
        """Bring the files of a commit to ``target``, which need not be empty, and say which commit it was.

        Fetches that commit alone where the server lets one. Raises ProvisionError.
        """
        await self._host.require_outbound(judged_url(self._url))
        await asyncio.to_thread(_make_empty, target)
        await self._must(await self._run("init", "--quiet", "--template=", ".", cwd=target))
        fetched = None
        if commit is not None:
            alone = ("fetch", "--quiet", "--depth=1", "--no-tags", "--", self._url, commit)
            fetched = await self._run(*alone, cwd=target, timeout_s=FETCH_S)
            if fetched.status != 0 and not self._may_be_deeper(fetched):
                await self._must(fetched)
        if fetched is None or fetched.status != 0:
            refs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
            await self._must(await self._run("fetch", "--quiet", "--", self._url, *refs, cwd=target, timeout_s=FETCH_S))
        found = await self._run("rev-parse", "--verify", "--quiet", f"{commit or ref}^{{commit}}", cwd=target)
        if found.status != 0:
            text = f"{without_secrets(self._url)} has no commit {commit or ref}"
            hint = "set provisioning.source.ref to a branch, a tag or a commit that git ls-remote shows"
            raise ProvisionError(Cause.ENGINE_FETCH, text, hint)
        full = found.output.strip()
        out = await self._run("checkout", "--quiet", "--force", "--detach", full, cwd=target, timeout_s=FETCH_S)
        await self._must(out)
        return full

    def _may_be_deeper(self, result: CommandResult) -> bool:
        """Whether a fetch of everything may bring what a fetch of one commit did not."""
        shallow = "shallow capabilities" in result.output or "shallow update" in result.output
        return shallow or is_absence(git_trouble(result.output, self._context))

    async def _run(
        self, *args: str, cwd: Path | None = None, timeout_s: float = ASK_S, env: Mapping[str, str] | None = None
    ) -> CommandResult:
        folder = (cwd or NOWHERE).absolute()
        above = {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        # All that git is told in its own variables is meant for it, also what looks like a secret.
        own = {"GIT_SSH_COMMAND": _SSH} | {k: v for k, v in self._host.environ.items() if k.startswith("GIT_") and v}
        try:
            return await self._host.run(
                (self._git, *_CONFIG, *args),
                timeout_s=timeout_s,
                env={**own, **ENVIRONMENT, **above, **(env or {})},
                cwd=folder,
                keep_open=self._keep_open,
            )
        except CommandError as error:
            text = f"{without_secrets(self._url)}: {error}"
            hint = "check the network and provisioning.source.repo"
            raise ProvisionError(Cause.ENGINE_FETCH, text, hint, retriable=True) from error

    async def _must(self, result: CommandResult) -> None:
        """See that git did it. Raises ProvisionError."""
        if result.status == 0:
            return
        moved = is_redirect(result.output)
        trouble = moved_trouble(await self._new_address()) if moved else git_trouble(result.output, self._context)
        text = trouble.text(without_secrets(self._url))
        raise ProvisionError(Cause.ENGINE_FETCH, text, trouble.hint, retriable=trouble.passes)

    async def _new_address(self) -> str | None:
        """Where the server sends whoever asks for this repository: git tells that in its trace alone."""
        trace = {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1", "GIT_TRACE_REDACT": "1"}
        result = await self._run("ls-remote", "--", self._url, "HEAD", env=trace)
        address = redirect_target(result.output)
        return without_secrets(address) if address else None


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
