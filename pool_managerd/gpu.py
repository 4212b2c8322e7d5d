"""Asks NVML which GPUs there are, how full and busy they are, which processes use them, and what went wrong with them.

Decides nothing. A machine without a driver is a value that says so, never an exception; so is a driver that goes away,
and a GPU that falls off the bus hides no other. The calls block for milliseconds (a sleeping GPU: a second): callers
use a thread. A driver that hangs holds up none of them for longer than ``ANSWER_S``.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

import pynvml

from contracts.pools import Cause, Gpu
from engine_provisioner.gpu_faults import OF_THE_DRIVER, DriverFault, LostGpu, driver_fault, label, no_answer
from engine_provisioner.nvml import Handle, Identity, ask_each, survey, told
from pool_managerd.devices import DeviceProcess, EventKind, GpuEvent, Inventory, Untold, settle
from pool_managerd.xid import explain

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

ANSWER_S = 15.0
"""How long the driver may take over a question: it wakes GPUs that sleep."""
MOST_EVENTS = 256
"""As many are taken from the driver at a time: a GPU that fails may report without end."""


class Gpus(Protocol):
    """What pool-managerd needs to know of GPUs. Every call may block; none raises."""

    def inventory(self) -> Inventory:
        """The GPUs with their memory and utilization right now, and those that are lost, or why none can be listed."""

    def processes(self) -> tuple[DeviceProcess | Untold, ...]:
        """Who has memory on which GPU; ``Untold`` for each GPU where that cannot be told."""

    def events(self) -> tuple[GpuEvent, ...]:
        """What happened to GPUs since the last call: Xids, new uncorrectable memory errors, GPUs that were lost."""


class NvmlGpus:
    """The GPUs as the NVIDIA driver sees them."""

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        self._driver = _DriverThread(answer_s)
        self._ready = False
        self._known: dict[str, Gpu] = {}
        self._labels: dict[str, str] = {}
        self._lost: frozenset[str] = frozenset()
        self._uncorrectable: dict[str, int] = {}
        self._xids = _XidListener()
        self._happened: deque[GpuEvent] = deque()
        self._logged: set[type[Exception]] = set()

    def inventory(self) -> Inventory:
        """See ``Gpus``."""
        found = self._ask(self._survey)
        if isinstance(found, DriverFault):
            return Inventory(problem=found.message, hint=found.hint, cause=found.cause)
        return found

    def processes(self) -> tuple[DeviceProcess | Untold, ...]:
        """See ``Gpus``."""
        found = self._ask(self._processes)
        return (Untold(message=found.message, hint=found.hint),) if isinstance(found, DriverFault) else found

    def events(self) -> tuple[GpuEvent, ...]:
        """See ``Gpus``. The first call only begins to listen, and tells which known GPUs are lost."""
        self._ask(self._look)  # inventory() says what is wrong with the driver
        # What a look found that was given up on is told with the next: a GPU that hangs reports its Xid at the end.
        return tuple(self._happened.popleft() for _ in range(len(self._happened)))

    def close(self) -> None:
        """Let go of the driver."""
        with contextlib.suppress(TimeoutError):
            self._driver.ask(self._disconnect)
        self._driver.close()

    # --- the connection -----------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[], _T]) -> _T | DriverFault:
        """Ask, connected to the driver; after a failure the next question connects anew."""
        try:
            return self._driver.ask(partial(self._connected, question))
        except TimeoutError:
            return no_answer(self._driver.answer_s)
        except Exception as error:  # noqa: BLE001 - a GPU that fails may answer anything; what is no answer is a fault
            return self._unexpected(error)

    def _connected(self, question: Callable[[], _T]) -> _T | DriverFault:
        try:
            if not self._ready:
                pynvml.nvmlInit()
                self._ready = True
            return question()
        except pynvml.NVMLError as error:
            self._disconnect()
            return driver_fault(error.value, str(error))
        except Exception as error:  # noqa: BLE001 - as above
            self._disconnect()
            return self._unexpected(error)

    def _unexpected(self, error: Exception) -> DriverFault:
        """Of a library that is broken, or of an answer that nobody can read, as a GPU's name that is no text."""
        text = f"{type(error).__name__}: {error}"
        if type(error) not in self._logged:
            self._logged.add(type(error))
            _log.error("the NVIDIA driver cannot be asked: %s", text, exc_info=error)
        message = f"the NVIDIA driver answers what cannot be understood: {text}"
        hint = "nvidia-smi -q shows which GPU it is; reboot, and if it happens again look for this error in the log"
        return DriverFault(cause=Cause.DRIVER, message=message, hint=hint)

    def _disconnect(self) -> None:
        if self._ready:
            self._ready = False
            _quietly(self._hear)  # with the connection goes what the driver has reported and nobody has taken
            self._xids.close()
            _quietly(pynvml.nvmlShutdown)

    # --- the questions; each may raise, NVMLError where the driver as a whole fails -----------------------------------

    def _survey(self) -> Inventory:
        seen = survey()
        inventory = settle(seen.gpus, seen.lost, self._known)
        lost = {each.uuid for each in inventory.lost}
        kept = {uuid: gpu for uuid, gpu in self._known.items() if uuid in lost}
        self._known = kept | {gpu.uuid: gpu for gpu in inventory.gpus}
        self._labels |= {each.uuid: label(each.index, each.name, each.uuid) for each in inventory.all if each.uuid}
        return inventory

    def _processes(self) -> tuple[DeviceProcess | Untold, ...]:
        found: list[DeviceProcess | Untold] = []
        lost: dict[str, LostGpu] = {}
        for answer in ask_each(_processes_on):
            if not isinstance(answer, LostGpu):
                found += answer
            elif answer.uuid is not None:
                lost[answer.uuid] = answer
        # A lost GPU seldom says who it is, and may not even be counted: who is missing, the whole machine shows.
        others = [each for each in self._survey().lost if each.uuid not in lost]
        return (
            *found,
            *(Untold(uuid=each.uuid, message=each.message, hint=each.hint) for each in (*lost.values(), *others)),
        )

    def _look(self) -> None:
        """Each thing that happened is kept as it is found: the driver tells it once, and the next question may fail."""
        inventory = self._survey()
        handles: dict[str, Handle] = {}
        for answer in ask_each(_uncorrectable):
            if isinstance(answer, LostGpu):
                continue
            uuid, handle, count = answer
            handles[uuid] = handle
            self._happened.extend(self._new_errors(uuid, count))
        self._hear()
        for each in inventory.lost:
            if each.uuid is not None and each.uuid not in self._lost:
                event = GpuEvent(uuid=each.uuid, kind=EventKind.LOST, message=each.message, hint=each.hint)
                self._happened.append(event)
        self._lost = frozenset(each.uuid for each in inventory.lost if each.uuid is not None)
        self._xids.listen(handles)

    def _hear(self) -> None:
        for uuid, number in self._xids.take():
            self._happened.append(_xid_event(uuid, self._labels.get(uuid, uuid), number))

    def _new_errors(self, uuid: str, count: int | None) -> Iterator[GpuEvent]:
        if count is None:
            return
        before = self._uncorrectable.get(uuid, count)
        self._uncorrectable[uuid] = count
        if count <= before:  # a driver that starts again counts from 0
            return
        new = count - before
        name = self._labels.get(uuid, uuid)
        errors = "1 new uncorrectable memory error" if new == 1 else f"{new} new uncorrectable memory errors"
        yield GpuEvent(uuid=uuid, kind=EventKind.ECC, number=new, message=f"{name} has {errors}", hint=explain(48).hint)


class _DriverThread:
    """One thread for every call into the driver, which may hang: then no other thread hangs with it.

    It does not keep the program from ending, which the threads of an executor do.
    """

    def __init__(self, answer_s: float) -> None:
        self.answer_s = answer_s
        self._questions: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def ask(self, question: Callable[[], _T]) -> _T:
        """The answer, after those to the questions before it. Raises TimeoutError where none comes in time."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._answer, name="nvml", daemon=True)
                self._thread.start()
        answer: Future[_T] = Future()
        self._questions.put((answer, question))
        try:
            return answer.result(self.answer_s)
        except TimeoutError:
            answer.cancel()  # nobody waits for it any more
            raise

    def close(self) -> None:
        """End the thread, unless it hangs."""
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._questions.put(None)
            thread.join(self.answer_s)

    def _answer(self) -> None:
        while (asked := self._questions.get()) is not None:
            answer, question = asked
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(question())
            except BaseException as error:  # noqa: BLE001 - it is raised where the question was asked
                answer.set_exception(error)


class _XidListener:
    """An event set of the driver for each GPU that reports Xids: one that fails silences no other."""

    def __init__(self) -> None:
        self._sets: dict[str, tuple[int | None, Handle | None]] = {}
        """By UUID: the address of the driver's handle, and the set; None where Xids are not reported."""

    def listen(self, handles: dict[str, Handle]) -> None:
        """Hear of these GPUs (by UUID), and of no other."""
        addresses = {uuid: ctypes.cast(handle, ctypes.c_void_p).value for uuid, handle in handles.items()}
        for uuid, (address, _) in tuple(self._sets.items()):
            if addresses.get(uuid) != address:
                self._drop(uuid)
        for uuid, handle in handles.items():
            if uuid not in self._sets:
                self._sets[uuid] = (addresses[uuid], _event_set(handle))

    def take(self) -> Iterator[tuple[str, int]]:
        """The Xids since the last call, as UUID and number, as they come; each pair once."""
        return ((uuid, number) for uuid in tuple(self._sets) for number in self._xids_of(uuid))

    def close(self) -> None:
        """Stop listening."""
        for uuid in tuple(self._sets):
            self._drop(uuid)

    def _xids_of(self, uuid: str) -> Iterator[int]:
        _, events = self._sets[uuid]
        found: set[int] = set()
        for _ in range(MOST_EVENTS if events is not None else 0):
            try:
                event = pynvml.nvmlEventSetWait(events, 0)
            except pynvml.NVMLError_Timeout:
                break
            except pynvml.NVMLError as error:
                if error.value in OF_THE_DRIVER:
                    raise
                self._drop(uuid)
                break
            number = int(event.eventData)
            if event.eventType & pynvml.nvmlEventTypeXidCriticalError and number not in found:
                found.add(number)
                yield number

    def _drop(self, uuid: str) -> None:
        _, events = self._sets.pop(uuid)
        if events is not None:
            _quietly(partial(pynvml.nvmlEventSetFree, events))


def _event_set(handle: Handle) -> Handle | None:
    """A set that gets the Xids of a GPU; None where the GPU or the driver does not report them."""
    try:
        events = pynvml.nvmlEventSetCreate()
    except pynvml.NVMLError:
        return None
    try:
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    except pynvml.NVMLError:
        _quietly(partial(pynvml.nvmlEventSetFree, events))
        return None
    return events


def _processes_on(handle: Handle, identity: Identity) -> tuple[DeviceProcess | Untold, ...]:
    try:
        processes = _running(handle)
    except pynvml.NVMLError as error:
        if error.value in OF_THE_DRIVER or error.value in _NOT_THERE:
            raise
        name = label(identity.index, identity.name, identity.uuid)
        message = f"{name} does not tell which processes use it: {error}"
        hint = "nvidia-smi shows whether it tells root; a driver that never does cannot prove that an engine is on it"
        return (Untold(uuid=identity.uuid, message=message, hint=hint),)
    return tuple(
        DeviceProcess(
            uuid=identity.uuid,
            pid=int(process.pid),
            used_bytes=None if process.usedGpuMemory is None else int(process.usedGpuMemory),
        )
        for process in processes
    )


_NOT_THERE = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED})


def _running(handle: Handle) -> list[Handle]:
    try:
        return list(pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle))
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 510
        return list(pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle))


def _uncorrectable(handle: Handle, identity: Identity) -> tuple[str, Handle, int | None]:
    """A GPU with the uncorrectable memory errors since its driver started; None where it does not count them."""
    count = told(
        lambda device: pynvml.nvmlDeviceGetTotalEccErrors(
            device, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        ),
        handle,
    )
    return identity.uuid, handle, None if count is None else int(count)


def _xid_event(uuid: str, name: str, number: int) -> GpuEvent:
    xid = explain(number)
    message = f"{name} reports Xid {number}: {xid.meaning}"
    return GpuEvent(uuid=uuid, kind=EventKind.XID, number=number, fatal=xid.fatal, message=message, hint=xid.hint)


def _quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):  # the connection ends anyhow
        call()
