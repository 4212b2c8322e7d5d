"""Fetches one file that is known by its sha256, over http or from this machine's disk.

Decides how a failure reads to somebody who wants an engine. How the bytes come here is decided by
``model_provisioner.transfer``: engines and models are fetched in one way.
"""

from __future__ import annotations

from pathlib import Path

from tenacity.wait import wait_base

from contracts.pools import Cause
from daemon_core.outbound import without_secrets
from engine_provisioner.base import Progress
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from model_provisioner import transfer
from model_provisioner.errors import FetchError, Trouble
from model_provisioner.sources.base import RemoteFile
from model_provisioner.threads import in_thread
from model_provisioner.transfer import ATTEMPTS, SPARE_BYTES
from model_provisioner.web import Patience

__all__ = ["ATTEMPTS", "SPARE_BYTES", "Patience", "Transfer", "address_problem", "in_thread"]

_WHY_HINT = "see that it can be opened from this machine, or fetch it by hand and set provisioning.binary.path"


def address_problem(url: str) -> ProvisionError | None:
    """Why nothing can be fetched from an address, as far as its text and this machine's disk tell."""
    problem = transfer.address_problem(url)
    return None if problem is None else _worded(problem, "see provisioning.binary.url")


class Transfer:
    """Fetches files to where they are wanted. ``pause`` is what lies between two attempts."""

    def __init__(self, host: Host, *, patience: Patience | None = None, pause: wait_base = transfer.PAUSE) -> None:
        self._transfer = transfer.Transfer(host.gate, patience=patience, pause=pause, free_bytes=host.free_bytes)

    async def fetch(self, url: str, sha256: str, target: Path, progress: Progress) -> None:
        """Bring the file with this digest to ``target``, whose directory exists. Raises ProvisionError.

        What an interrupted one left in ``<target>.part`` is used. Interrupted itself, it leaves that, and no target.
        """
        file = RemoteFile(name=target.name, url=url, sha256=sha256)
        try:
            try:
                await self._transfer.fetch(file, target, progress=progress)
            except FetchError as error:
                if error.trouble is not Trouble.DIGEST:
                    raise
                await self._transfer.discard(target)
                text = f"{without_secrets(url)} has the sha256 {error.found}, and the pool asks for {sha256}"
                hint = (
                    "nothing of it was used; see which file is meant, and set provisioning.binary.sha256 to its digest"
                )
                raise ProvisionError(Cause.ENGINE_FETCH, text, hint) from error
        except FetchError as error:
            raise _worded(error, _WHY_HINT) from error


def _worded(error: FetchError, hint: str) -> ProvisionError:
    cause = Cause.POLICY_DENIED if error.trouble is Trouble.POLICY else Cause.ENGINE_FETCH
    return ProvisionError(cause, error.message, error.hint or hint, retriable=error.retriable)
