"""What a token of context costs in the KV cache, from what a model says of its layers.

Decides how many elements a token leaves behind in layers that remember everything and in layers with a sliding window.
Never decides how wide an element is or how many tokens there are: that is the engine's and the pool's.
"""

from __future__ import annotations

from typing import TypeVar

from contracts.base import Message
from contracts.engines import KvLayout

_T = TypeVar("_T", int, bool)

MAX_LAYERS = 4096
"""Nobody's model has more; a number beyond it is not looped over."""


class Layers(Message, frozen=True, kw_only=True):
    """The layers of a model. A tuple by layer may be shorter than ``count`` says: its last element then repeats.

    ``kv_heads`` of 0 means a layer without attention. ``windowed`` is empty where no layer has a sliding window.
    ``key`` and ``value`` are elements for each head; a ``value`` of 0 is right where keys and values are stored as one
    (multi-head latent attention).
    """

    count: int
    kv_heads: tuple[int, ...]
    key: int
    value: int
    window: int = 0
    windowed: tuple[bool, ...] = ()
    windowed_key: int | None = None
    """Where windowed layers have heads of another size."""
    windowed_value: int | None = None
    shared: int = 0
    """So many layers at the end use the cache of earlier ones."""
    state: int = 0
    """Elements of recurrent state of one recurrent layer."""
    recurrent: tuple[bool, ...] = ()
    """Which layers have one; empty with a ``state``: those without attention, else all of them."""


def layout(layers: Layers) -> KvLayout | None:
    """The sums over the layers; None where there are no layers, or too many to be true."""
    if not 0 < layers.count <= MAX_LAYERS or not layers.kv_heads:
        return None
    heads = _by_layer(layers.kv_heads, layers.count)
    windowed = _by_layer(layers.windowed or (False,), layers.count) if layers.window else (False,) * layers.count
    recurrent = _recurrent(layers, heads)
    own = range(max(layers.count - layers.shared, 0))
    # A layer that is recurrent as well as attentive (both, side by side) has both.
    attentive = [n for n in own if heads[n] and not (layers.recurrent and recurrent[n])]
    full = sum(heads[n] for n in attentive if not windowed[n])
    short = sum(heads[n] for n in attentive if windowed[n])
    windowed_key = layers.key if layers.windowed_key is None else layers.windowed_key
    windowed_value = layers.value if layers.windowed_value is None else layers.windowed_value
    return KvLayout(
        key=full * layers.key,
        value=full * layers.value,
        windowed_key=short * windowed_key,
        windowed_value=short * windowed_value,
        window=layers.window if short else 0,
        state=layers.state * sum(recurrent),
    )


def every(period: int, count: int, *, first: bool = False) -> tuple[bool, ...]:
    """True for all of ``count`` layers but each ``period``-th, which comes last in its group, or ``first``."""
    if period <= 0 or not 0 < count <= MAX_LAYERS:
        return ()
    odd_one = 0 if first else period - 1
    return tuple(number % period != odd_one for number in range(count))


def _recurrent(layers: Layers, heads: tuple[int, ...]) -> tuple[bool, ...]:
    if not layers.state:
        return (False,) * layers.count
    if layers.recurrent:
        return _by_layer(layers.recurrent, layers.count)
    without = tuple(not each for each in heads)
    return without if any(without) else (True,) * layers.count


def _by_layer(values: tuple[_T, ...], count: int) -> tuple[_T, ...]:
    return values[:count] + values[-1:] * (count - len(values))
