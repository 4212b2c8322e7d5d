"""Stub, to be written."""
from contracts.config import Profile
from engine_provisioner.host import Host
from engine_provisioner.providers.binary import BinarySource


class SourceBuilder(BinarySource):
    """To be written."""

    def __init__(self, host: Host, profile: Profile) -> None:
        super().__init__(host)
