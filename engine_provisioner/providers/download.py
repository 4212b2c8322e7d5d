"""Stub, to be written."""
from engine_provisioner.providers.binary import BinarySource


class DownloadSource(BinarySource):
    """To be written."""
