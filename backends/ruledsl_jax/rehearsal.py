"""One batch through a copy of a network before it is converted, which leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx
from jax import Array

from ruledsl_jax import linear
from ruledsl_jax.modules import KINDS


@dataclass(frozen=True)
class Seen:
    """What a layer met: the size of its images, if any; `classes` of the network's output [batch, classes]."""

    input_size: linear.Pair | None
    classes: int | None


def rehearse(net: nnx.Module, example: Array) -> dict[str, Seen]:
    """What every layer meets, in the order in which they run first; on a copy, which leaves no trace."""
    copy = nnx.clone(net)
    met: dict[str, linear.Pair | None] = {}
    for name, module in list(modules_of(copy, (), set())):
        if type(module) in KINDS:
            module.__class__ = _watched(type(module), name, met)
    copy.eval()  # type: ignore[no-untyped-call]
    logits = copy(example)
    classes = logits.shape[1] if isinstance(logits, Array) and logits.ndim == 2 else None
    return {name: Seen(size, classes) for name, size in met.items()}


def _watched(kind: Any, name: str, met: dict[str, linear.Pair | None]) -> Any:
    def call(self: Any, inputs: Array, *args: Any, **options: Any) -> Any:
        met.setdefault(name, (inputs.shape[-3], inputs.shape[-2]) if kind is nnx.Conv else None)
        return kind.__call__(self, inputs, *args, **options)

    return type(kind.__name__, (kind,), {"__call__": call})


def modules_of(value: Any, path: tuple[str, ...], met: set[int]) -> Iterator[tuple[str, nnx.Module]]:
    """Every module once, in the order in which the attributes were made (NNX itself goes by the alphabet)."""
    if id(value) in met:
        return
    met.add(id(value))
    inside: dict[Any, Any]
    if isinstance(value, nnx.Module):
        yield ".".join(path), value
        inside = {name: part for name, part in vars(value).items() if not name.startswith("_pytree__")}
    elif isinstance(value, Mapping):
        inside = dict(value)
    elif isinstance(value, list | tuple):
        inside = dict(enumerate(value))
    else:
        return
    for name, part in inside.items():
        yield from modules_of(part, (*path, str(name)), met)
