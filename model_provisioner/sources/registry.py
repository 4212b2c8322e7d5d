"""Which source answers for which reference.

Decides nothing else. Sources that need an optional package are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from contracts.pools import Cause
from model_provisioner import fetch_words
from model_provisioner.errors import FetchError, ModelError
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.reference import HfRef, HttpsRef, OciRef, RemoteRef, S3Ref
from model_provisioner.sources.asking import Asker
from model_provisioner.sources.base import Source
from model_provisioner.sources.hf import HfSource
from model_provisioner.sources.https import HttpsSource
from model_provisioner.sources.oci import OciSource


def source_for(ref: RemoteRef, gate: OutboundGate, environ: Mapping[str, str]) -> Source[Any]:
    """The source of this reference's scheme. Raises ModelError where its package is not installed."""

    def require(url: str) -> None:
        try:
            gate.require(url)
        except FetchError as error:
            raise fetch_words.model_error(error, ref) from error

    match ref:
        case HfRef():
            return HfSource(Asker(gate), environ)
        case HttpsRef():
            return HttpsSource(Asker(gate))
        case S3Ref():
            return cast("Source[Any]", _optional("s3", "S3Source")(require))
        case OciRef():
            return OciSource(require, environ=environ)


def _optional(extra: str, name: str) -> Any:  # noqa: ANN401 - a class of a module that may be missing
    try:
        return getattr(importlib.import_module(f"model_provisioner.sources.{extra}"), name)
    except ImportError as error:
        message = f"{extra}:// needs a package that is not installed: {error.name}"
        raise ModelError(Cause.MODEL_FETCH, message, f"pip install 'llama-orch[{extra}]'") from error
