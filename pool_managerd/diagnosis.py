"""Tells apart why an engine failed: the GPU, the driver, VRAM, host memory, the engine itself.

Decides the cause from everything that was seen around the failure, in this order: a GPU that was lost, a fatal error of
a GPU, the driver, VRAM, host memory, an engine that does not come up or hangs, an engine that ended. The sure thing
comes before the likely one: what the driver or the kernel reports before what the engine printed. An end that nobody
asked for is a failure whatever its status: vLLM exits with 0 after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from types import MappingProxyType

from contracts.base import Message
from contracts.pools import Cause
from pool_managerd.devices import GpuEvent
from pool_managerd.engine_marks import Mark

SIGKILL = 9
SIGNAL_STATUS = 128
"""Shells and container runtimes report the end by signal N as status 128 + N."""


class During(StrEnum):
    """What the engine was doing."""

    START = "start"
    SERVING = "serving"


class Exit(Message, frozen=True, kw_only=True):
    """How an engine ended: with a status of its own, or by a signal; neither where only its parent would know."""

    status: int | None = None
    signal: int | None = None
    oom_killed: bool = False
    """The kernel ended it for want of memory, as a container's runtime tells."""

    @classmethod
    def of(cls, returncode: int) -> Exit:
        """As the standard library counts: negative numbers are signals."""
        return cls(signal=-returncode) if returncode < 0 else cls(status=returncode)

    @property
    def killed(self) -> bool:
        """By SIGKILL, which is also what the kernel sends for want of memory."""
        return self.signal == SIGKILL or self.status == SIGNAL_STATUS + SIGKILL

    def __str__(self) -> str:
        if self.signal is not None:
            return f"was ended by {_signal_name(self.signal)}"
        if self.status is None:
            return "has ended"
        if self.status > SIGNAL_STATUS:
            return f"exited with status {self.status}, which stands for {_signal_name(self.status - SIGNAL_STATUS)}"
        return f"exited with status {self.status}"


_SIGNALS = MappingProxyType(
    {
        1: "HUP",
        2: "INT",
        3: "QUIT",
        4: "ILL",
        6: "ABRT",
        7: "BUS",
        8: "FPE",
        9: "KILL",
        11: "SEGV",
        13: "PIPE",
        15: "TERM",
    }
)
"""Those by which programs end, as Linux numbers them."""


def _signal_name(number: int) -> str:
    return f"SIG{_SIGNALS[number]}" if number in _SIGNALS else f"signal {number}"


class Evidence(Message, frozen=True, kw_only=True):
    """What was seen around a failure. ``exit`` is that of the process that was started, None while it runs."""

    during: During
    exit: Exit | None = None
    marks: frozenset[Mark] = frozenset()
    """What the engine printed since its start, as ``engine_marks`` reads it."""
    oom_kills_delta: int | None = None
    """How many processes of its control group or container the kernel ended for want of memory; None: not known."""
    gpu_events: tuple[GpuEvent, ...] = ()
    """What happened to GPUs of its mask since its start."""
    driver_problem: str | None = None
    """Why the driver does not answer, if it does not."""
    health: str | None = None
    """Why the engine is not, or no longer, found healthy, if that is what failed."""
    on_gpu: bool = True
    """Off in the trial profile, where it is no failure that an engine finds no driver and no GPU."""


class Diagnosis(Message, frozen=True, kw_only=True):
    """The cause of a failure in words, and the mend."""

    cause: Cause
    message: str
    hint: str


def diagnose(evidence: Evidence) -> Diagnosis:
    """Why the engine failed."""
    return (
        _gpu(evidence)
        or _driver(evidence)
        or _memory(evidence)
        or _unhealthy(evidence)
        or _start_refused(evidence)
        or _ended(evidence)
    )


def _gpu(evidence: Evidence) -> Diagnosis | None:
    fatal = [event for event in evidence.gpu_events if event.fatal]
    for cause in (Cause.GPU_LOST, Cause.GPU_ERROR):
        for event in fatal:
            if event.cause is cause:
                return Diagnosis(cause=cause, message=event.message, hint=event.hint)
        mark = Mark.GPU_LOST if cause is Cause.GPU_LOST else Mark.ECC
        if mark in evidence.marks:
            return _by_mark(mark, evidence)
    return None


def _driver(evidence: Evidence) -> Diagnosis | None:
    if not evidence.on_gpu:
        return None
    if found := _first(evidence, (Mark.DRIVER, Mark.NO_KERNEL)):
        return found
    if evidence.driver_problem is not None:
        message = f"the NVIDIA driver does not answer any more: {evidence.driver_problem}"
        return Diagnosis(cause=Cause.DRIVER, message=message, hint=_DRIVER_HINT)
    return _first(evidence, (Mark.NO_DEVICE,))


def _memory(evidence: Evidence) -> Diagnosis | None:
    kills = evidence.oom_kills_delta or 0
    by_kernel = kills > 0 and evidence.exit is not None and evidence.exit.killed
    # VRAM that runs out ends no process by SIGKILL: what the engine printed of it then was overcome.
    if not by_kernel and (found := _first(evidence, (Mark.VRAM_OOM, Mark.VRAM_SHORT))):
        return found
    if kills > 0:
        how = "the engine" if by_kernel else f"{kills} of the engine's processes"
        message = f"the host ran out of memory {_while(evidence)}, and the kernel ended {how}"
        return Diagnosis(cause=Cause.HOST_OOM, message=message, hint=_HOST_OOM_HINT)
    return _first(evidence, (Mark.HOST_OOM,))


def _unhealthy(evidence: Evidence) -> Diagnosis | None:
    if evidence.health is None:
        return None
    why = _aside(evidence)
    if evidence.during is During.START:
        message = f"the engine did not come up in time: {evidence.health}{why}"
        hint = "look into its log; where it was still loading, raise timeouts.start_ms of the pool"
        return Diagnosis(cause=Cause.START_TIMEOUT, message=message, hint=hint)
    message = f"the engine serves no more: {evidence.health}{why}"
    hint = "it is started again; if it comes back, look into the engine's log and update the engine"
    return Diagnosis(cause=Cause.ENGINE_UNHEALTHY, message=message, hint=hint)


def _start_refused(evidence: Evidence) -> Diagnosis | None:
    """What makes an engine end at its start, however often it is tried."""
    if evidence.during is During.SERVING:
        return None
    return _first(evidence, (Mark.BAD_FLAG, Mark.LIBRARY, Mark.BAD_MODEL, Mark.PORT_TAKEN))


def _ended(evidence: Evidence) -> Diagnosis:
    if found := _first(evidence, (Mark.GPU_FAULT, Mark.NCCL)):
        return found
    how = str(evidence.exit) if evidence.exit is not None else "failed without a word"
    message = f"the engine {how} {_while(evidence)}, and nobody asked it to{_aside(evidence)}"
    if evidence.exit is not None and evidence.exit.killed:
        hint = "somebody sent it SIGKILL: another user, a limit of the system, or the kernel (journalctl -k)"
    elif Mark.MODEL_FAILED in evidence.marks:
        hint = "it could not load its model: its last lines say why"
    else:
        hint = "its last lines say more; if it comes back, update the engine, or report it to its project"
    return Diagnosis(cause=Cause.ENGINE_EXIT, message=message, hint=hint)


# --- words ------------------------------------------------------------------------------------------------------------

_DRIVER_HINT = "nvidia-smi says more; after an update of the driver the machine must restart"
_HOST_OOM_HINT = (
    "end other programs or add memory; keep less of the model off the GPUs (--n-cpu-moe, --n-gpu-layers), lower ctx "
    "and slots, or use a smaller model"
)
_VRAM_HINT = (
    "lower ctx or slots, keep the KV cache in fewer bits, use a smaller quantization or give the pool another GPU; "
    "nvidia-smi shows what else uses this one"
)
_WORDS: MappingProxyType[Mark, tuple[Cause, str, str]] = MappingProxyType(
    {
        Mark.GPU_LOST: (
            Cause.GPU_LOST,
            "the engine lost its GPU {during}: it fell off the bus",
            "reboot; if it comes back, check the card's power, seat, riser and temperature",
        ),
        Mark.ECC: (
            Cause.GPU_ERROR,
            "the GPU reported an uncorrectable memory or link error {during}",
            "nvidia-smi -q -d ECC,ROW_REMAPPER shows it; reset the GPU or reboot; replace a card that does it again",
        ),
        Mark.DRIVER: (
            Cause.DRIVER,
            "the engine cannot use the NVIDIA driver: it does not work, or is too old for the engine's CUDA",
            "update the driver (nvidia-smi shows which CUDA it knows) and reboot, or use an engine for an older CUDA",
        ),
        Mark.NO_KERNEL: (
            Cause.DRIVER,
            "the engine was not built for this GPU: it has no code for its compute capability",
            "build it for this GPU (provisioning mode source does), or use a version for GPUs of this generation",
        ),
        Mark.NO_DEVICE: (
            Cause.NO_GPU,
            "the engine sees no GPU",
            "nvidia-smi must list the pool's devices; a container's runtime must hand them over (llama-orch doctor)",
        ),
        Mark.VRAM_OOM: (Cause.VRAM_OOM, "the engine ran out of VRAM {during}", _VRAM_HINT),
        Mark.VRAM_SHORT: (
            Cause.VRAM_SHORT,
            "the engine refused to start: the VRAM that it may use does not hold the model and its KV cache",
            f"let it use more (--gpu-memory-utilization), or {_VRAM_HINT}",
        ),
        Mark.HOST_OOM: (Cause.HOST_OOM, "the engine could not get host memory {during}", _HOST_OOM_HINT),
        Mark.GPU_FAULT: (
            Cause.ENGINE_EXIT,
            "the engine did on the GPU what it must not, and ended {during}",
            "it is started again; if it comes back, update the engine and the driver, and report it to its project",
        ),
        Mark.BAD_FLAG: (
            Cause.ENGINE_FLAGS,
            "the engine does not take one of its arguments",
            "its last lines name it: correct pools[].flags, or use an engine that has it, and start again",
        ),
        Mark.LIBRARY: (
            Cause.ENGINE_EXIT,
            "the engine lacks a shared library",
            "its last lines name it: install it, or have the engine built here (provisioning mode source)",
        ),
        Mark.BAD_MODEL: (
            Cause.MODEL_INVALID,
            "the engine cannot load this model: it does not know its architecture, or finds it damaged",
            "use a newer version of the engine, or get the model again",
        ),
        Mark.PORT_TAKEN: (
            Cause.ENGINE_EXIT,
            "another program has the port that the engine was given",
            "it is started again, on another port",
        ),
        Mark.NCCL: (
            Cause.ENGINE_EXIT,
            "the engine's processes on its GPUs could not talk to each other",
            "its log says more (env: {NCCL_DEBUG: INFO}); in a container it needs shared memory (shm)",
        ),
    }
)


def _first(evidence: Evidence, marks: Iterable[Mark]) -> Diagnosis | None:
    return next((_by_mark(mark, evidence) for mark in marks if mark in evidence.marks), None)


def _by_mark(mark: Mark, evidence: Evidence) -> Diagnosis:
    cause, message, hint = _WORDS[mark]
    return Diagnosis(cause=cause, message=message.replace("{during}", _while(evidence)), hint=hint)


def _while(evidence: Evidence) -> str:
    return "while it started" if evidence.during is During.START else "while it served"


def _aside(evidence: Evidence) -> str:
    """What else was seen, that by itself is no cause."""
    seen = [event.message for event in evidence.gpu_events if not event.fatal]
    if Mark.WORKER_DIED in evidence.marks:
        seen.append("one of its processes died")
    return f" ({'; '.join(seen)})" if seen else ""
