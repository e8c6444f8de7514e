"""Networks whose layers share a pass: a subclass for each class of network, whose call is such a pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from flax import nnx
from jax import Array

from ruledsl.errors import UserError
from ruledsl_jax.modules import rule_layers
from ruledsl_jax.passing import ZERO, Passing, passing

MARK = "shares its passes"


@cache
def guided(base: type[nnx.Module]) -> Any:
    """A subclass of `base` whose zeros for the errors at the output are added to its logits [batch, classes]."""
    plain: Callable[..., Any] = base.__call__

    def call(self: Any, *args: Any, **options: Any) -> Any:
        record = self.ruledsl
        with passing(record.rule, record.passes_as, record.travels) as own:
            logits = plain(self, *args, **options)
        _gather(self, own)
        if own.output is None:
            return logits
        if not isinstance(logits, Array) or logits.shape != own.output.shape:
            shape = list(logits.shape) if isinstance(logits, Array) else type(logits).__name__
            raise UserError(
                f"the network's output is {shape}, where logits {list(own.output.shape)} were expected",
                "give convert an example= of the input, from which it learns the number of classes",
            )
        return logits + own.output.astype(logits.dtype)

    members = {"__call__": call, "__module__": base.__module__, "__doc__": base.__doc__, MARK: True}
    return type(base.__name__, (base,), members)


def is_guided(kind: type) -> bool:
    """Whether it is such a subclass."""
    return MARK in vars(kind)


def _gather(net: nnx.Module, own: Passing) -> None:
    """Take up the zeros that came out of transformations inside the pass; of stacked layers, those of all."""
    for _, layer in rule_layers(net):
        holder = vars(layer).get(ZERO)
        if holder is not None:
            zero = holder.get_value()
            delattr(layer, ZERO)
            own.to_output(layer, zero.sum(tuple(range(zero.ndim - 2))))
