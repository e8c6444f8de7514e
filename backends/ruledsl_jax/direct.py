"""Networks whose layers read `e`: the layers' zeros are added to the output, so that e arrives as their gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from flax import nnx
from jax import Array

from ruledsl.errors import UserError
from ruledsl_jax.modules import take_zeros


@cache
def directed(base: type[nnx.Module]) -> Any:
    """A subclass of `base` that adds the zeros of its layers to its output [batch, classes]: their gradient is e."""
    plain: Callable[..., Any] = base.__call__

    def call(self: Any, *args: Any, **options: Any) -> Any:
        logits = plain(self, *args, **options)
        zeros = take_zeros(self)
        if not isinstance(logits, Array) or logits.shape != zeros.shape:
            shape = list(logits.shape) if isinstance(logits, Array) else type(logits).__name__
            raise UserError(
                f"the network's output is {shape}, where logits {list(zeros.shape)} were expected",
                "give convert an example= of the input, from which it learns the number of classes",
            )
        return logits + zeros.astype(logits.dtype)

    return type(base.__name__, (base,), {"__call__": call, "__module__": base.__module__, "__doc__": base.__doc__})
