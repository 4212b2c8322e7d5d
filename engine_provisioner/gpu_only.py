"""What a flag of llama-server does to the promise of profile home: it computes on GPUs, and on nothing else.

Decides about every flag that places weights or work. What would leave layers to the CPU is refused. What an operator
asks for by its name and llama-server documents as such (experts, KV cache or a projector in host memory) is allowed,
and said at every preparation: it is never silent. Numbers are read as whole ones or not at all, because llama-server
takes ``0.9`` for 0 and ``12x`` for 12. How many layers a model has is not known here: ``pool_managerd.vram`` judges the
number. Never looks at an engine or a model.
"""

from __future__ import annotations

import re

import msgspec

ALL_LAYERS = "999"
"""More than any model has. ``-1``, ``all`` and ``auto`` do not mean the same to every llama-server; this does."""

_ALL = frozenset({"-1", "all", "auto"})
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}")
_GPUS = re.compile(r"CUDA[0-9]+(,CUDA[0-9]+)*")
_BUFFERS = re.compile(r"[^=,]+=CUDA[0-9]+(,[^=,]+=CUDA[0-9]+)*")
_GPU_ONLY = "profile home is GPU only"
_REMOVE = "remove it, or give it a value that uses the pool's GPUs"
_SLOWER = "as configured, and slower; remove it where it is not meant"

_MAY_STAY = {
    "--cpu-moe": "the experts of every layer stay in host memory and compute on the CPU",
    "--cpu-moe-draft": "the draft model's experts stay in host memory and compute on the CPU",
    "--no-kv-offload": "the KV cache stays in host memory, and attention computes on the CPU",
    "--no-op-offload": "what stays in host memory is computed on the CPU, large batches too",
    "--no-mmproj-offload": "the multimodal projector computes on the CPU",
}


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """``value`` is the flag's, in the one spelling that every llama-server reads alike."""

    value: str | None
    message: str = ""
    """What is to be said about it; empty where there is nothing."""
    hint: str = ""
    refused: bool = False


def judge(spelled: str, value: str | None) -> Judgement:
    """What a flag in its own spelling, with its value, means in profile home."""
    text = (value or "").strip()
    match spelled:
        case "--n-gpu-layers" | "--n-gpu-layers-draft":
            return _layers(spelled, text)
        case "--device" | "--device-draft":
            good = _GPUS.fullmatch(text) is not None
            return Judgement(value=text) if good else _refused(spelled, value, _REMOVE)
        case "--main-gpu":
            # Below 0 is llama-server's way to use none.
            number = whole(text)
            good = number is not None and number >= 0
            return Judgement(value=str(number)) if good else _refused(spelled, value, _REMOVE)
        case "--override-tensor" | "--override-tensor-draft":
            mend = "remove it, or let it name CUDA<n> alone; --cpu-moe or --n-cpu-moe keeps experts in host memory"
            return Judgement(value=text) if _BUFFERS.fullmatch(text) else _refused(spelled, value, mend)
        case "--n-cpu-ffn":
            return Judgement(value="0") if whole(text) == 0 else _refused(spelled, value, "remove it")
        case "--rpc":
            return _refused(spelled, value, "remove it: a pool computes on its own devices", "elsewhere")
        case "--n-cpu-moe" | "--n-cpu-moe-draft":
            return _experts(spelled, text)
        case "--mmproj-device":
            if text == "none":
                return _allowed(value, f"{spelled} none: {_MAY_STAY['--no-mmproj-offload']}")
            return Judgement(value=text) if _GPUS.fullmatch(text) else _refused(spelled, value, _REMOVE)
        case _:
            what = _MAY_STAY.get(spelled)
            return _allowed(value, f"{spelled}: {what}") if what else Judgement(value=value)


def whole(text: str) -> int | None:
    """The whole number that a text is, in ASCII digits; None where it is none, or one that no engine can hold."""
    text = text.strip()
    return int(text) if _WHOLE.fullmatch(text) else None


def _layers(spelled: str, text: str) -> Judgement:
    if text in _ALL:
        return Judgement(value=ALL_LAYERS)
    number = whole(text)
    if number is None:
        return _no_number(spelled, text, "remove it: every layer goes to the GPUs")
    if number <= 0:
        return _refused(spelled, str(number), _REMOVE)
    if spelled == "--n-gpu-layers-draft" and number < int(ALL_LAYERS):
        message = f"{spelled} {number}: what the draft model has beyond that computes on the CPU"
        return _allowed(str(number), message)
    return Judgement(value=str(number))


def _experts(spelled: str, text: str) -> Judgement:
    number = whole(text)
    if number is None or number < 0:
        return _no_number(spelled, text, "give it the number of layers whose experts stay in host memory")
    whose = "the draft model's" if spelled.endswith("-draft") else "the model's"
    message = f"{spelled} {number}: experts of {whose} first {number} layers stay in host memory and compute on the CPU"
    return _allowed(str(number), message) if number else Judgement(value="0")


def _allowed(value: str | None, message: str) -> Judgement:
    return Judgement(value=value, message=message, hint=_SLOWER)


def _refused(spelled: str, value: str | None, hint: str, where: str = "on the CPU") -> Judgement:
    said = spelled if value is None else f"{spelled} {value or repr(value)}"
    message = f"{said} would compute {where}, and {_GPU_ONLY}"
    return Judgement(value=value, message=message, hint=hint, refused=True)


def _no_number(spelled: str, text: str, hint: str) -> Judgement:
    message = f"{spelled} {text!r} is no whole number of layers, and llama-server would make one of it"
    return Judgement(value=text, message=message, hint=hint, refused=True)
