"""A stand-in for systemd's journal: its socket, and entries read by the protocol's own description."""

from __future__ import annotations

import mmap
import os
import select
import socket
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Self

Entry = dict[str, list[str]]
LIMIT_S = 40.0


def decoded(data: bytes) -> Entry:
    """The fields of an entry, each with all its values: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/."""
    entry: Entry = defaultdict(list)
    while data:
        head, _, data = data.partition(b"\n")
        name, plain, value = head.partition(b"=")
        if not plain:
            size = int.from_bytes(data[:8], "little")
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert end == b"\n"
        entry[name.decode()].append(value.decode())
    return dict(entry)


class Journald:
    """Takes entries when it is asked to: until then it is as busy as one that does not get the processor."""

    def __init__(self, folder: Path) -> None:
        self.address = folder / "socket"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.address))
        self._socket.settimeout(LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def take(self) -> Entry:
        """The next entry."""
        data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
        for descriptor in descriptors:
            try:
                data += self._mapped(descriptor)
            finally:
                os.close(descriptor)
        return decoded(data)

    def has_more(self) -> bool:
        """Whether an entry is there already."""
        return bool(select.select([self._socket], [], [], 0)[0])

    @staticmethod
    def _mapped(descriptor: int) -> bytes:
        """As the real one: what may still change or shrink is refused."""
        try:
            with open(descriptor, "r+b", closefd=False) as file:
                file.truncate(1)
        except PermissionError:
            pass
        else:
            raise AssertionError("the file is not sealed")
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as view:
            return view[:]
