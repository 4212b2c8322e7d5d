"""Makes a proof: gathers its files, seals them with a manifest, packs and writes them.

Decides whether this machine is the one that served, as far as the daemon's address tells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from catalog_core.atomic import write_atomic
from contracts.artifacts import ArtifactInfo, ArtifactKind, ArtifactRequest
from contracts.base import Message
from contracts.config import Config
from contracts.config import Paths as PathOverrides
from daemon_core.paths import Paths, make_private_dir
from daemon_core.redaction import Redactor, secrets_of
from daemon_core.version import version
from llama_orch.client import ApiClient
from llama_orch.proof import manifest as names
from llama_orch.proof.archive import pack
from llama_orch.proof.gather import Collected, gather
from llama_orch.proof.here import Here
from llama_orch.proof.manifest import Manifest, Missing
from llama_orch.proof.verify import Verdict, verify
from llama_orch.replay.finding import find_receipt
from llama_orch.session import URL_VARIABLE, Session, own_url

ELSEWHERE = "only the machine of the engine has it: make the proof there"


class Made(Message, frozen=True, kw_only=True):
    """A proof that was written."""

    file: str
    verdict: Verdict
    kept: ArtifactInfo | None = None
    """Under which id the daemon keeps its manifest, where that was asked for."""


async def make(
    session: Session, name: str, output: Path | None, *, url: str | None, neighbours: int, keep: bool
) -> Made:
    """Make the proof of a task, and write it. Raises ApiError, StartupError and OSError."""
    environ = dict(os.environ)
    into = Collected(redactor_of(session, environ))
    async with session.client() as client:
        artifact = await find_receipt(client, name)
        receipt = await gather(client, artifact, neighbours, into)
        here = config_here(session, url, environ)
        if here is None:
            into.lacks(ELSEWHERE, *names.OF_THE_MACHINE)
        else:
            await Here(here, session.config_path, environ).gather(receipt, into)
        manifest = Manifest(
            task_id=receipt.task_id,
            job_id=receipt.job_id,
            receipt_id=artifact.id,
            made_ms=time.time_ns() // 1_000_000,
            made_by=version(),
            files=names.infos(into.files),
            missing=tuple(Missing(name=each, why=why) for each, why in sorted(into.missing.items())),
        )
        files = {**into.files, names.MANIFEST: names.encoded(manifest)}
        place = output or _default_place(session, environ, receipt.task_id)
        write_atomic(place, pack(files))
        kept = await _keep(client, manifest) if keep else None
    return Made(file=str(place), verdict=verify(files), kept=kept)


def redactor_of(session: Session, environ: Mapping[str, str]) -> Redactor:
    """Knows the secrets of this user's surroundings: the token, the environment's, those of the pools."""
    pools = () if session.config is None else session.config.pools
    secrets = [value for known in (environ, *(pool.env for pool in pools)) for value in secrets_of(known)]
    return Redactor((*secrets, *(() if session.token is None else (session.token.value,))))


def config_here(session: Session, url: str | None, environ: Mapping[str, str]) -> Config | None:
    """The configuration of the daemon that is asked, where it is this machine's own."""
    asked = (url or environ.get(URL_VARIABLE) or "").rstrip("/")
    config = session.config
    return config if config is not None and asked in {"", own_url(config)} else None


def _default_place(session: Session, environ: Mapping[str, str], task_id: str) -> Path:
    overrides = PathOverrides() if session.config is None else session.config.paths
    folder = make_private_dir(Paths.resolve(overrides, environ).proof)
    return folder / f"{task_id}.tar.gz"


async def _keep(client: ApiClient, manifest: Manifest) -> ArtifactInfo:
    content = msgspec.Raw(names.encoded(manifest))
    request = ArtifactRequest(content=content, kind=ArtifactKind.PROOF, tags=(manifest.task_id,))
    return await client.put_artifact(request)
