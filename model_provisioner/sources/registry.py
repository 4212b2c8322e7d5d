"""Which source answers for which reference.

Decides nothing else. Sources that need an optional package import it when they are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.reference import HfRef, HttpsRef, OciRef, RemoteRef, S3Ref
from model_provisioner.sources.asking import Asker
from model_provisioner.sources.base import Source
from model_provisioner.sources.hf import HfSource
from model_provisioner.sources.https import HttpsSource
from model_provisioner.sources.oci import OciSource
from model_provisioner.sources.s3 import S3Source


def source_for(ref: RemoteRef, gate: OutboundGate, environ: Mapping[str, str]) -> Source[Any]:
    """The source of this reference's scheme."""
    match ref:
        case HfRef():
            return HfSource(Asker(gate), environ)
        case HttpsRef():
            return HttpsSource(Asker(gate))
        case S3Ref():
            return S3Source(gate.require)
        case OciRef():
            return OciSource(gate.require, environ=environ)
        case _:
            assert_never(ref)
