"""Stub, to be written."""
from contracts.config import Profile
from engine_provisioner.host import Host
from engine_provisioner.providers.external import ExternalProvider


class ContainerProvider(ExternalProvider):
    """To be written."""

    def __init__(self, host: Host, profile: Profile) -> None:
        super().__init__(host, profile)
