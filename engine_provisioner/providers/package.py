"""Stub, to be written."""
from engine_provisioner.providers.binary import BinarySource


class PackageSource(BinarySource):
    """To be written."""
