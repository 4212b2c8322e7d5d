"""The digest of a whole model: of one file its own, of several that of the list of their names with theirs.

Decides how the digests of files become that of a model. Never reads a file: the caller says how that is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from contracts.engines import ModelFormat
from model_provisioner import hf_directory
from model_provisioner.hf_directory import ModelFile
from model_provisioner.local import Inspected


async def digest_of(inspected: Inspected, read: Callable[[ModelFile], Awaitable[str]]) -> str:
    """The digest ``sha256:<hex>`` of the model. ``read`` gives that of one file; what it raises passes through."""
    if inspected.format is ModelFormat.GGUF and len(inspected.files) == 1:
        return await read(inspected.files[0])
    digests = [(file.name, await read(file)) for file in inspected.files]
    return f"sha256:{hashlib.sha256(hf_directory.digest_lines(digests)).hexdigest()}"
