"""The provider of a pool.

Decides nothing that ``plan.way_of`` has not decided: it puts the parts together.
"""

from __future__ import annotations

from typing import assert_never

from contracts.config import Pool, Profile
from engine_provisioner.base import EngineProvider
from engine_provisioner.host import Host
from engine_provisioner.plan import Way, way_of
from engine_provisioner.providers.binary import BinarySource
from engine_provisioner.providers.container import ContainerProvider
from engine_provisioner.providers.download import DownloadSource
from engine_provisioner.providers.external import ExternalProvider
from engine_provisioner.providers.native import NativeProvider
from engine_provisioner.providers.package import PackageSource
from engine_provisioner.providers.source import SourceBuilder
from engine_provisioner.providers.wheel import WheelSource


def provider_for(pool: Pool, profile: Profile, host: Host) -> EngineProvider:
    """The provider of the pool's engine and mode.

    Raises ProvisionError, which names what is valid, for an engine that nobody knows, a mode that makes no sense for
    it, and one that this version or this profile cannot use.
    """
    way = way_of(pool, profile)
    match way:
        case Way.WHEEL:
            return NativeProvider(host, profile, WheelSource(host))
        case Way.BINARY:
            return NativeProvider(host, profile, BinarySource(host))
        case Way.SYSTEM_PACKAGE:
            return NativeProvider(host, profile, PackageSource(host))
        case Way.SOURCE:
            return NativeProvider(host, profile, SourceBuilder(host, profile))
        case Way.DOWNLOAD:
            return NativeProvider(host, profile, DownloadSource(host))
        case Way.CONTAINER:
            return ContainerProvider(host, profile)
        case Way.EXTERNAL:
            return ExternalProvider(host, profile)
        case _:
            assert_never(way)
