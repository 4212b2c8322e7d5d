"""GPUs for tests: a stand-in for NVIDIA's libnvidia-ml.so.1, and the machine that it shows.

The product's own NVML code runs unchanged, through the real binding, against a C library that gcc builds and a text
file drives. The file is replaced as a whole and read at each call: every method takes effect at once, in every process.

In a test module (the fixtures are in ``tests.support.nvml.fixtures``)::

    pytest_plugins = ["tests.support.nvml.fixtures"]
    pytestmark = pytest.mark.needs("gcc")

    def test_in_this_process(gpus: FakeGpus) -> None:  # a 24 GB RTX 3090 and a 12 GB RTX 3060
        with gpus.loaded():
            NvmlGpus().inventory()
            gpus.lose(0)

    def test_in_a_daemon(gpus: FakeGpus) -> None:
        subprocess.Popen([...], env={**os.environ, **gpus.env})
        gpus.engines_hold(2 << 30)  # each process whose CUDA_VISIBLE_DEVICES names a GPU's UUID holds 2 GiB there

The lines of the file::

    init CODE                           NVML's error number for initialization and every other call; 0: the driver works
    hang 0|1                            whether every call hangs until this is 0 again
    loads NUMBER                        how often the driver was loaded: who connected before must connect again
    driver TEXT | cuda NUMBER           the versions
    device ID                           and then that device's: uuid, name, total, used, utilization, capability,
                                        ecc (absent: a card without), events 0|1, error CODE (for every call)
    process ID PID BYTES                a process on the device; BYTES of ? are not told by the driver
    process-env ID NAME=PART BYTES      every process of this user whose environment has NAME with PART in its value
    xid SERIAL ID NUMBER                told once to each event set that was there before
    refuse ID CALL CODE                 one call fails; ID -1: a call that takes no device

What processes hold is added to ``used``. NVML's index is the place in the file: removing a card shifts the others.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import uuid
from _ctypes import dlclose  # ctypes loads and does not unload
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pynvml

SOURCE = Path(__file__).with_name("standin.c")
SONAME = "libnvidia-ml.so.1"
VARIABLE = "NVML_STANDIN"
DRIVER = "550.163.01"
CUDA = 12040
GIB = 1 << 30


def build(directory: Path) -> Path:
    """Compile the stand-in below a directory; its path. The soname lets the loader take it for the driver's."""
    library = directory / SONAME
    flags = (
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{SONAME}",
        "-pthread",
    )
    subprocess.run(["gcc", *flags, "-o", str(library), str(SOURCE)], check=True, timeout=60)
    return library


@dataclass(frozen=True, kw_only=True)
class Card:
    """One device as the file has it."""

    id: int
    uuid: str
    name: str
    total: int
    used: int = 0
    utilization: int = 0
    capability: str = "8.6"
    ecc: int | None = None
    events: bool = True
    error: int = 0

    def lines(self) -> Iterator[str]:
        yield f"device {self.id}"
        for key in ("uuid", "name", "total", "used", "utilization", "capability", "error"):
            yield f"{key} {getattr(self, key)}"
        yield f"events {int(self.events)}"
        if self.ecc is not None:
            yield f"ecc {self.ecc}"


def reference_cards(seed: str) -> tuple[Card, ...]:
    """The reference machine: 24 GB and 12 GB. UUIDs come from the seed: runs side by side do not see each other."""
    models = (("NVIDIA GeForce RTX 3090", 24 * GIB), ("NVIDIA GeForce RTX 3060", 12 * GIB))
    return tuple(
        Card(id=number, uuid=f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{seed}/{number}')}", name=name, total=total)
        for number, (name, total) in enumerate(models)
    )


class FakeGpus:
    """The GPUs that the stand-in shows to whoever has ``env``, or to this process while ``loaded``."""

    def __init__(self, library: Path, state: Path, cards: tuple[Card, ...] | None = None) -> None:
        self.library = library
        self.state = state
        self._cards = {card.id: card for card in (reference_cards(str(state)) if cards is None else cards)}
        self._init = 0
        self._loads = 0
        self._hang = 0
        self._processes: list[str] = []
        self._xids: list[str] = []
        self._refusals: dict[tuple[int, str], int] = {}
        self._write()

    @property
    def env(self) -> Mapping[str, str]:
        """What a child process needs to see these GPUs."""
        before = os.environ.get("LD_LIBRARY_PATH")
        path = f"{self.library.parent}:{before}" if before else str(self.library.parent)
        return {"LD_LIBRARY_PATH": path, VARIABLE: str(self.state)}

    @property
    def cards(self) -> tuple[Card, ...]:
        """The devices that are there, in NVML's order."""
        return tuple(self._cards.values())

    @property
    def uuids(self) -> tuple[str, ...]:
        """The UUIDs of the devices, in NVML's order."""
        return tuple(card.uuid for card in self.cards)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Let NVML be the stand-in in this process; afterwards the binding is as if nobody had used it."""
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(self.state)
        _forget_nvml()
        library = ctypes.CDLL(str(self.library))  # by its soname it is what the binding finds
        try:
            yield
        finally:
            _forget_nvml()
            dlclose(library._handle)  # noqa: SLF001 - there is no other way
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before

    # --- what happens to the machine ----------------------------------------------------------------------------------

    def change(self, device: int, **fields: object) -> None:
        """Give a device other fields (of ``Card``)."""
        self._cards[device] = replace(self._cards[device], **fields)  # type: ignore[arg-type] # they are Card's
        self._write()

    def lose(self, device: int, error: int = pynvml.NVML_ERROR_GPU_IS_LOST) -> None:
        """Every call for the device fails from now on."""
        self.change(device, error=error)

    def restore(self, device: int) -> None:
        """The device answers again."""
        self.change(device, error=0)

    def remove(self, device: int) -> None:
        """The device is not even counted any more."""
        del self._cards[device]
        self._write()

    def add(self, card: Card) -> None:
        """A device more, behind the others."""
        self._cards[card.id] = card
        self._write()

    def break_driver(self, error: int = pynvml.NVML_ERROR_DRIVER_NOT_LOADED) -> None:
        """Initialization and every other call fail from now on; connections of before end."""
        self._init = error
        self._loads += 1
        self._write()

    def mend_driver(self) -> None:
        """The driver works again, for who connects anew."""
        self._init = 0
        self._write()

    def hang(self, *, hangs: bool = True) -> None:
        """Every call hangs from now on, or no longer: then those go on that hung."""
        self._hang = int(hangs)
        self._write()

    def uncorrectable(self, device: int, count: int) -> None:
        """The device has had so many uncorrectable memory errors."""
        self.change(device, ecc=count)

    def xid(self, device: int, number: int) -> None:
        """The driver reports an Xid, once to each event set that has the device."""
        self._xids.append(f"xid {len(self._xids) + 1} {device} {number}")
        self._write()

    def refuse(self, call: str, error: int, device: int = -1) -> None:
        """Fail one call by NVML's own name, for one device where it takes one; error 0 takes that back."""
        self._refusals[device, call] = error
        self._write()

    # --- who uses the GPUs --------------------------------------------------------------------------------------------

    def process(self, device: int, pid: int, used_bytes: int | None) -> None:
        """A process has memory on the device; None: the driver does not tell how much."""
        self._processes.append(f"process {device} {pid} {_bytes(used_bytes)}")
        self._write()

    def process_env(self, device: int, name: str, part: str, used_bytes: int | None) -> None:
        """Every process of this user that has such a variable in its environment has memory on the device."""
        self._processes.append(f"process-env {device} {name}={part} {_bytes(used_bytes)}")
        self._write()

    def engines_hold(self, used_bytes: int | None) -> None:
        """Every process whose CUDA_VISIBLE_DEVICES names a device's UUID has memory on that device."""
        for card in self.cards:
            self.process_env(card.id, "CUDA_VISIBLE_DEVICES", card.uuid, used_bytes)

    def no_processes(self) -> None:
        """Take back all that was said about processes."""
        self._processes.clear()
        self._write()

    def _write(self) -> None:
        lines = [f"init {self._init}", f"hang {self._hang}", f"loads {self._loads}", f"driver {DRIVER}", f"cuda {CUDA}"]
        lines += [line for card in self.cards for line in card.lines()]
        lines += [*self._processes, *self._xids]
        lines += [f"refuse {device} {call} {error}" for (device, call), error in self._refusals.items()]
        # Replaced as a whole: nobody reads half a machine.
        new = self.state.with_name(f"{self.state.name}.new")
        new.write_text("\n".join([*lines, ""]))
        new.replace(self.state)


def _bytes(used: int | None) -> str:
    return "?" if used is None else str(used)


def _forget_nvml() -> None:
    """Unload NVML and reset the binding's globals: library, functions, number of users."""
    if pynvml.nvmlLib is not None:
        dlclose(pynvml.nvmlLib._handle)  # noqa: SLF001 - there is no other way
    pynvml.nvmlLib = None
    pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 - as nvmlLib
    pynvml._nvmlLib_refcount = 0  # noqa: SLF001 - as nvmlLib
